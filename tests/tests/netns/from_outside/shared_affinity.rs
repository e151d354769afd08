//! What is remembered of a pod is one thing for its sockets, which hooks serve, and for its packets, which programs at its
//! device serve where no hook sees the socket.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::agent::Agent;
use tests::cgroup::Cgroup;
use tests::load::Place;
use tests::report::GetReport;

use crate::scenario::{BACKEND_PORT, Scenario};
use crate::shop::{
    CLUSTER_IPS, ask, at, comes_to_meet_both, endpoint, ingress, laid_over, put, slice, write,
};
use crate::trace::inhabit;

/// Service ports. In each family and each order of asking, six of them pick anew over TCP and over UDP: that all of these
/// agree by chance happens once in 4 096 runs.
const PORTS: u16 = 12;
/// The ways to ask: TCP, connected UDP.
const WAYS: [&[&str]; 2] = [&[], &["--udp"]];

/// The Service's ports, with this number or their own.
fn ports(number: Option<u16>) -> Vec<Value> {
    let port = |own: u16, protocol: &str| {
        let name = format!("p{own}-{}", protocol.to_lowercase());
        json!({ "name": name, "protocol": protocol, "port": number.unwrap_or(own) })
    };
    (1..=PORTS).flat_map(|own| ["TCP", "UDP"].map(|protocol| port(own, protocol))).collect()
}

/// The Service, whose backends are the second pods of both nodes.
fn offer(scenario: &Scenario, affinity: &str) {
    write(scenario, json!({ "sessionAffinity": affinity, "ports": ports(None) }), &ingress());
    for family in [0, 1] {
        let ready = json!({ "conditions": { "ready": true } });
        let endpoints = [1, 2].map(|node| laid_over(endpoint(scenario, family, (node, 2)), ready.clone()));
        put(scenario, &slice(("shop", family), &json!(ports(Some(BACKEND_PORT))), endpoints.into()));
    }
}

/// Whether the agent's node has rewritten packets between this client and what it has asked for.
fn is_flow(agent: &Agent<'_>, report: &GetReport) -> bool {
    let listed: Value =
        serde_json::from_str(&agent.shunt(&["dump", "flows", "-o", "json"]).unwrap()).unwrap();
    let client = json!(report.local.expect("an address of its own"));
    let is_it = |row: &Value| row["client"] == client && row["vip"] == json!(report.target);
    listed.as_array().unwrap().iter().any(is_it)
}

/// Asks, and says who has answered; `agent` lists a flow where packets are served.
fn name(
    agent: &Agent<'_>,
    (client, is_hooked): (Place<'_>, bool),
    (target, way): (SocketAddr, &[&str]),
) -> String {
    let report = ask(client, target, way);
    let name = report.name.clone().unwrap_or_else(|| panic!("{way:?} {report:?}"));
    assert_eq!(is_flow(agent, &report), !is_hooked, "{way:?} {report:?}");
    name
}

#[test]
fn hooked_and_other_sockets_of_a_pod_meet_the_same_backend() {
    let scenario = Scenario::new();
    offer(&scenario, "ClientIP");
    let start =
        |node| Agent::start_with(node, scenario.manifests.path(), &["--devices", "auto"]).expect("an agent");
    let agents: Vec<Agent<'_>> = scenario.cluster.nodes.iter().map(start).collect();
    let pod = scenario.cluster.pod(1, 1);
    // Pods have a process that lives, by which the registry knows their addresses.
    let _resident = inhabit(&agents[0], pod);
    let elsewhere = Cgroup::create("elsewhere").unwrap();
    let hooked = (pod.place(), true);
    let other = (Place { netns: &pod.netns, cgroup: &elsewhere }, false);
    let mut met = BTreeSet::new();
    for port in 1..=PORTS {
        let clients = if port % 2 == 0 { [hooked, other] } else { [other, hooked] };
        for target in at(CLUSTER_IPS, port) {
            for way in WAYS {
                let first = name(&agents[0], clients[0], (target, way));
                for client in clients.iter().rev().cycle().take(4) {
                    let again = name(&agents[0], *client, (target, way));
                    assert_eq!(again, first, "{target} {way:?}, hooked: {}", client.1);
                }
                met.insert(first);
            }
        }
    }
    assert_eq!(met.len(), 2, "of as many ports, not all pick the same: {met:?}");
    // The control: without affinity, either client meets both.
    offer(&scenario, "None");
    for (client, _) in [hooked, other] {
        for target in at(CLUSTER_IPS, 1) {
            for way in WAYS {
                comes_to_meet_both(client, (target, way));
            }
        }
    }
}
