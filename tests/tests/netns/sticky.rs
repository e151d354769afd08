//! ClientIP affinity: where a client is sent again, for how long, and through which frontends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use proxy_common::names::{AFFINITY, SCHEMA};
use serde_json::{Value, json};
use shunt::datapath::pin::PinDir;
use shunt::maps::clients::Affinity;
use shunt::sys::map::Map;
use tests::agent::{Agent, pin_dir};
use tests::load::Place;

use crate::scenario::{PORT, Scenario};
use crate::shop::{CLUSTER_IPS, KINDS, LB_IPS, ask, at, frontends, ingress, list, on_node, write};

fn sticky(seconds: u32) -> Value {
    json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } } })
}

fn shop(seconds: u32) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, sticky(seconds), &ingress());
    list(&scenario, &[1, 2]);
    scenario
}

fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

fn name(client: Place<'_>, target: SocketAddr, kind: &[&str]) -> String {
    let report = ask(client, target, kind);
    report.name.clone().unwrap_or_else(|| panic!("{report:?}"))
}

/// Whom the kernel remembers.
fn remembered(agent: &Agent<'_>) -> BTreeSet<IpAddr> {
    let path = PinDir::new(&pin_dir(agent.node()), SCHEMA).maps().join(AFFINITY);
    let table = Affinity::open(Map::open_pinned(&path).unwrap()).unwrap();
    table.entries().unwrap().iter().map(|(key, _)| key.client.to_ip()).collect()
}

/// Whether a client gets different backends of the sixteen that it asks for.
fn wanders(client: Place<'_>, target: SocketAddr) -> bool {
    (0..16).map(|_| name(client, target, &[])).collect::<BTreeSet<_>>().len() > 1
}

#[test]
fn a_client_stays_with_a_backend_over_all_frontends_of_a_service_port() {
    let scenario = shop(600);
    let agent = agent(&scenario);
    for client in [scenario.cluster.pod(1, 1).place(), scenario.cluster.node(1).host()] {
        for kind in KINDS {
            // Each family has endpoints of its own, and so has each protocol.
            for is_v4 in [true, false] {
                let ways: Vec<SocketAddr> = frontends(&scenario)
                    .into_iter()
                    .map(|(target, _)| target)
                    .filter(|target| target.is_ipv4() == is_v4)
                    .collect();
                let first = name(client, ways[0], kind);
                for target in ways.iter().cycle().take(24) {
                    assert_eq!(name(client, *target, kind), first, "{target} {kind:?}");
                }
            }
        }
    }
    let pod = scenario.cluster.pod(1, 1);
    let [v4, v6] = scenario.cluster.node(1).addresses();
    assert!(remembered(&agent).is_superset(&[pod.v4, pod.v6, v4, v6].into()), "{:?}", remembered(&agent));
    // The control: without affinity they wander.
    write(&scenario, json!({}), &ingress());
    sleep(Duration::from_millis(500));
    for client in [pod.place(), scenario.cluster.node(1).host()] {
        assert!(wanders(client, at(CLUSTER_IPS, PORT)[0]));
    }
}

#[test]
fn each_client_is_known_by_its_own_address() {
    let scenario = shop(600);
    let agent = agent(&scenario);
    let target = at(CLUSTER_IPS, PORT)[0];
    // Two pods get the same of two backends every second time: over twelve service ports made anew, not always.
    let pods = [1, 2].map(|pod| scenario.cluster.pod(1, pod));
    let mut pairs = BTreeSet::new();
    for _ in 0..12 {
        let names = pods.map(|pod| name(pod.place(), target, &[]));
        assert_eq!(pods.map(|pod| name(pod.place(), target, &[])), names);
        pairs.insert(names[0] == names[1]);
        scenario.manifests.remove("shop.json").unwrap();
        sleep(Duration::from_millis(200));
        write(&scenario, sticky(600), &ingress());
        sleep(Duration::from_millis(400));
    }
    assert_eq!(pairs.len(), 2, "{pairs:?}");
    assert!(remembered(&agent).is_superset(&pods.map(|pod| pod.v4).into()));
}

#[test]
fn the_timeout_slides() {
    let scenario = shop(1);
    let _agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    let target = at(CLUSTER_IPS, PORT)[0];
    let first = name(client, target, &[]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(name(client, target, &[]), first);
        sleep(Duration::from_millis(300));
    }
    let mut names = BTreeSet::new();
    for _ in 0..14 {
        names.insert(name(client, target, &[]));
        if names.len() == 2 {
            return;
        }
        sleep(Duration::from_millis(1_200));
    }
    panic!("never another backend: {names:?}");
}

#[test]
fn a_backend_that_goes_gives_its_clients_to_another_for_good() {
    let scenario = shop(600);
    let _agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    for target in [at(LB_IPS, PORT)[0], on_node(&scenario, 1)[1]] {
        list(&scenario, &[1, 2]);
        sleep(Duration::from_millis(300));
        let first = name(client, target, &[]);
        let (gone, stays) = if first == "pod-1-2" { ("pod-1-2", 2) } else { ("pod-2-2", 1) };
        list(&scenario, &[stays]);
        crate::shop::settles(client, (target, &[]), if gone == "pod-1-2" { "pod-2-2" } else { "pod-1-2" });
        list(&scenario, &[1, 2]);
        sleep(Duration::from_millis(300));
        assert!(!wanders(client, target));
        assert_ne!(name(client, target, &[]), first);
    }
}

#[test]
fn a_policy_comes_before_affinity() {
    let scenario = shop(600);
    let _agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    let (inside, outside) = (at(CLUSTER_IPS, PORT)[0], at(LB_IPS, PORT)[0]);
    // By the load balancer's address, until the client has the endpoint of the other node.
    let mut tries = 0;
    while name(client, outside, &[]) != "pod-2-2" {
        tries += 1;
        assert!(tries < 30, "never the other node's");
        list(&scenario, &[2]);
        sleep(Duration::from_millis(200));
    }
    list(&scenario, &[1, 2]);
    let mut spec = sticky(600);
    spec["internalTrafficPolicy"] = json!("Local");
    write(&scenario, spec, &ingress());
    crate::shop::settles(client, (inside, &[]), "pod-1-2");
}

#[test]
fn a_restart_keeps_what_is_remembered() {
    let scenario = shop(600);
    let mut agent = agent(&scenario);
    let client = scenario.cluster.pod(1, 1).place();
    let ways: Vec<SocketAddr> = at(CLUSTER_IPS, PORT).into();
    let before: Vec<String> = ways.iter().map(|target| name(client, *target, &[])).collect();
    agent.kill().unwrap();
    for (target, before) in ways.iter().zip(&before) {
        assert_eq!(name(client, *target, &[]), *before);
    }
    agent.start_again().unwrap();
    for (target, before) in ways.iter().zip(&before) {
        for _ in 0..8 {
            assert_eq!(name(client, *target, &[]), *before);
        }
    }
}
