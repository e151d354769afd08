//! Settings, addresses and ports of this thread's network namespace.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use proxy_common::addr::Addr;
use proxy_common::names::{self, SCHEMA};
use proxy_common::node::CidrKey;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use zerocopy::IntoBytes;

use crate::check::facts::{Holder, Listener, Network};
use crate::datapath::pin::PinDir;
use crate::health::get;
use crate::sys::map::Map;
use crate::sys::netns::interface_addresses;

/// What `/proxyMode` of kube-proxy can say.
const KUBE_PROXY_MODES: [&str; 3] = ["iptables", "ipvs", "nftables"];

pub(super) fn look(pin_dir: &Path) -> Network {
    let addresses = interface_addresses().map_err(|error| error.to_string());
    let service_addresses = match &addresses {
        Ok(addresses) => in_service_cidrs(pin_dir, addresses).map_err(|error| error.to_string()).transpose(),
        Err(why) => Some(Err(why.clone())),
    };
    Network {
        ipv4_forwarding: sysctl("net/ipv4/ip_forward"),
        ipv6_forwarding: sysctl("net/ipv6/conf/all/forwarding"),
        ipv6_disabled: sysctl("net/ipv6/conf/all/disable_ipv6"),
        unprivileged_bpf_disabled: sysctl("kernel/unprivileged_bpf_disabled"),
        addresses,
        service_addresses,
    }
}

/// A setting of the network namespace, or of the kernel.
pub(super) fn sysctl(key: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(key)).ok().map(|value| value.trim().to_owned())
}

/// Those of `addresses` that pinned maps say are in a ServiceCIDR; `None`: no maps are pinned.
fn in_service_cidrs(
    pin_dir: &Path,
    addresses: &[(String, IpAddr)],
) -> io::Result<Option<Vec<(String, IpAddr)>>> {
    let cidrs = match Map::open_pinned(&PinDir::new(pin_dir, SCHEMA).maps().join(names::CIDRS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome?,
    };
    let mut found = Vec::new();
    for (interface, ip) in addresses {
        if cidrs.lookup(CidrKey { prefix_len: 128, addr: Addr::from(*ip) }.as_bytes())?.is_some() {
            found.push((interface.clone(), *ip));
        }
    }
    Ok(Some(found))
}

/// Who has the address that `flag` names. Only the one that is asked at `metrics` tells who it is.
pub(super) async fn listener(flag: &'static str, address: SocketAddr, metrics: SocketAddr) -> Listener {
    let holder = match try_bind(address) {
        Ok(()) => Holder::Nobody,
        Err(Errno::ADDRINUSE) if address == metrics => match mode_at(metrics).await.as_deref() {
            Some("shunt") => Holder::Agent,
            mode => Holder::Another(mode.filter(|mode| KUBE_PROXY_MODES.contains(mode)).map(str::to_owned)),
        },
        Err(Errno::ADDRINUSE)
            if is_agent_ready_page(address).await && mode_at(metrics).await.as_deref() == Some("shunt") =>
        {
            Holder::Agent
        }
        Err(Errno::ADDRINUSE) => Holder::Another(None),
        Err(error) => Holder::Refused(error.to_string()),
    };
    Listener { flag, address, holder }
}

/// As a server would, but without listening: nobody can connect meanwhile.
fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)
}

async fn mode_at(address: SocketAddr) -> Option<String> {
    let (code, body) = get(address, "/proxyMode").await.ok()?;
    code.is_success().then(|| String::from_utf8_lossy(&body).trim().to_owned())
}

/// kube-proxy has no such page; an agent has it whether it is ready or not.
async fn is_agent_ready_page(address: SocketAddr) -> bool {
    get(address, "/readyz").await.is_ok_and(|(code, _)| [200, 503].contains(&code.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn an_address_is_free_or_taken_or_not_ours_to_have() {
        let taken = TcpListener::bind("127.1.0.9:0").unwrap();
        let address = taken.local_addr().unwrap();
        let silent: SocketAddr = "127.1.0.9:9".parse().unwrap();
        assert_eq!(listener("--healthz-address", address, silent).await.holder, Holder::Another(None));
        drop(taken);
        assert_eq!(listener("--healthz-address", address, silent).await.holder, Holder::Nobody);
        let elsewhere = "192.0.2.1:10256".parse().unwrap();
        let holder = listener("--healthz-address", elsewhere, silent).await.holder;
        assert!(matches!(holder, Holder::Refused(_)), "{holder:?}");
    }
}
