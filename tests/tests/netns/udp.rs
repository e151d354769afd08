//! UDP sockets, connected and not: which backend gets a datagram, and whom the application sees.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use proxy_common::service::ViewWord;
use tests::hand::{Rig, VIP};

/// Servers that answer their own number, and a rig whose VIP leads to them.
struct Servers {
    rig: Rig,
    sockets: Vec<UdpSocket>,
}

impl Servers {
    fn new(label: &str, count: u8) -> Self {
        let mut rig = Rig::new(label).unwrap();
        let bind = |host| UdpSocket::bind(format!("127.0.1.{host}:5353"));
        let sockets: Vec<UdpSocket> =
            (1..=count).map(|host| rig.netns.inside(|| bind(host)).unwrap().unwrap()).collect();
        for (id, socket) in (1..).zip(&sockets) {
            rig.write_row(id, socket.local_addr().unwrap()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        rig.insert_vip().unwrap();
        let mut servers = Self { rig, sockets };
        servers.serve_with(&(1..=u32::from(count)).collect::<Vec<_>>());
        servers
    }

    /// Puts these backends into the view.
    fn serve_with(&mut self, ids: &[u32]) {
        self.rig.write_slots(0, ids).unwrap();
        self.rig.switch_to(ViewWord::random(0, ids.len() as u32)).unwrap();
    }

    fn client(&self, local: &str) -> UdpSocket {
        let socket = self.rig.netns.inside(|| UdpSocket::bind(local)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    }

    /// Answers what has come: the number of the server that got it.
    fn answer(&self) -> u32 {
        let mut buffer = [0; 64];
        for (id, socket) in (1_u32..).zip(&self.sockets) {
            socket.set_nonblocking(true).unwrap();
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&id.to_ne_bytes(), from).unwrap();
                return id;
            }
        }
        panic!("no server got the datagram");
    }

    /// Sends to `to` and takes the answer: who answered, and who that seems to be.
    fn ask(&self, client: &UdpSocket, to: SocketAddr) -> (u32, SocketAddr) {
        client.send_to(b"?", to).unwrap();
        self.reply(client)
    }

    fn reply(&self, client: &UdpSocket) -> (u32, SocketAddr) {
        let id = self.answer();
        let mut buffer = [0; 4];
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((length, u32::from_ne_bytes(buffer)), (4, id));
        (id, from)
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let IpAddr::V4(ip) = address.ip() else { return address };
    SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port())
}

#[test]
fn a_socket_that_is_not_connected_stays_with_its_backend_until_that_is_gone() {
    let mut servers = Servers::new("udp-free", 4);
    let client = servers.client("0.0.0.0:0");
    let (first, from) = servers.ask(&client, VIP);
    assert_eq!(from, VIP);
    for _ in 0..20 {
        assert_eq!(servers.ask(&client, VIP), (first, VIP));
    }
    // Out of the view, as by a hint or a policy, is not gone.
    let others: Vec<u32> = (1..=4).filter(|id| *id != first).collect();
    servers.serve_with(&others);
    assert_eq!(servers.ask(&client, VIP), (first, VIP));
    servers.rig.free_row(first).unwrap();
    let (second, from) = servers.ask(&client, VIP);
    assert!(others.contains(&second) && from == VIP, "{second} {from}");
    assert_eq!(servers.ask(&client, VIP), (second, VIP));
    // All sockets together use all there are.
    let met: std::collections::BTreeSet<u32> =
        (0..60).map(|_| servers.ask(&servers.client("0.0.0.0:0"), VIP).0).collect();
    assert_eq!(met, others.into_iter().collect());
}

#[test]
fn a_connected_socket_sees_the_vip_as_its_peer() {
    let servers = Servers::new("udp-connected", 2);
    let client = servers.client("0.0.0.0:0");
    client.connect(VIP).unwrap();
    assert_eq!(client.peer_addr().unwrap(), VIP);
    client.send(b"?").unwrap();
    let (first, from) = servers.reply(&client);
    assert_eq!(from, VIP);
    // It may send elsewhere too, and the VIP is still its peer.
    let direct = servers.sockets[0].local_addr().unwrap();
    client.connect(VIP).unwrap();
    client.send(b"?").unwrap();
    assert_eq!(servers.reply(&client), (first, VIP), "connected again, the same backend");
    client.connect(direct).unwrap();
    assert_eq!(client.peer_addr().unwrap(), direct, "a backend's own address is shown as it is");
    client.send(b"?").unwrap();
    assert_eq!(servers.answer(), 1);
}

#[test]
fn a_dual_stack_socket_sees_mapped_addresses() {
    let servers = Servers::new("udp-mapped", 2);
    let client = servers.client("[::]:0");
    assert!(matches!(client.local_addr().unwrap().ip(), IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
    assert_eq!(servers.ask(&client, mapped(VIP)).1, mapped(VIP));
    client.connect(mapped(VIP)).unwrap();
    assert_eq!(client.peer_addr().unwrap(), mapped(VIP));
    client.send(b"?").unwrap();
    assert_eq!(servers.reply(&client).1, mapped(VIP));
}

#[test]
fn what_nobody_serves_is_refused_at_once() {
    let mut servers = Servers::new("udp-refused", 1);
    let client = servers.client("0.0.0.0:0");
    servers.ask(&client, VIP);
    servers.rig.switch_to(ViewWord::REJECT).unwrap();
    servers.rig.free_row(1).unwrap();
    assert_eq!(client.send_to(b"?", VIP).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(client.connect(VIP).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The same socket is served again once there is somebody.
    let at = servers.sockets[0].local_addr().unwrap();
    servers.rig.write_row(2, at).unwrap();
    servers.serve_with(&[2]);
    assert_eq!(servers.ask(&client, VIP).1, VIP);
}

#[test]
fn one_socket_talks_to_many_frontends_and_tells_their_replies_apart() {
    let mut servers = Servers::new("udp-many", 6);
    let vips: Vec<SocketAddr> = (1..=4).map(|host| format!("10.96.0.{host}:80").parse().unwrap()).collect();
    for vip in &vips[1..] {
        servers.rig.insert_frontend(*vip).unwrap();
    }
    // With three draws more the same backend for two of four frontends is rare: one try in ten may meet it.
    let distinct = (0..20)
        .filter(|_| {
            let client = servers.client("0.0.0.0:0");
            let ids: Vec<u32> = vips.iter().map(|vip| servers.ask(&client, *vip).0).collect();
            let are_distinct = ids.iter().collect::<std::collections::BTreeSet<_>>().len() == vips.len();
            for (vip, id) in vips.iter().zip(&ids) {
                let (again, from) = servers.ask(&client, *vip);
                // Also where one backend stands for two: it answers for that which was asked last.
                assert_eq!(from, *vip);
                assert!(again == *id || !are_distinct, "each frontend keeps its backend");
            }
            are_distinct
        })
        .count();
    assert!(distinct >= 12, "{distinct} of 20");
}
