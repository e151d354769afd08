//! `loadBalancerSourceRanges` for clients on a node: the address that a packet really comes from is judged.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tests::agent::Agent;
use tests::load::Place;

use crate::proofs_object::{App, Shell};
use crate::scenario::{PORT, Scenario};
use crate::shop::{
    CLUSTER_IPS, EXTERNAL_IPS, KINDS, LB_IPS, ask, at, ingress, list, meets_both, on_node, put, service,
    settles, write,
};

/// What a client that is not let in gets, by the way it asks.
const BLOCKED: [&str; 3] = ["timeout", "EPERM", "EPERM"];

fn shop(ranges: &Value) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, json!({ "loadBalancerSourceRanges": ranges }), &ingress());
    list(&scenario, &[1, 2]);
    scenario
}

fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

#[track_caller]
fn is_let_in(client: Place<'_>, target: SocketAddr) {
    for kind in KINDS {
        meets_both(client, (target, kind));
    }
}

#[track_caller]
fn is_blocked(client: Place<'_>, target: SocketAddr) {
    for (kind, error) in KINDS.into_iter().zip(BLOCKED) {
        settles(client, (target, kind), error);
    }
}

/// The range of one address.
fn only(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

#[test]
fn only_listed_clients_are_let_in_and_only_load_balancers_ask() {
    let scenario = Scenario::new();
    let (listed, other) = (scenario.cluster.pod(1, 1), scenario.cluster.pod(1, 2));
    let ranges = json!([only(listed.v4), only(listed.v6)]);
    write(&scenario, json!({ "loadBalancerSourceRanges": ranges }), &ingress());
    list(&scenario, &[1, 2]);
    let agent = agent(&scenario);
    // The very first connection of each, whose namespaces nobody knows yet.
    for target in at(LB_IPS, PORT) {
        is_let_in(listed.place(), target);
        is_blocked(other.place(), target);
        is_blocked(scenario.cluster.node(1).host(), target);
    }
    // Ranges bind neither cluster IPs nor external IPs nor NodePorts.
    for target in [at(CLUSTER_IPS, PORT), at(EXTERNAL_IPS, PORT), on_node(&scenario, 1)].into_iter().flatten()
    {
        is_let_in(other.place(), target);
    }
    let counters = agent.shunt(&["dump", "counters"]).unwrap();
    let dropped = counters.lines().find(|line| line.contains("source-not-allowed")).unwrap();
    assert!(!dropped.ends_with(" 0"), "{dropped}");
}

#[test]
fn a_family_without_a_range_and_a_range_of_everything_are_open() {
    let scenario = shop(&json!(["192.0.2.0/24"]));
    let _agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    let [v4, v6] = at(LB_IPS, PORT);
    is_blocked(client, v4);
    is_let_in(client, v6);
    write(
        &scenario,
        json!({ "loadBalancerSourceRanges": ["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/64"] }),
        &ingress(),
    );
    settles_open(client, v4);
    is_blocked(client, v6);
    // Two halves are matched as they are.
    write(&scenario, json!({ "loadBalancerSourceRanges": ["0.0.0.0/1", "128.0.0.0/1"] }), &ingress());
    settles_open(client, v6);
    is_let_in(client, v4);
    write(&scenario, json!({ "loadBalancerSourceRanges": ["255.0.0.0/32"] }), &ingress());
    is_blocked(client, v4);
    write(&scenario, json!({}), &ingress());
    settles_open(client, v4);
}

/// Waits until a client is let in, and then meets both.
#[track_caller]
fn settles_open(client: Place<'_>, target: SocketAddr) {
    let limit = std::time::Duration::from_secs(5);
    for kind in KINDS {
        tests::wait::until(limit, "service", || Ok(ask(client, target, kind).name)).unwrap();
    }
    is_let_in(client, target);
}

#[test]
fn ranges_bind_the_short_circuit_too_and_host_processes_by_the_nodes_address() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let ranges = node.addresses().map(only);
    write(
        &scenario,
        json!({ "loadBalancerSourceRanges": ranges, "externalTrafficPolicy": "Local" }),
        &ingress(),
    );
    list(&scenario, &[2]);
    let _agent = agent(&scenario);
    for target in at(LB_IPS, PORT) {
        for (kind, error) in KINDS.into_iter().zip(BLOCKED) {
            settles(node.host(), (target, kind), "pod-2-2");
            settles(scenario.cluster.pod(1, 1).place(), (target, kind), error);
        }
    }
}

#[test]
fn the_balancers_address_on_a_node_is_let_in_with_the_nodes() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    for (ip, bits) in LB_IPS.into_iter().zip([32, 128]) {
        node.netns.add_address("lo", ip.parse().unwrap(), bits).unwrap();
    }
    let write = |ranges: [String; 2]| {
        let mut service = service(json!({ "loadBalancerSourceRanges": ranges }), &ingress());
        // The field alone counts, and blanks around an entry do not.
        let old = "service.beta.kubernetes.io/load-balancer-source-ranges";
        service["metadata"]["annotations"] = json!({ old: "192.0.2.0/24" });
        put(&scenario, &service);
    };
    write(node.addresses().map(|ip| format!(" {} ", only(ip))));
    list(&scenario, &[1]);
    let _agent = agent(&scenario);
    let mut app = App::start(&node.netns, &node.cgroup, Shell::Bare).unwrap();
    let mut dial = |target: SocketAddr| {
        let from = SocketAddr::new(target.ip(), 0);
        app.tell(&format!("dial by-tcp {target} from {from}")).map_err(|error| error.to_string())
    };
    for target in at(LB_IPS, PORT) {
        assert_eq!(dial(target).unwrap(), target.to_string());
    }
    // The control: it is the node's address in the list that lets it in.
    write(["192.0.2.0/24", "2001:db8:f::/48"].map(str::to_owned));
    for target in at(LB_IPS, PORT) {
        settles(node.host(), (target, &[]), "timeout");
        assert!(dial(target).unwrap_err().ends_with("timeout"));
    }
}

#[test]
fn where_nobody_serves_whoever_is_blocked_is_refused_too() {
    let scenario = shop(&json!(["192.0.2.0/24", "2001:db8:f::/48"]));
    let _agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    let targets = at(LB_IPS, PORT);
    is_blocked(client, targets[0]);
    list(&scenario, &[]);
    for target in targets {
        for kind in KINDS {
            settles(client, (target, kind), "ECONNREFUSED");
        }
    }
}

#[test]
fn a_connection_that_was_let_in_stays() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let pod = scenario.cluster.pod(1, 1);
    write(&scenario, json!({ "loadBalancerSourceRanges": [only(pod.v4)] }), &ingress());
    list(&scenario, &[1]);
    let _agent = agent(&scenario);
    let target = at(LB_IPS, PORT)[0];
    settles(pod.place(), (target, &["--udp"]), "pod-1-2");
    let mut app = App::start(&pod.netns, &node.cgroup, Shell::Bare).unwrap();
    app.tell("open socket v4").unwrap();
    app.tell(&format!("connect socket {target}")).unwrap();
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2");
    write(&scenario, json!({ "loadBalancerSourceRanges": ["192.0.2.0/24"] }), &ingress());
    settles(pod.place(), (target, &["--udp"]), "EPERM");
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2", "ranges are for new flows");
}
