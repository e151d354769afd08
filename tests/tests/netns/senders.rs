//! What a backend sees of its clients on a node, pods that reach themselves, and what is odd on the wire.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::mirror::{MIRROR_PORT, Way, addresses, agent, app, ask, list_mirrors, mirror, say};
use crate::scenario::{PORT, Scenario};
use crate::shop::{CLUSTER_IPS, LB_IPS, at, frontends, ingress, write};

/// The Service with mirrors on these nodes.
fn shop(nodes: &[usize]) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, json!({}), &ingress());
    let listed: Vec<_> = nodes.iter().map(|node| (*node, json!({}))).collect();
    list_mirrors(&scenario, &listed);
    scenario
}

/// Every client asks every frontend in every way, so often, and meets as many backends.
#[track_caller]
fn are_seen_as_they_are(scenario: &Scenario, times: usize, backends: usize) {
    let node = scenario.cluster.node(1);
    let pod = scenario.cluster.pod(1, 1);
    for (place, own) in [(Some(1), [pod.v4, pod.v6]), (None, node.addresses())] {
        let mut app = app(node, place);
        for (target, _) in frontends(scenario) {
            for way in Way::ALL {
                let mut met = BTreeSet::new();
                for _ in 0..times {
                    let seen = ask(&mut app, "socket", way, target).unwrap();
                    let is_v6 = usize::from(target.is_ipv6());
                    assert_eq!((seen.client.ip(), seen.peer), (own[is_v6], target), "{way:?} {target}");
                    met.insert(seen.backend);
                }
                assert_eq!(met.len(), backends, "{way:?} {target}: {met:?}");
            }
        }
    }
}

#[test]
fn backends_see_the_pod_or_the_node_and_never_a_translated_address() {
    let scenario = shop(&[1, 2]);
    let _mirrors = [1, 2].map(|node| mirror(&scenario, node));
    let _agent = agent(&scenario);
    are_seen_as_they_are(&scenario, 20, 2);
}

#[test]
fn the_short_circuit_keeps_addresses_too() {
    let scenario = shop(&[2]);
    write(&scenario, json!({ "externalTrafficPolicy": "Local" }), &ingress());
    let _mirror = mirror(&scenario, 2);
    let _agent = agent(&scenario);
    are_seen_as_they_are(&scenario, 2, 1);
}

#[test]
fn a_pod_reaches_itself_through_its_service_alone_and_among_others() {
    let scenario = shop(&[1]);
    let _mirrors = [1, 2].map(|node| mirror(&scenario, node));
    let _agent = agent(&scenario);
    let pod = scenario.cluster.pod(1, 2);
    let own: BTreeSet<SocketAddr> = addresses(pod).into();
    let mut app = app(scenario.cluster.node(1), Some(2));
    let mut ask_all = |times: usize| -> BTreeSet<SocketAddr> {
        let targets = [at(CLUSTER_IPS, PORT), at(LB_IPS, PORT)].into_iter().flatten();
        let mut backends = BTreeSet::new();
        for target in targets {
            for way in Way::ALL {
                for _ in 0..times {
                    // The very first packet too: nothing is tried twice.
                    let seen = ask(&mut app, "socket", way, target).unwrap();
                    let is_own = [pod.v4, pod.v6].contains(&seen.client.ip());
                    assert!(is_own && seen.peer == target, "{way:?} {target}: {seen:?}");
                    backends.insert(seen.backend);
                }
            }
        }
        backends
    };
    assert_eq!(ask_all(3), own);
    list_mirrors(&scenario, &[(1, json!({})), (2, json!({}))]);
    let all: BTreeSet<SocketAddr> = addresses(scenario.cluster.pod(2, 2)).into_iter().chain(own).collect();
    tests::wait::until(std::time::Duration::from_secs(5), "the other", || {
        Ok((ask_all(4) == all).then_some(()))
    })
    .unwrap();
}

#[test]
fn clients_of_one_source_port_do_not_meet() {
    let scenario = shop(&[2]);
    let _mirror = mirror(&scenario, 2);
    let _agent = agent(&scenario);
    let node = scenario.cluster.node(1);
    let [target, other] = [CLUSTER_IPS, LB_IPS].map(|ips| at(ips, PORT)[0]);
    let mut clients: Vec<_> =
        [(Some(1), node.pods[0].v4), (Some(2), node.pods[1].v4), (None, node.addresses()[0])]
            .map(|(place, ip)| (app(node, place), SocketAddr::new(ip, 20_000)))
            .into();
    for (app, own) in &mut clients {
        app.tell(&format!("dial held {target} from {own}")).unwrap();
    }
    for (app, own) in &mut clients {
        assert_eq!(say(app, "held").unwrap().client, *own);
    }
    // The difference: nothing gives the second connection another port on its way, so it is refused at once.
    let (app, own) = &mut clients[0];
    let error = app.tell(&format!("dial second {other} from {own}")).unwrap_err().to_string();
    assert!(error.ends_with("EADDRNOTAVAIL"), "{error}");
    // Whoever leaves the choice of a port to the kernel never notices.
    for (name, to) in [("third", target), ("fourth", other)] {
        app.tell(&format!("dial {name} {to}")).unwrap();
        assert_eq!(say(app, name).unwrap().peer, to);
    }
    assert_eq!(say(app, "held").unwrap().client, *own);
}

#[test]
fn datagrams_in_fragments_arrive_both_ways() {
    let scenario = shop(&[2]);
    let _mirror = mirror(&scenario, 2);
    let _agent = agent(&scenario);
    for place in [Some(1), None] {
        let mut app = app(scenario.cluster.node(1), place);
        for target in at(CLUSTER_IPS, PORT) {
            for way in [Way::Connected, Way::Datagram] {
                ask(&mut app, "socket", way, target).unwrap();
                for length in [2_000, 9_000] {
                    let answer = app.tell(&format!("ask socket {length} of {target}")).unwrap();
                    assert!(answer.ends_with(&target.to_string()), "{way:?} {length}: {answer}");
                }
            }
        }
    }
}

#[test]
fn what_a_dead_backend_answers_is_what_the_client_gets() {
    // Nobody listens: the one that is listed has no mirror.
    let scenario = shop(&[2]);
    let agent = agent(&scenario);
    let node = scenario.cluster.node(1);
    for place in [Some(1), None] {
        let mut app = app(node, place);
        for target in at(CLUSTER_IPS, PORT) {
            let error = ask(&mut app, "socket", Way::Tcp, target).unwrap_err().to_string();
            assert!(error.ends_with("ECONNREFUSED"), "{error}");
            let error = ask(&mut app, "socket", Way::Connected, target).unwrap_err().to_string();
            assert!(error.contains("onnection refused"), "the backend's ICMP message: {error}");
        }
    }
    // The control: nobody is refused by Shunt itself, who counts what it refuses.
    let direct = scenario.cluster.pod(2, 2).v4;
    let error = ask(&mut app(node, Some(1)), "socket", Way::Tcp, SocketAddr::new(direct, MIRROR_PORT));
    assert!(error.unwrap_err().to_string().ends_with("ECONNREFUSED"));
    let counters = agent.shunt(&["dump", "counters"]).unwrap();
    let refused = counters.lines().find(|line| line.contains("no-endpoints")).unwrap();
    assert!(refused.ends_with(" 0"), "{refused}");
}
