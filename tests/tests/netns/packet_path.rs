//! Clients outside the cluster, through NodePorts of a node whose agent has the packet path on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use proxy_common::names::{self, SCHEMA};
use serde_json::json;
use shunt::datapath::pin::{MapSet, PinDir};
use shunt::sys::link::{Side, programs_at};
use shunt::sys::tc::{self, Filter};
use tests::agent::{Agent, Launch, pin_dir};
use tests::cgroup::Cgroup;
use tests::load::Place;
use tests::netns::Netns;
use tests::topology::Node;

use crate::scenario::Scenario;
use crate::shop::{
    KINDS, comes_to_meet_both, endpoint, ingress, list, on_node, put, settles, slice, tcp, write,
};

/// Number of the client among the hosts of the switch.
const CLIENT: u8 = 9;
/// The device by which it reaches the node.
const DEVICE: &str = "eth0";
/// A NodePort whose backend says what it is told.
const ECHO_PORT: u16 = 30_090;
/// Where that backend listens.
const ECHO: u16 = 9_090;
/// Limit of an answer.
const SOON: Duration = Duration::from_secs(5);
/// Longer than the kernel takes to empty an array of programs that nobody holds.
const EMPTIED: Duration = Duration::from_millis(500);
/// The ways to attach: as the kernel has it, and as older ones do.
const MEANS: [&[&str]; 2] = [&[], &["--filters"]];
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A host beside the nodes, in a cgroup that no agent hooks.
struct Outside {
    netns: Netns,
    cgroup: Cgroup,
}

impl Outside {
    fn new(scenario: &Scenario) -> Self {
        let netns = Netns::create("outside").unwrap();
        scenario.cluster.plug(&netns, CLIENT).unwrap();
        Self { netns, cgroup: Cgroup::create("outside").unwrap() }
    }

    fn place(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.cgroup }
    }

    /// Connects to the node's address of the first family.
    fn connect(&self, scenario: &Scenario, limit: Duration) -> std::io::Result<TcpStream> {
        let target = SocketAddr::new(scenario.cluster.node(1).addresses()[0], ECHO_PORT);
        let stream = self.netns.inside(|| TcpStream::connect_timeout(&target, limit)).unwrap()?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        Ok(stream)
    }
}

fn agent<'a>(scenario: &'a Scenario, variant: &[&str]) -> Agent<'a> {
    let arguments = ["--devices", DEVICE];
    let launch = Launch::following(scenario.manifests.path(), &arguments).varied(variant);
    Agent::start_as(scenario.cluster.node(1), launch).unwrap()
}

/// What is said is said back.
fn exchange(stream: &mut TcpStream, line: &str) {
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = vec![0; line.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, line.as_bytes());
}

/// A Service whose backend, the second pod of node 1, says what it is told for as long as this process lives.
fn echo(scenario: &Scenario) {
    put(
        scenario,
        &json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": "default", "name": "echo" },
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.90", "clusterIPs": ["10.96.0.90"], "ipFamilies": ["IPv4"],
                "ports": [{ "name": "tcp", "protocol": "TCP", "port": ECHO, "nodePort": ECHO_PORT }],
            },
        }),
    );
    put(scenario, &slice(("echo", 0), &json!([tcp(ECHO)]), vec![endpoint(scenario, 0, (1, 2))]));
    let pod = scenario.cluster.pod(1, 2);
    let listener = pod.netns.inside(|| TcpListener::bind((pod.v4, ECHO))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Programs at the device, by tcx and by filters.
fn attached(node: &Node) -> (Vec<u32>, Vec<Filter>) {
    let line = node.netns.ip(&format!("-o link show dev {DEVICE}")).unwrap();
    let index = line.split(':').next().unwrap().parse().unwrap();
    let look = || {
        let programs = Side::ALL.map(|side| programs_at(index, side).unwrap());
        let filters = Side::ALL.map(|side| tc::filters(index, side).unwrap());
        (programs.concat(), filters.concat())
    };
    node.netns.inside(look).unwrap()
}

fn reserved(node: &Node) -> String {
    node.netns.run("cat", &[RESERVED]).unwrap().trim().to_owned()
}

fn slow(node: &Node) -> PathBuf {
    PinDir::new(&pin_dir(node), SCHEMA).directory(MapSet::Flows).join(names::SLOW)
}

#[test]
fn a_client_outside_reaches_a_node_port_over_tcp_and_udp() {
    let scenario = Scenario::new();
    let outside = Outside::new(&scenario);
    write(&scenario, json!({}), &ingress());
    for variant in MEANS {
        list(&scenario, &[1]);
        let agent = agent(&scenario, variant);
        let node = scenario.cluster.node(1);
        let (programs, filters) = attached(node);
        let expected = if variant.is_empty() { (2, 0) } else { (0, 2) };
        assert_eq!((programs.len(), filters.len()), expected, "{variant:?}");
        for target in on_node(&scenario, 1) {
            for kind in KINDS {
                settles(outside.place(), (target, kind), "pod-1-2");
            }
        }
        // One on another node, which has no agent, is reached by the address of this one.
        list(&scenario, &[1, 2]);
        for target in on_node(&scenario, 1) {
            for kind in KINDS {
                comes_to_meet_both(outside.place(), (target, kind));
            }
        }
        let shown = agent.shunt(&["status"]).unwrap();
        assert!(shown.contains(DEVICE) && !shown.contains("MISSING"), "{shown}");
        agent.clean_up().unwrap();
        // The control.
        for target in on_node(&scenario, 1) {
            settles(outside.place(), (target, &[]), "ECONNREFUSED");
        }
    }
}

#[test]
fn connections_go_on_and_new_ones_begin_while_the_agent_is_dead() {
    let scenario = Scenario::new();
    let outside = Outside::new(&scenario);
    echo(&scenario);
    for variant in MEANS {
        let mut agent = agent(&scenario, variant);
        let node = scenario.cluster.node(1);
        let mut first = outside.connect(&scenario, SOON).unwrap();
        exchange(&mut first, "while it lives");
        agent.kill().unwrap();
        std::thread::sleep(EMPTIED);
        exchange(&mut first, "while it is dead");
        let mut second = outside.connect(&scenario, SOON).unwrap();
        exchange(&mut second, "begun while it is dead");
        let before = attached(node);
        agent.start_again().unwrap();
        let after = attached(node);
        assert_eq!((before.0.len(), before.1.len()), (after.0.len(), after.1.len()));
        assert_ne!(before, after, "other programs are in the place of the first");
        std::thread::sleep(EMPTIED);
        let mut third = outside.connect(&scenario, SOON).unwrap();
        for stream in [&mut first, &mut second, &mut third] {
            exchange(stream, "after its return");
        }
        // The control: it is the pin that holds what begins a flow.
        agent.kill().unwrap();
        std::fs::remove_file(slow(node)).unwrap();
        std::thread::sleep(EMPTIED);
        exchange(&mut first, "what has begun goes on");
        assert!(outside.connect(&scenario, Duration::from_secs(1)).is_err());
        agent.start_again().unwrap();
        exchange(&mut outside.connect(&scenario, SOON).unwrap(), "mended");
        agent.clean_up().unwrap();
    }
}

#[test]
fn cleanup_leaves_what_others_have_and_nothing_of_ours() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    node.netns.sysctls(&[("net/ipv4/ip_local_reserved_ports", "8080,60000-60999")]).unwrap();
    let qdiscs = || node.netns.run("tc", &["qdisc", "show", "dev", DEVICE]).unwrap();
    for variant in MEANS {
        let before = (qdiscs(), reserved(node));
        let agent = agent(&scenario, variant);
        assert_eq!(reserved(node), "8080,60000-65535");
        assert_eq!(qdiscs().contains("clsact"), !variant.is_empty());
        agent.clean_up().unwrap();
        assert_eq!((qdiscs(), reserved(node)), before);
        assert_eq!(attached(node), (Vec::new(), Vec::new()));
        assert!(!pin_dir(node).exists());
    }
    // Somebody else has a qdisc there, and a filter at it.
    node.netns.run("tc", &["qdisc", "add", "dev", DEVICE, "clsact"]).unwrap();
    let filter = [
        "filter",
        "add",
        "dev",
        DEVICE,
        "ingress",
        "pref",
        "3",
        "protocol",
        "ip",
        "u32",
        "match",
        "ip",
        "src",
        "203.0.113.99",
        "flowid",
        "1:1",
    ];
    node.netns.run("tc", &filter).unwrap();
    let (before, filters) = (qdiscs(), attached(node).1);
    assert!(!filters.is_empty());
    let agent = agent(&scenario, MEANS[1]);
    let log = agent.log();
    assert!(log.contains("a program of somebody else is between the wire and ours"), "{log}");
    agent.clean_up().unwrap();
    assert_eq!((qdiscs(), attached(node).1), (before, filters));
}

#[test]
fn an_agent_without_devices_takes_away_what_one_with_them_has_left() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    for variant in MEANS {
        let mut with = agent(&scenario, variant);
        with.terminate().unwrap();
        assert_ne!(attached(node), (Vec::new(), Vec::new()));
        let without = Agent::start_with(node, scenario.manifests.path(), &["--devices", "none"]).unwrap();
        assert_eq!(attached(node), (Vec::new(), Vec::new()), "{variant:?}");
        assert_eq!((reserved(node), slow(node).exists()), (String::new(), false));
        without.clean_up().unwrap();
    }
}

#[test]
fn an_agent_that_attaches_in_another_way_takes_the_place_of_the_first() {
    let scenario = Scenario::new();
    let outside = Outside::new(&scenario);
    let node = scenario.cluster.node(1);
    echo(&scenario);
    let mut agent = agent(&scenario, MEANS[0]);
    let mut stream = outside.connect(&scenario, SOON).unwrap();
    for (variant, expected) in [(MEANS[1], (0, 2)), (MEANS[0], (2, 0))] {
        agent.terminate().unwrap();
        agent.start_again_as(variant).unwrap();
        let (programs, filters) = attached(node);
        assert_eq!((programs.len(), filters.len()), expected);
        exchange(&mut stream, "goes on");
        exchange(&mut outside.connect(&scenario, SOON).unwrap(), "begins");
    }
    let qdiscs = node.netns.run("tc", &["qdisc", "show", "dev", DEVICE]).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}
