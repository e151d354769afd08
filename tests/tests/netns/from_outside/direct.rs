//! A client that reaches a backend through a frontend also asks it itself, from the same port: it is answered by whom it has asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::netns::Netns;

use super::layout::Layout;
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
/// After which a packet cannot be one that another device of the node has just sent on.
const A_WHILE: Duration = Duration::from_millis(50);

/// Who is asked: a NodePort, and the backend itself.
#[derive(Clone, Copy, Debug)]
struct Asked {
    from: IpAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
}

/// Pods on the node that the client asks and on another, in both families; the way back to the client leads by the first node.
fn site() -> (Site, Vec<Asked>) {
    let site = Site::new(Layout::Routed).unwrap();
    let gateways = site.cluster.node(1).addresses();
    for (range, gateway) in ["172.31.0.0/24", "fd00:172:31::/64"].into_iter().zip(gateways) {
        site.cluster.node(2).netns.add_route(&format!("{range} via {gateway}")).unwrap();
    }
    let all = [Backend::LocalPod, Backend::RemotePod].into_iter().flat_map(|backend| {
        let (_, ips) = backend.place(&site.cluster);
        let frontends = backend.frontends(&site.cluster);
        [0, 1].map(|family| Asked {
            from: wire::clients()[family],
            frontend: frontends[family],
            backend: SocketAddr::new(ips[family], BACKEND_PORT),
        })
    });
    let all = all.collect();
    (site, all)
}

fn open(client: &Netns, (from, port): (IpAddr, u16), to: SocketAddr) -> Transfer {
    Transfer::open(client, (Some(SocketAddr::new(from, port)), to)).unwrap()
}

#[test]
fn connections_of_one_port_are_kept_apart() {
    let (site, all) = site();
    let _agents = site.agents();
    for asked in all {
        let Asked { from, frontend, backend } = asked;
        // Both at once: the backend must be able to tell them apart.
        let first = open(&site.client, (from, BOTH), frontend);
        std::thread::sleep(A_WHILE);
        let second = open(&site.client, (from, BOTH), backend);
        let done =
            [second, first].map(|transfer| transfer.complete(LENGTH).context(format!("{asked:?}")).unwrap());
        let seen: BTreeSet<SocketAddr> = done.iter().map(|client| client.seen).collect();
        assert_eq!(seen.len(), 2, "{asked:?}: {done:?}");
        // One after the other: nothing is left of the first.
        open(&site.client, (from, AFTER), frontend).complete(LENGTH).unwrap();
        let second = open(&site.client, (from, AFTER), backend).complete(LENGTH);
        let second = second.with_context(|| format!("{asked:?}, after another")).unwrap();
        assert_eq!(second.seen, SocketAddr::new(from, AFTER), "{asked:?}");
    }
}

#[test]
fn datagrams_of_one_port_are_answered_by_whom_they_have_asked() {
    let (site, all) = site();
    let _agents = site.agents();
    for asked in all {
        let own = SocketAddr::new(asked.from, DATAGRAMS);
        let socket = site.client.inside(|| UdpSocket::bind(own)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        for turn in 0..3_u8 {
            for to in [asked.frontend, asked.backend] {
                ask(&socket, to, turn).with_context(|| format!("{asked:?}, turn {turn}, {to}")).unwrap();
                std::thread::sleep(A_WHILE);
            }
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
