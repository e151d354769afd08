//! SNAT at the egress of the device that a packet leaves by, its reverse at the ingress of the same device: between
//! the two the node sees the client, and no source address of its own where it would take it for forged.
//!
//! A client behind one device of node 1, a pod on node 2 behind another. Node 2 knows no way to the client.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use tests::netns::Netns;
use tests::topology::Cluster;

use super::nat::layout::{SNAT_PORTS, counter};
use super::nat::{Hook, Nat};
use super::{PORT, listening, vips};
use crate::traffic::{Client, Server, Way, exchange};
use crate::wire;
use crate::witness::{Flow, Rules, Witness};

/// Where SNAT stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// At the egress of the device towards the backend.
    AtEgress,
    /// Beside DNAT, at the ingress of the device towards the client.
    AtIngress,
    /// Nowhere.
    Missing,
}

/// Settings of node 1, under which a packet with a source that is not reached by its device is dropped and logged.
const STRICT: [(&str, &str); 4] = [
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/log_martians", "1"),
    ("net/ipv4/conf/default/log_martians", "1"),
];

struct Scene {
    nat: Nat,
    _server: Server,
    client: Netns,
    pods: [IpAddr; 2],
    cluster: Cluster,
}

impl Scene {
    fn new(source: Source) -> Result<Self> {
        let cluster = Cluster::new(2, 1)?;
        let node = cluster.node(1);
        for node in &cluster.nodes {
            node.netns.sysctls(&STRICT)?;
        }
        let client = Netns::create("client")?;
        wire::wire(&node.netns, &client)?;
        let pod = cluster.pod(2, 1);
        let backends = listening([pod.v4, pod.v6]);
        let server = Server::start(&pod.netns, &backends)?;
        let mut nat = Nat::load()?;
        for (vip, backend) in vips().into_iter().zip(backends) {
            nat.serve(SocketAddr::new(vip, PORT), backend)?;
        }
        let (first, device) = match source {
            Source::AtEgress => (Hook::Ingress, Some("eth0")),
            Source::AtIngress => (Hook::WrongSource, Some("ext0")),
            Source::Missing => (Hook::Ingress, None),
        };
        nat.attach(&node.netns, "ext0", &[first, Hook::Egress])?;
        nat.attach(&node.netns, "eth0", &[Hook::Ingress, Hook::Egress])?;
        for address in node.addresses() {
            if let Some(device) = device {
                nat.masquerade(&node.netns, device, address)?;
            }
        }
        let pods = [pod.v4, pod.v6];
        Ok(Self { nat, _server: server, client, pods, cluster })
    }

    fn node(&self) -> &Netns {
        &self.cluster.node(1).netns
    }

    fn exchange(&self, vip: IpAddr, way: Way) -> Result<Client> {
        exchange(&self.client, SocketAddr::new(vip, PORT), way)
    }
}

/// A counter of the namespace as `nstat` names it.
fn counted(netns: &Netns, name: &str) -> Result<u64> {
    let said = netns.run("nstat", &["-a", "-s", "-z", "-j", name])?;
    let counters: serde_json::Value = serde_json::from_str(&said)?;
    counters["kernel"][name].as_u64().with_context(|| said.clone())
}

/// Packets that the kernel has dropped, in any namespace, because of a source that cannot be there.
fn martians() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/stat/rt_cache")?;
    let mut lines = table.lines();
    let names = lines.next().context("no names")?.split_whitespace();
    let column = names.into_iter().position(|name| name == "in_martian_src").context("no such column")?;
    let values = lines.map(|line| line.split_whitespace().nth(column).context("a short line"));
    values.map(|value| Ok(u64::from_str_radix(value?, 16)?)).sum()
}

#[test]
fn a_source_that_is_changed_on_the_way_out_leaves_the_node_with_the_client() {
    let scene = Scene::new(Source::AtEgress).unwrap();
    let witness = Witness::start(scene.node(), Rules::PodsOnly).unwrap();
    let node = scene.cluster.node(1).addresses();
    for ((vip, client), node) in vips().into_iter().zip(wire::clients()).zip(node) {
        for way in Way::BOTH {
            let seen = scene.exchange(vip, way).unwrap();
            let port = SNAT_PORTS.0 + seen.own.port() % SNAT_PORTS.1;
            assert_eq!(seen.seen, SocketAddr::new(node, port), "the backend sees the node");
            assert_eq!(seen.own.ip(), client);
        }
    }
    let listed = witness.listed().unwrap();
    for (client, pod) in wire::clients().into_iter().zip(scene.pods) {
        for way in Way::BOTH {
            let is_ours = |flow: &Flow| {
                flow.protocol == way.protocol() && flow.is_between(client, pod) && flow.is_replied
            };
            assert!(listed.iter().any(is_ours), "{way:?} of {client}: {listed:?}");
            witness.told(is_ours).unwrap();
        }
    }
    let told = witness.told(|_| true).unwrap();
    let is_ours = |flow: &Flow| wire::clients().iter().zip(scene.pods).any(|(a, b)| flow.is_between(*a, b));
    assert!(told.iter().chain(&listed).all(is_ours), "{told:?} {listed:?}");
    assert_eq!(witness.invalid_forwarded().unwrap(), 0);
    assert_eq!(witness.invalid_tracked().unwrap(), 0);
    assert_eq!(counted(scene.node(), "TcpExtIPReversePathFilter").unwrap(), 0);
    assert_eq!(scene.nat.count(counter::FAILED), 0);
    assert!(scene.nat.count(counter::SNAT) > 0 && scene.nat.count(counter::UN_SNAT) > 0);
}

/// The control: it is the new source that brings the answers back.
#[test]
fn without_a_new_source_no_answer_comes_back() {
    let scene = Scene::new(Source::Missing).unwrap();
    for vip in vips() {
        let outcome = scene.exchange(vip, Way::Udp);
        assert!(outcome.is_err(), "{outcome:?}");
    }
    assert!(scene.nat.count(counter::DNAT) > 0 && scene.nat.count(counter::SNAT) == 0);
}

/// The control: a source of the node's own that comes in from outside.
#[test]
fn a_source_that_is_changed_on_the_way_in_is_a_martian_for_ipv4() {
    let scene = Scene::new(Source::AtIngress).unwrap();
    let _witness = Witness::start(scene.node(), Rules::Watch).unwrap();
    let before = martians().unwrap();
    for way in Way::BOTH {
        let outcome = scene.exchange(vips()[0], way);
        assert!(outcome.is_err(), "{outcome:?}");
    }
    assert!(scene.nat.count(counter::SNAT) > 0 && scene.nat.count(counter::UN_SNAT) == 0);
    let dropped = martians().unwrap() - before;
    println!("{dropped} martians");
    assert!(dropped >= 2, "{dropped} martians");
}

/// The control: IPv6 knows no martians. The packet comes through, and connection tracking has the node for the client,
/// so that the answer, which is given back its client before that, is of no connection.
#[test]
fn a_source_that_is_changed_on_the_way_in_makes_answers_invalid_for_ipv6() {
    let scene = Scene::new(Source::AtIngress).unwrap();
    let witness = Witness::start(scene.node(), Rules::Watch).unwrap();
    for way in Way::BOTH {
        scene.exchange(vips()[1], way).unwrap();
    }
    let (node, pod) = (scene.cluster.node(1).addresses()[1], scene.pods[1]);
    let listed = witness.listed().unwrap();
    for (from, to) in [(node, pod), (pod, wire::clients()[1])] {
        let is_one_sided = |flow: &Flow| flow.is_between(from, to) && !flow.is_replied;
        assert!(listed.iter().any(is_one_sided), "{listed:?}");
    }
    let invalid = witness.invalid_forwarded().unwrap();
    println!("{invalid} invalid packets");
    assert!(invalid > 0);
}
