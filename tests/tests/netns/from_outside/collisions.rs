//! Many clients with one source port, through two frontends to one backend: it must be able to tell them apart.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::traffic::{Client, Transfer};

/// Clients of one family.
const CLIENTS: u8 = 64;
/// The port that all of them send from.
const PORT: u16 = 40_000;
/// Bytes of each transfer; what comes back depends on whom the backend has seen.
const LENGTH: usize = 20_000;

/// Gives the client addresses of its link.
fn clients(site: &Site) -> Result<Vec<IpAddr>> {
    let of = |host: u8| {
        [
            IpAddr::from([172, 31, 0, 100 + host]),
            IpAddr::from([0xfd00, 0x172, 0x31, 0, 0, 0, 1, u16::from(host)]),
        ]
    };
    let all: Vec<IpAddr> = (0..CLIENTS).flat_map(of).collect();
    for address in &all {
        site.client.add_address("eth0", *address, if address.is_ipv4() { 24 } else { 64 })?;
    }
    Ok(all)
}

#[test]
fn clients_with_one_port_are_not_mixed_up_on_their_way_to_one_backend() {
    let site = Site::new(Layout::Routed).unwrap();
    let _agents = site.agents();
    let clients = clients(&site).unwrap();
    for backend in [Backend::LocalPod, Backend::RemotePod] {
        let frontends = backend.frontends(&site.cluster);
        // The load-balancer IP and the external IP, of the client's family.
        let pairs = clients.iter().flat_map(|client| {
            let of_family = frontends[2..].iter().filter(|frontend| frontend.is_ipv4() == client.is_ipv4());
            of_family.map(|frontend| (SocketAddr::new(*client, PORT), *frontend))
        });
        let open: Vec<Transfer> =
            pairs.map(|(from, to)| Transfer::open(&site.client, (Some(from), to)).unwrap()).collect();
        assert_eq!(open.len(), 4 * usize::from(CLIENTS));
        let done: Vec<Client> = open.into_iter().map(|transfer| transfer.complete(LENGTH).unwrap()).collect();
        let seen: BTreeSet<SocketAddr> = done.iter().map(|client| client.seen).collect();
        assert_eq!(seen.len(), done.len(), "the backend has taken two for one: {done:?}");
    }
}
