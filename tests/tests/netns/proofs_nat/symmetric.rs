//! DNAT at the ingress of the device where a packet enters, its reverse at the egress of the same device: netfilter
//! sees client and pod, never the VIP.
//!
//! An outside client, a node that forwards, a pod on it. The VIP is one that no device has (as of a load balancer), or
//! the node's own address (as of a NodePort).

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use tests::netns::Netns;
use tests::topology::{Cluster, Node};

use super::nat::layout::counter;
use super::nat::{Hook, Nat};
use super::{PORT, listening, vips};
use crate::traffic::{Server, Way, exchange};
use crate::witness::{Flow, Rules, Witness, number};

/// Number of the client among the hosts on the switch.
const CLIENT: u8 = 9;

/// What a client dials.
#[derive(Clone, Copy, Debug)]
enum Vip {
    Foreign,
    OfNode,
}

/// Where the reverse of DNAT stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reverse {
    /// At the egress of the device that the request came by.
    AtEgress,
    /// At the ingress of the device that the reply comes by.
    AtIngress,
}

struct Scene {
    nat: Nat,
    _server: Server,
    client: Netns,
    clients: [IpAddr; 2],
    pods: [IpAddr; 2],
    vips: [IpAddr; 2],
    cluster: Cluster,
}

impl Scene {
    fn new(vip: Vip, reverse: Reverse) -> Result<Self> {
        let cluster = Cluster::new(1, 1)?;
        let node = cluster.node(1);
        let client = Netns::create("client")?;
        let clients = cluster.plug(&client, CLIENT)?;
        let vips = match vip {
            Vip::Foreign => vips(),
            Vip::OfNode => node.addresses(),
        };
        for (vip, gateway) in super::vips().into_iter().zip(node.addresses()) {
            client.add_route(&format!("{vip} via {gateway}"))?;
        }
        let pod = cluster.pod(1, 1);
        let backends = listening([pod.v4, pod.v6]);
        let server = Server::start(&pod.netns, &backends)?;
        let mut nat = Nat::load()?;
        for (vip, backend) in vips.into_iter().zip(backends) {
            nat.serve(SocketAddr::new(vip, PORT), backend)?;
        }
        match reverse {
            Reverse::AtEgress => nat.attach(&node.netns, "eth0", &[Hook::Ingress, Hook::Egress])?,
            Reverse::AtIngress => {
                nat.attach(&node.netns, "eth0", &[Hook::Ingress])?;
                nat.attach(&node.netns, "pod1", &[Hook::WrongReverse])?;
            }
        }
        let pods = [pod.v4, pod.v6];
        Ok(Self { nat, _server: server, client, clients, pods, vips, cluster })
    }

    fn node(&self) -> &Node {
        self.cluster.node(1)
    }

    /// One exchange; what came of it, in order of `Way::BOTH` for IPv4 and then for IPv6.
    fn exchanges(&self) -> Vec<Result<()>> {
        let exchange = |(vip, client): (IpAddr, IpAddr), way| {
            let seen = exchange(&self.client, SocketAddr::new(vip, PORT), way)?;
            assert_eq!((seen.seen, seen.own.ip()), (seen.own, client), "the backend sees the client itself");
            Ok(())
        };
        let ends = self.vips.into_iter().zip(self.clients);
        ends.flat_map(|ends| Way::BOTH.map(|way| exchange(ends, way))).collect()
    }
}

fn check_symmetric(vip: Vip, rules: Rules) {
    let scene = Scene::new(vip, Reverse::AtEgress).unwrap();
    let witness = Witness::start(&scene.node().netns, rules).unwrap();
    for outcome in scene.exchanges() {
        outcome.unwrap();
    }
    let listed = witness.listed().unwrap();
    for (client, pod) in scene.clients.into_iter().zip(scene.pods) {
        for way in Way::BOTH {
            let is_ours = |flow: &Flow| {
                flow.protocol == way.protocol() && flow.is_between(client, pod) && flow.is_replied
            };
            assert!(listed.iter().any(is_ours), "{way:?} of {client}: {listed:?}");
            let told = witness.told(is_ours).unwrap();
            let strangers: Vec<_> = told
                .iter()
                .chain(&listed)
                .filter(|flow| !scene.clients.iter().zip(scene.pods).any(|(a, b)| flow.is_between(*a, b)))
                .collect();
            assert!(strangers.is_empty(), "{strangers:?}");
        }
    }
    assert_eq!(witness.invalid_forwarded().unwrap(), 0);
    assert_eq!(witness.invalid_tracked().unwrap(), 0);
    assert_eq!(scene.nat.count(counter::FAILED), 0);
    assert!(scene.nat.count(counter::DNAT) > 0 && scene.nat.count(counter::UN_DNAT) > 0);
    let largest = scene.nat.count(counter::LARGEST);
    println!("largest packet: {largest} bytes");
    assert!(largest > 20_000, "no packet was larger than {largest} bytes: none was left to segmentation");
}

#[test]
fn netfilter_sees_client_and_pod_behind_a_foreign_vip() {
    check_symmetric(Vip::Foreign, Rules::Watch);
}

#[test]
fn netfilter_sees_client_and_pod_behind_an_address_of_the_node() {
    check_symmetric(Vip::OfNode, Rules::Watch);
}

#[test]
fn rules_that_let_pass_pods_only_let_pass_what_comes_by_a_vip() {
    check_symmetric(Vip::Foreign, Rules::PodsOnly);
}

/// The control: rewritten before netfilter, the reply is of a connection that nobody has begun.
#[test]
fn a_reply_that_is_rewritten_before_netfilter_is_invalid() {
    let scene = Scene::new(Vip::Foreign, Reverse::AtIngress).unwrap();
    let witness = Witness::start(&scene.node().netns, Rules::Watch).unwrap();
    for outcome in scene.exchanges() {
        outcome.unwrap();
    }
    let invalid = witness.invalid_forwarded().unwrap();
    println!("{invalid} invalid packets");
    assert!(invalid > 0);
    let listed = witness.listed().unwrap();
    for (client, vip) in scene.clients.into_iter().zip(scene.vips) {
        let is_one_sided = |flow: &Flow| flow.protocol == "udp" && flow.is_between(vip, client);
        assert!(listed.iter().any(is_one_sided), "{listed:?}");
    }
}

/// The control: rules that drop what is invalid, or let pass pods only, then break it.
#[test]
fn a_reply_that_is_rewritten_before_netfilter_is_dropped_by_rules_about_pods() {
    let scene = Scene::new(Vip::Foreign, Reverse::AtIngress).unwrap();
    let _witness = Witness::start(&scene.node().netns, Rules::PodsOnly).unwrap();
    for outcome in scene.exchanges() {
        assert!(outcome.is_err());
    }
}

/// The control, of a NodePort: the reply comes in from the pod with an address of the node's own. IPv6 knows no martians.
#[test]
fn a_reply_that_is_given_an_address_of_the_node_before_netfilter_is_a_martian_for_ipv4() {
    let scene = Scene::new(Vip::OfNode, Reverse::AtIngress).unwrap();
    let witness = Witness::start(&scene.node().netns, Rules::Watch).unwrap();
    let outcomes: Vec<bool> = scene.exchanges().iter().map(Result::is_ok).collect();
    assert_eq!(outcomes, [false, false, true, true]);
    assert!(witness.invalid_forwarded().unwrap() > 0);
}

/// A sum of zero says "none": were it changed, the pod would drop the datagram.
#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let scene = Scene::new(Vip::Foreign, Reverse::AtEgress).unwrap();
    let pod = &scene.cluster.pod(1, 1).netns;
    let rules = "table ip sums { counter none { }; chain input { type filter hook input priority 0; \
                 udp checksum 0 counter name none; }; }";
    pod.run("nft", &[rules]).unwrap();
    // SO_NO_CHECK of SOL_SOCKET.
    let question =
        format!("echo question | socat -t 1 - UDP4:{}:{PORT},setsockopt-int=1:11:1", scene.vips[0]);
    let said = scene.client.run("sh", &["-c", &question]).unwrap();
    assert!(said.ends_with("question\n"), "{said:?}");
    let counted = pod.run("nft", &["list", "counter", "ip", "sums", "none"]).unwrap();
    assert_eq!(number(&counted, "packets ").unwrap(), 1);
}
