//! A client that reaches a backend through a frontend also asks it itself, from the same port: it is answered by whom it has asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::netns::Netns;

use super::layout::Layout;
use super::pods::{agents, cluster_ips};
use super::site::{Backend, Site};
use crate::scenario::BACKEND_PORT;
use crate::traffic::Transfer;
use crate::wire;

/// Ports of the client: of connections at the same time, one after the other, and of datagrams.
const BOTH: u16 = 41_000;
const AFTER: u16 = 41_001;
const DATAGRAMS: u16 = 41_002;
/// Bytes of each transfer.
const LENGTH: usize = 100_000;

/// Who is asked: a frontend, and its backend itself.
#[derive(Clone, Copy, Debug)]
struct Asked {
    from: IpAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
}

/// Pods on the first node and on another, in both families, as somebody with these addresses asks them.
fn asked(
    site: &Site,
    froms: [IpAddr; 2],
    frontends: impl Fn(Backend) -> [SocketAddr; 2],
) -> impl Iterator<Item = Asked> {
    [Backend::LocalPod, Backend::RemotePod].into_iter().flat_map(move |backend| {
        let (_, ips) = backend.place(&site.cluster);
        let frontends = frontends(backend);
        [0, 1].map(|family| Asked {
            from: froms[family],
            frontend: frontends[family],
            backend: SocketAddr::new(ips[family], BACKEND_PORT),
        })
    })
}

fn open(client: &Netns, (from, port): (IpAddr, u16), to: SocketAddr) -> Transfer {
    Transfer::open(client, (Some(SocketAddr::new(from, port)), to)).unwrap()
}

fn check_connections(client: &Netns, asked: Asked) {
    let Asked { from, frontend, backend } = asked;
    // Both at once: the backend must be able to tell them apart.
    let first = open(client, (from, BOTH), frontend);
    let second = open(client, (from, BOTH), backend);
    let done =
        [second, first].map(|transfer| transfer.complete(LENGTH).context(format!("{asked:?}")).unwrap());
    let seen: BTreeSet<SocketAddr> = done.iter().map(|client| client.seen).collect();
    assert_eq!(seen.len(), 2, "{asked:?}: {done:?}");
    // One after the other: nothing is left of the first.
    open(client, (from, AFTER), frontend).complete(LENGTH).unwrap();
    let second = open(client, (from, AFTER), backend).complete(LENGTH);
    let second = second.with_context(|| format!("{asked:?}, after another")).unwrap();
    assert_eq!(second.seen, SocketAddr::new(from, AFTER), "{asked:?}");
}

fn check_datagrams(client: &Netns, asked: Asked) {
    let socket = client.inside(|| UdpSocket::bind(SocketAddr::new(asked.from, DATAGRAMS))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    for turn in 0..3_u8 {
        for to in [asked.frontend, asked.backend] {
            ask(&socket, to, turn).with_context(|| format!("{asked:?}, turn {turn}, {to}")).unwrap();
        }
    }
}

fn ask(socket: &UdpSocket, to: SocketAddr, turn: u8) -> Result<()> {
    socket.send_to(&[turn], to)?;
    let mut answer = [0; 200];
    let (length, from) = socket.recv_from(&mut answer)?;
    ensure!(answer[..length].last() == Some(&turn), "another question was answered");
    ensure!(from == to, "{from} has answered");
    Ok(())
}

#[test]
fn a_client_outside_is_answered_by_whom_it_has_asked() {
    let site = Site::new(Layout::Routed).unwrap();
    // The way back to the client leads by the first node.
    let gateways = site.cluster.node(1).addresses();
    for (range, gateway) in ["172.31.0.0/24", "fd00:172:31::/64"].into_iter().zip(gateways) {
        site.cluster.node(2).netns.add_route(&format!("{range} via {gateway}")).unwrap();
    }
    let _agents = site.agents();
    let node_ports = |backend: Backend| {
        let all = backend.frontends(&site.cluster);
        [all[0], all[1]]
    };
    for asked in asked(&site, wire::clients(), node_ports) {
        check_connections(&site.client, asked);
        check_datagrams(&site.client, asked);
    }
}

/// Pods of a bridge, too: what goes to others passes its device besides their own.
#[test]
fn a_pod_without_hooked_sockets_is_answered_by_whom_it_has_asked() {
    for layout in [Layout::Routed, Layout::Bridge] {
        let site = Site::new(layout).unwrap();
        let _agents = agents(&site);
        let pod = &site.cluster.node(1).pods[0];
        for asked in asked(&site, [pod.v4, pod.v6], cluster_ips) {
            check_connections(&pod.netns, asked);
            check_datagrams(&pod.netns, asked);
        }
    }
}
