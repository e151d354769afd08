//! Devices by their names, looked at once.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::LinkAttribute;

use super::Hooked;

/// Those of these names that are there, in the network namespace of the calling thread, which must run a tokio runtime.
pub async fn named(names: &[String]) -> Result<Vec<Hooked>, rtnetlink::Error> {
    let (answers, handle, _) =
        rtnetlink::new_connection().map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))?;
    let answers = tokio::spawn(answers);
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    answers.abort();
    let mut devices = Vec::new();
    for link in links {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let Some(name) = name.filter(|name| names.contains(name)) else { continue };
        let index = link.header.index;
        let mut device = Hooked { index, name, leads_to_pods: false, v4: None, v6: None };
        let own = addresses.iter().filter(|address| address.header.index == index);
        for address in own.filter(|address| address.header.scope == AddressScope::Universe) {
            for attribute in &address.attributes {
                match attribute {
                    AddressAttribute::Address(IpAddr::V4(v4)) => device.v4 = device.v4.or(Some(*v4)),
                    AddressAttribute::Address(IpAddr::V6(v6)) => device.v6 = device.v6.or(Some(*v6)),
                    _ => {}
                }
            }
        }
        devices.push(device);
    }
    Ok(devices)
}
