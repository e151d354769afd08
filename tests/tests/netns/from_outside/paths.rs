//! What routers on the way say of packets gets to whoever has sent them, in words that it knows.

use std::net::SocketAddr;

use anyhow::Result;
use tests::netns::Netns;

use super::layout::Layout;
use super::policies::{End, end};
use super::site::{Backend, Site};
use crate::scenario::BACKEND_PORT;
use crate::traffic::{Way, exchange};

/// Bytes of a packet that get through between the routers.
const NARROW: u16 = 1_400;

/// A client that is three hops from the first node, of which the second takes packets of 1 400 bytes only.
struct Far {
    client: Netns,
    _routers: [Netns; 2],
}

impl Far {
    fn new(site: &Site) -> Result<Self> {
        let [near, far] = [Netns::create("router_near")?, Netns::create("router_far")?];
        let client = Netns::create("client_far")?;
        for netns in [&near, &far] {
            netns.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        }
        let node = &site.cluster.node(1).netns;
        // Each link has a range of its own: node, near, far, client.
        for (at, (left, right), (name, peer)) in [
            (1, (node, &near), ("ext1", "eth0")),
            (2, (&near, &far), ("eth1", "eth0")),
            (3, (&far, &client), ("eth1", "eth0")),
        ] {
            left.veth(name, right, peer)?;
            for (netns, device, host) in [(left, name, 1), (right, peer, 2)] {
                netns.add_address(device, format!("172.29.{at}.{host}").parse()?, 24)?;
                netns.add_address(device, format!("fd00:172:29:{at}::{host}").parse()?, 64)?;
                if at == 2 {
                    netns.ip(&format!("link set {device} mtu {NARROW}"))?;
                }
            }
            right.add_route(&format!("default via 172.29.{at}.1"))?;
            right.add_route(&format!("default via fd00:172:29:{at}::1"))?;
        }
        for (netns, at) in [(node, 1), (&near, 2)] {
            for range in (at + 1)..=3 {
                netns.add_route(&format!("172.29.{range}.0/24 via 172.29.{at}.2"))?;
                netns.add_route(&format!("fd00:172:29:{range}::/64 via fd00:172:29:{at}::2"))?;
            }
        }
        Ok(Self { client, _routers: [near, far] })
    }
}

#[test]
fn the_largest_packet_of_a_path_is_found_through_a_frontend() {
    for layout in [Layout::Routed, Layout::Bridge] {
        let site = Site::new(layout).unwrap();
        let _agents = site.agents();
        let far = Far::new(&site).unwrap();
        for backend in [Backend::LocalPod, Backend::RemotePod] {
            for frontend in backend.frontends(&site.cluster) {
                exchange(&far.client, frontend, Way::Tcp)
                    .unwrap_or_else(|error| panic!("{layout:?}, {backend:?}: {error:#}"));
            }
            // Whoever answers has been told: for the client itself, or for what it sees instead.
            let (node, _) = backend.place(&site.cluster);
            let pod = &site.cluster.pod(node, 2).netns;
            let told = match backend {
                Backend::LocalPod => ["172.29.3.2".to_owned(), "fd00:172:29:3::2".to_owned()],
                _ => site.cluster.node(1).addresses().map(|ip| ip.to_string()),
            };
            for client in told {
                let route = pod.ip(&format!("route get {client}")).unwrap();
                assert!(route.contains(&format!("mtu {NARROW}")), "{layout:?}, {backend:?}: {route}");
            }
        }
    }
}

/// Hops that traceroute shows, each by its address.
fn traceroute(client: &Netns, (to, way): (SocketAddr, Way)) -> Vec<String> {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    // Both send to the port that is given, and to no other.
    let means = match way {
        Way::Tcp => "-T",
        Way::Udp => "-U",
    };
    let (port, ip) = (to.port().to_string(), to.ip().to_string());
    let said = client
        .run("traceroute", &[family, "-n", means, "-q", "1", "-w", "2", "-m", "8", "-p", &port, &ip])
        .unwrap();
    said.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned()).collect()
}

#[test]
fn traceroute_shows_the_path_and_ends_at_the_frontend() {
    for layout in [Layout::Routed, Layout::Bridge] {
        let site = Site::new(layout).unwrap();
        let _agents = site.agents();
        let gateways = ["172.31.0.1", "fd00:172:31::1"];
        let second = site.cluster.node(2).addresses();
        for backend in [Backend::LocalPod, Backend::RemotePod] {
            for frontend in backend.frontends(&site.cluster) {
                let family = usize::from(frontend.is_ipv6());
                let node = backend.is_remote().then(|| second[family].to_string());
                let first = gateways[family].to_owned();
                let expected: Vec<String> =
                    [Some(first), node, Some(frontend.ip().to_string())].into_iter().flatten().collect();
                for way in Way::BOTH {
                    let hops = traceroute(&site.client, (frontend, way));
                    assert_eq!(hops, expected, "{layout:?}, {way:?} to {frontend}");
                }
            }
        }
    }
}

/// Where nobody listens, the backend's host says so by RST, or by ICMP with a part of what it got.
#[test]
fn what_a_backends_host_says_of_a_closed_port_reaches_the_client() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        for backend in Backend::ALL {
            site.list_at(backend, BACKEND_PORT + 1).unwrap();
        }
        let agents = site.agents();
        for backend in Backend::ALL {
            for frontend in backend.frontends(&site.cluster) {
                for way in Way::BOTH {
                    let found = end(&site, frontend, way);
                    assert_eq!(found, End::Refused, "{layout:?}, {backend:?}, {way:?} to {frontend}");
                }
            }
        }
        // It was not the agent's word.
        let counters = agents[0].shunt(&["dump", "counters"]).unwrap();
        for reason in ["no-endpoints", "unknown-port"] {
            let line = counters.lines().find(|line| line.contains(reason)).unwrap();
            assert!(line.trim_end().ends_with(" 0"), "{line}");
        }
    }
}
