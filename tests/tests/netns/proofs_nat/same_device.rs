//! Requests leave by the device that they came by: client, node 1 and node 2 are on one link, and the backend is behind
//! node 2 or is node 2. The kernel tells the client of the shorter way, by ICMP redirects.
//!
//! There is no setting against redirects of IPv6. The kernel sends none for a destination behind a router that is known
//! by a global address.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tests::netns::Netns;
use tests::topology::Cluster;

use super::nat::layout::counter;
use super::nat::{Hook, Nat};
use super::{PORT, listening, vips};
use crate::traffic::{Server, Way, exchange};
use crate::witness::{Rules, Witness};

/// Number of the client among the hosts on the switch.
const CLIENT: u8 = 9;
/// Types of the message, by version.
const REDIRECT: u8 = 5;
const ND_REDIRECT: u8 = 137;

/// Where the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    /// A pod behind node 2.
    Pod,
    /// Node 2 itself.
    Host,
}

/// What a redirect says: the destination, and the next hop towards it.
type Redirect = (IpAddr, IpAddr);

struct Scene {
    nat: Nat,
    _server: Server,
    client: Netns,
    clients: [IpAddr; 2],
    backends: [IpAddr; 2],
    cluster: Cluster,
}

impl Scene {
    fn new(backend: Backend, sends_redirects: bool) -> Result<Self> {
        let cluster = Cluster::new(2, 1)?;
        let (node, far) = (cluster.node(1), cluster.node(2));
        let switch = if sends_redirects { "1" } else { "0" };
        node.netns.sysctls(&[
            ("net/ipv4/conf/all/send_redirects", switch),
            ("net/ipv4/conf/eth0/send_redirects", switch),
            ("net/ipv4/conf/all/rp_filter", "1"),
        ])?;
        let client = Netns::create("client")?;
        let clients = cluster.plug(&client, CLIENT)?;
        for (vip, gateway) in vips().into_iter().zip(node.addresses()) {
            client.add_route(&format!("{vip} via {gateway}"))?;
        }
        let pod = cluster.pod(2, 1);
        let (netns, backends) = match backend {
            Backend::Pod => (&pod.netns, [pod.v4, pod.v6]),
            Backend::Host => (&far.netns, far.addresses()),
        };
        let server = Server::start(netns, &listening(backends))?;
        let mut nat = Nat::load()?;
        for (vip, backend) in vips().into_iter().zip(listening(backends)) {
            nat.serve(SocketAddr::new(vip, PORT), backend)?;
        }
        nat.attach(&node.netns, "eth0", &[Hook::Ingress, Hook::Egress])?;
        for own in node.addresses() {
            nat.masquerade(&node.netns, "eth0", own)?;
        }
        Ok(Self { nat, _server: server, client, clients, backends, cluster })
    }

    /// The next hop of the client's packets to the VIPs.
    fn next_hops(&self) -> Result<Vec<String>> {
        let next_hop = |vip| {
            let route = self.client.ip(&format!("route get {vip}"))?;
            let hop = route.split_once(" via ").context(route.clone())?.1;
            Ok(hop.split(' ').next().unwrap_or_default().to_owned())
        };
        vips().into_iter().map(next_hop).collect()
    }
}

/// Sockets that see what ICMP tells a namespace.
struct Listener {
    v4: Socket,
    v6: Socket,
}

impl Listener {
    fn open(netns: &Netns) -> Result<Self> {
        let open = |domain, protocol| -> std::io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let v4 = netns.inside(|| open(Domain::IPV4, Protocol::ICMPV4))??;
        let v6 = netns.inside(|| open(Domain::IPV6, Protocol::ICMPV6))??;
        Ok(Self { v4, v6 })
    }

    /// The redirects since the last call, of IPv4 and of IPv6.
    fn redirects(&self) -> [Vec<Redirect>; 2] {
        [drain(&self.v4, read_v4), drain(&self.v6, read_v6)]
    }
}

fn drain(mut socket: &Socket, read: fn(&[u8]) -> Option<Redirect>) -> Vec<Redirect> {
    let mut found = Vec::new();
    let mut message = [0; 2_000];
    // It ends by an error: nothing is left.
    while let Ok(length) = socket.read(&mut message) {
        found.extend(read(&message[..length]));
    }
    found
}

/// Reads a message that begins with its IP header, as raw sockets of IPv4 give it.
fn read_v4(message: &[u8]) -> Option<Redirect> {
    let icmp = message.get(usize::from(message.first()? & 0xf) * 4..)?;
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(icmp.get(at..at + 4)?).ok()?));
    // The gateway, then the packet that it is about, of which the destination ends the header.
    if icmp.first()? == &REDIRECT { Some((address(8 + 16)?, address(4)?)) } else { None }
}

fn read_v6(icmp: &[u8]) -> Option<Redirect> {
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(icmp.get(at..at + 16)?).ok()?));
    if icmp.first()? == &ND_REDIRECT { Some((address(24)?, address(8)?)) } else { None }
}

fn check(backend: Backend, sends_redirects: bool) -> [Vec<Redirect>; 2] {
    let scene = Scene::new(backend, sends_redirects).unwrap();
    let node = scene.cluster.node(1);
    let witness = Witness::start(&node.netns, Rules::Watch).unwrap();
    let listener = Listener::open(&scene.client).unwrap();
    let before = scene.next_hops().unwrap();
    // The second time the client has had all that there is to be told.
    for _ in 0..2 {
        for (vip, own) in vips().into_iter().zip(node.addresses()) {
            for way in Way::BOTH {
                let seen = exchange(&scene.client, SocketAddr::new(vip, PORT), way).unwrap();
                assert_eq!(seen.seen.ip(), own, "the backend sees the node");
            }
        }
    }
    assert_eq!(scene.next_hops().unwrap(), before, "the client sends to the VIP as it did");
    for (client, backend) in scene.clients.into_iter().zip(scene.backends) {
        witness.told(|flow| flow.is_between(client, backend) && flow.is_replied).unwrap();
    }
    assert_eq!(witness.invalid_forwarded().unwrap(), 0);
    assert_eq!(scene.nat.count(counter::FAILED), 0);
    let redirects = listener.redirects();
    println!("{backend:?}, send_redirects {sends_redirects}: {redirects:?}");
    redirects
}

/// The addresses of node 2.
fn far() -> [IpAddr; 2] {
    [Ipv4Addr::new(172, 30, 0, 2).into(), Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 2).into()]
}

#[test]
fn connections_live_over_redirects_which_name_the_backend_and_never_the_vip() {
    let [v4, v6] = check(Backend::Pod, true);
    assert!(!v4.is_empty());
    let pod: IpAddr = "10.244.2.11".parse().unwrap();
    assert!(v4.iter().all(|told| *told == (pod, far()[0])), "{v4:?}");
    assert_eq!(v6, [], "the next hop has no link-local address that could be told");

    let [v4, v6] = check(Backend::Host, true);
    assert!(!v4.is_empty() && v4.iter().all(|told| *told == (far()[0], far()[0])), "{v4:?}");
    assert!(!v6.is_empty() && v6.iter().all(|told| *told == (far()[1], far()[1])), "{v6:?}");
}

#[test]
fn without_send_redirects_none_is_sent_but_for_neighbours_of_ipv6() {
    assert_eq!(check(Backend::Pod, false), [vec![], vec![]]);
    let [v4, v6] = check(Backend::Host, false);
    assert_eq!(v4, []);
    assert!(!v6.is_empty(), "there is no setting for IPv6");
}
