//! Every frontend of a Service, as clients on a node see it: who is served, by whom, and who is refused how.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::agent::Agent;
use tests::wait;

use crate::scenario::{PORT, Scenario};
use crate::shop::{
    CLUSTER_IPS, EXTERNAL_IPS, KINDS, LB_IPS, NODE_PORT, ask, at, clients, frontends, ingress, list,
    loopback, meets_both, on_node, settles, write,
};

/// The scenario with the Service of every kind and both endpoints, and an agent on node 1.
fn shop(spec: serde_json::Value) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, spec, &ingress());
    list(&scenario, &[1, 2]);
    scenario
}

fn agent<'a>(scenario: &'a Scenario, arguments: &[&str]) -> Agent<'a> {
    Agent::start_with(scenario.cluster.node(1), scenario.manifests.path(), arguments).unwrap()
}

#[test]
fn every_frontend_is_served_where_the_client_is() {
    let scenario = shop(json!({}));
    let _agent = agent(&scenario, &[]);
    for client in clients(&scenario) {
        for (target, _) in frontends(&scenario) {
            for kind in KINDS {
                meets_both(client, (target, kind));
            }
        }
    }
}

#[test]
fn node_ports_are_served_on_the_hosts_loopback_and_not_on_a_pods() {
    let scenario = shop(json!({}));
    let _agent = agent(&scenario, &["--nodeport-addresses", "primary"]);
    let [pod, host] = clients(&scenario);
    for target in loopback(NODE_PORT) {
        for kind in KINDS {
            meets_both(host, (target, kind));
        }
        assert_eq!(ask(pod, target, &[]).error.as_deref(), Some("ECONNREFUSED"));
    }
}

#[test]
fn node_ports_of_other_nodes_and_of_addresses_not_chosen_are_left_alone() {
    let scenario = shop(json!({}));
    // A range that holds only the IPv4 address of the node.
    let _agent = agent(&scenario, &["--nodeport-addresses", "172.30.0.0/24,fd00:ffff::/64"]);
    let [v4, v6] = on_node(&scenario, 1);
    for client in clients(&scenario) {
        meets_both(client, (v4, &[]));
        assert_eq!(ask(client, v6, &[]).error.as_deref(), Some("ECONNREFUSED"));
        for target in on_node(&scenario, 2) {
            let report = ask(client, target, &[]);
            assert!(report.name.is_none(), "node 2 has no agent: {report:?}");
        }
    }
}

#[test]
fn external_policy_local_is_short_circuited_for_clients_inside() {
    let scenario = shop(json!({ "externalTrafficPolicy": "Local" }));
    list(&scenario, &[2]);
    let _agent = agent(&scenario, &[]);
    for client in clients(&scenario) {
        for (target, _) in frontends(&scenario) {
            for kind in KINDS {
                settles(client, (target, kind), "pod-2-2");
            }
        }
    }
}

#[test]
fn internal_policy_local_binds_the_cluster_ip_alone() {
    let scenario = shop(json!({ "internalTrafficPolicy": "Local" }));
    let agent = agent(&scenario, &[]);
    route_everything(&scenario);
    for client in clients(&scenario) {
        for (target, is_external) in frontends(&scenario) {
            for kind in KINDS {
                if is_external {
                    meets_both(client, (target, kind));
                } else {
                    settles(client, (target, kind), "pod-1-2");
                }
            }
        }
    }
    // With none here and some elsewhere the caller must time out, and nothing may leave the pod.
    list(&scenario, &[2]);
    for client in clients(&scenario) {
        for (target, is_external) in frontends(&scenario) {
            for (kind, error) in KINDS.into_iter().zip(["timeout", "EPERM", "EPERM"]) {
                settles(client, (target, kind), if is_external { "pod-2-2" } else { error });
            }
        }
    }
    assert!(agent.progress().unwrap().clients.is_guarded);
    // None anywhere is refused.
    list(&scenario, &[]);
    for client in clients(&scenario) {
        for (target, _) in frontends(&scenario) {
            for kind in KINDS {
                settles(client, (target, kind), "ECONNREFUSED");
            }
        }
    }
}

#[test]
fn an_unassigned_cluster_ip_times_out_and_nothing_leaves() {
    let scenario = shop(json!({}));
    let agent = agent(&scenario, &[]);
    route_everything(&scenario);
    let unassigned = at(["10.96.0.250", "fd00:10:96::250"], PORT);
    assert!(!agent.progress().unwrap().clients.is_guarded, "nobody pays for a guard that nobody needs");
    for client in clients(&scenario) {
        for target in unassigned {
            // The first finds no guard, and is told at once.
            let first = ask(client, target, &[]).error;
            assert!(
                first.as_deref().is_some_and(|error| ["ETIMEDOUT", "timeout"].contains(&error)),
                "{first:?}"
            );
            let guarded = || Ok(agent.progress()?.clients.is_guarded.then_some(()));
            wait::until(Duration::from_secs(3), "the guard", guarded).unwrap();
            settles(client, (target, &[]), "timeout");
            settles(client, (target, &["--udp"]), "EPERM");
            settles(client, (target, &["--datagram"]), "EPERM");
        }
    }
    // A Service that gets the address is served there.
    write(
        &scenario,
        json!({ "clusterIP": "10.96.0.250", "clusterIPs": ["10.96.0.250", "fd00:10:96::250"] }),
        &ingress(),
    );
    for client in clients(&scenario) {
        for target in unassigned {
            wait::until(Duration::from_secs(3), "service", || Ok(ask(client, target, &[]).name)).unwrap();
        }
    }
}

#[test]
fn a_balancer_that_works_by_proxy_is_not_intercepted() {
    let scenario = shop(json!({}));
    let proxied = json!(LB_IPS.map(|ip| json!({ "ip": ip, "ipMode": "Proxy" })));
    write(&scenario, json!({}), &proxied);
    let _agent = agent(&scenario, &[]);
    let unserved = |client, target: SocketAddr| {
        let report = ask(client, target, &[]);
        assert!(report.name.is_none(), "{report:?}");
    };
    for client in clients(&scenario) {
        for target in at(LB_IPS, PORT) {
            unserved(client, target);
        }
        for target in at(EXTERNAL_IPS, PORT) {
            meets_both(client, (target, &[]));
        }
    }
    // The mode is followed at once.
    write(&scenario, json!({}), &ingress());
    for client in clients(&scenario) {
        for target in at(LB_IPS, PORT) {
            wait::until(Duration::from_secs(3), "service", || Ok(ask(client, target, &[]).name)).unwrap();
        }
    }
}

#[test]
fn with_the_host_only_pods_are_left_to_others() {
    let scenario = shop(json!({}));
    let _agent = agent(&scenario, &["--socket-lb", "host"]);
    let [pod, host] = clients(&scenario);
    for target in at(CLUSTER_IPS, PORT) {
        for kind in KINDS {
            meets_both(host, (target, kind));
            let report = ask(pod, target, kind);
            assert!(report.name.is_none() && report.error.as_deref() != Some("ECONNREFUSED"), "{report:?}");
        }
    }
}

#[test]
fn with_sockets_off_no_hook_is_left_and_none_comes() {
    let scenario = shop(json!({}));
    let before = agent(&scenario, &[]);
    let [pod, host] = clients(&scenario);
    meets_both(pod, (at(CLUSTER_IPS, PORT)[0], &[]));
    drop(before);
    assert!(ask(pod, at(CLUSTER_IPS, PORT)[0], &[]).name.is_some(), "what is attached stays in force");
    let agent = agent(&scenario, &["--socket-lb", "off"]);
    for client in [pod, host] {
        for target in at(CLUSTER_IPS, PORT) {
            let report = ask(client, target, &[]);
            assert!(report.name.is_none(), "{report:?}");
        }
    }
    let links = tests::agent::pin_dir(agent.node()).join("links");
    assert_eq!(std::fs::read_dir(links).unwrap().count(), 0);
    assert!(agent.progress().unwrap().hooks.is_empty());
}

/// Gives every client a route to everything, as nodes have: what is not dropped on its way leaves.
pub(crate) fn route_everything(scenario: &Scenario) {
    let node = scenario.cluster.node(1);
    for line in ["route add 10.96.0.0/16 dev eth0", "route add fd00:10:96::/112 dev eth0"] {
        node.netns.ip(line).unwrap();
    }
}
