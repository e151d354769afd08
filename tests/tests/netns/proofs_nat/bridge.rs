//! Client and backend on one bridge of the node: the request climbs to the stack, which is its gateway, and the reply
//! is switched straight back, so that the stack sees half of the connection.
//!
//! Whether netfilter sees bridged packets (`bridge-nf-call-iptables`) and whether rules drop what is invalid makes four
//! cases. Two remedies are shown beside what happens without.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use tests::netns::Netns;

use super::nat::layout::counter;
use super::nat::{Hook, Nat};
use super::{PORT, listening, vips};
use crate::traffic::{Server, Way, exchange};
use crate::witness::{Flow, Rules, Witness};

/// The bridge's addresses, those of the client and those of the backend.
const GATEWAYS: [&str; 2] = ["10.244.1.1", "fd00:10:244:1::1"];
const CLIENTS: [&str; 2] = ["10.244.1.11", "fd00:10:244:1::11"];
const BACKENDS: [&str; 2] = ["10.244.1.12", "fd00:10:244:1::12"];
/// The bridge's ports.
const PORTS: [&str; 2] = ["pod1", "pod2"];

/// One of the four cases, and what stands at the ports.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Whether netfilter sees what is bridged.
    sees_bridged: bool,
    rules: Rules,
    /// What stands at the ingress of the ports.
    ingress: Hook,
}

const CASES: [(bool, Rules); 4] =
    [(true, Rules::Watch), (true, Rules::DropInvalid), (false, Rules::Watch), (false, Rules::DropInvalid)];

struct Scene {
    nat: Nat,
    _server: Server,
    client: Netns,
    _backend: Netns,
    node: Netns,
}

impl Scene {
    fn new(case: Case) -> Result<Self> {
        let node = Netns::create("node")?;
        let bridged = if case.sees_bridged { "1" } else { "0" };
        node.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/bridge/bridge-nf-call-iptables", bridged),
            ("net/bridge/bridge-nf-call-ip6tables", bridged),
        ])?;
        node.ip("link add br0 type bridge mcast_snooping 0")?;
        node.ip("link set br0 up")?;
        for (gateway, prefix) in GATEWAYS.into_iter().zip([24, 64]) {
            node.add_address("br0", gateway.parse()?, prefix)?;
        }
        let [client, backend] = [Netns::create("client")?, Netns::create("backend")?];
        for ((pod, port), addresses) in [&client, &backend].into_iter().zip(PORTS).zip([CLIENTS, BACKENDS]) {
            plug(&node, pod, port, addresses)?;
        }
        let backends = listening(BACKENDS.map(|address| address.parse().unwrap()));
        let server = Server::start(&backend, &backends)?;
        let mut nat = Nat::load()?;
        for (vip, backend) in vips().into_iter().zip(backends) {
            nat.serve(SocketAddr::new(vip, PORT), backend)?;
        }
        nat.redirect(&node, PORTS[1])?;
        for port in PORTS {
            nat.attach(&node, port, &[case.ingress, Hook::Egress])?;
        }
        Ok(Self { nat, _server: server, client, _backend: backend, node })
    }

    fn exchange(&self, vip: IpAddr, way: Way) -> Result<()> {
        let seen = exchange(&self.client, SocketAddr::new(vip, PORT), way)?;
        assert_eq!(seen.seen, seen.own, "the backend sees the client itself");
        Ok(())
    }
}

/// Plugs a pod into the bridge; its gateway is the bridge's own address.
fn plug(node: &Netns, pod: &Netns, port: &str, addresses: [&str; 2]) -> Result<()> {
    node.veth(port, pod, "eth0")?;
    node.ip(&format!("link set {port} master br0"))?;
    for ((address, gateway), prefix) in addresses.into_iter().zip(GATEWAYS).zip([24, 64]) {
        pod.add_address("eth0", address.parse()?, prefix)?;
        pod.add_route(&format!("default via {gateway}"))?;
    }
    Ok(())
}

/// What connection tracking has of a flow in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracked {
    /// Both directions.
    Whole,
    /// The request only.
    Half,
}

/// What is to be seen in one of the cases.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// Whether a transfer over TCP comes through; datagrams always do.
    tcp: bool,
    is_invalid: bool,
    tracked: Tracked,
}

fn check(case: Case, expected: Expected) {
    let scene = Scene::new(case).unwrap();
    let witness = Witness::start(&scene.node, case.rules).unwrap();
    for vip in vips() {
        let outcome = scene.exchange(vip, Way::Tcp);
        assert_eq!(outcome.is_ok(), expected.tcp, "{case:?}: {outcome:?}");
        scene.exchange(vip, Way::Udp).unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
    }
    let invalid = witness.invalid_forwarded().unwrap();
    println!("{case:?}: {invalid} invalid packets");
    assert_eq!(invalid > 0, expected.is_invalid, "{case:?}: {invalid} invalid packets");
    let listed = witness.listed().unwrap();
    for (client, backend) in CLIENTS.into_iter().zip(BACKENDS) {
        for way in Way::BOTH {
            let is_ours = |flow: &&Flow| {
                let (client, backend) = (client.parse().unwrap(), backend.parse().unwrap());
                flow.protocol == way.protocol() && flow.is_between(client, backend)
            };
            let flow = listed.iter().find(is_ours).unwrap_or_else(|| panic!("{case:?}: {listed:?}"));
            assert_eq!(flow.is_replied, expected.tracked == Tracked::Whole, "{case:?}: {flow:?}");
        }
    }
    assert_eq!(scene.nat.count(counter::FAILED), 0);
    let moved = match case.ingress {
        Hook::Switch | Hook::WrongRedirect => counter::SWITCHED,
        Hook::Climb => counter::CLIMBED,
        _ => return,
    };
    assert!(scene.nat.count(moved) > 0, "{case:?}: the remedy had nothing to do");
}

/// Without a remedy the connection depends on `br_netfilter`, or on rules that let invalid packets pass.
#[test]
fn a_switched_reply_breaks_tcp_only_where_netfilter_misses_it_and_rules_drop_invalid_packets() {
    for (sees_bridged, rules) in CASES {
        let tracked = if sees_bridged { Tracked::Whole } else { Tracked::Half };
        let tcp = sees_bridged || rules == Rules::Watch;
        let expected = Expected { tcp, is_invalid: !sees_bridged, tracked };
        check(Case { sees_bridged, rules, ingress: Hook::Ingress }, expected);
    }
}

/// The reply's frame tells the backend's MAC address: from then on requests are switched as replies are. Netfilter sees
/// either both directions or neither, as between any two pods of a bridge.
#[test]
fn requests_that_are_switched_once_replies_are_work_in_all_cases() {
    for (sees_bridged, rules) in CASES {
        let tracked = if sees_bridged { Tracked::Whole } else { Tracked::Half };
        let expected = Expected { tcp: true, is_invalid: false, tracked };
        check(Case { sees_bridged, rules, ingress: Hook::Switch }, expected);
    }
}

/// The reply's frame is sent to whom the request's frame was sent to: netfilter sees both directions in all cases.
#[test]
fn replies_that_climb_to_the_stack_as_requests_do_work_in_all_cases() {
    for (sees_bridged, rules) in CASES {
        let expected = Expected { tcp: true, is_invalid: false, tracked: Tracked::Whole };
        check(Case { sees_bridged, rules, ingress: Hook::Climb }, expected);
    }
}

/// The control: a redirect takes requests past a netfilter that sees replies.
#[test]
fn requests_that_are_redirected_past_the_bridge_break_tcp_where_netfilter_sees_replies_and_drops_them() {
    for (sees_bridged, rules) in CASES {
        let tracked = if sees_bridged { Tracked::Whole } else { Tracked::Half };
        let tcp = !sees_bridged || rules == Rules::Watch;
        let expected = Expected { tcp, is_invalid: sees_bridged, tracked };
        check(Case { sees_bridged, rules, ingress: Hook::WrongRedirect }, expected);
    }
}
