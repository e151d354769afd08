//! Which endpoints clients are given: conditions, the fallback to terminating ones, hints and policies.

use serde_json::{Value, json};
use tests::agent::Agent;

use crate::scenario::{PORT, Scenario};
use crate::shop::{
    CLUSTER_IPS, KINDS, LB_IPS, at, comes_to_meet_both, ingress, list_as, looks, settles, write,
};

/// The three conditions.
fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({ "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
}

fn ready() -> Value {
    conditions(true, true, false)
}

/// Told to end, and serving what it has.
fn draining() -> Value {
    conditions(false, true, true)
}

/// Not ready, though it may well answer.
fn unready() -> Value {
    conditions(false, true, false)
}

fn shop(spec: Value) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, spec, &ingress());
    scenario
}

fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

/// Every look gets this backend or error, and nothing else.
#[track_caller]
fn all_get(scenario: &Scenario, wanted: &str) {
    for (client, look) in looks(scenario) {
        settles(client, look, wanted);
    }
}

#[track_caller]
fn all_get_both(scenario: &Scenario) {
    for (client, look) in looks(scenario) {
        comes_to_meet_both(client, look);
    }
}

#[test]
fn terminating_endpoints_serve_only_while_none_is_ready() {
    let scenario = shop(json!({}));
    let _agent = agent(&scenario);
    let no_longer_serving = conditions(false, false, true);
    for (endpoints, wanted) in [
        // Silence means ready.
        ([json!({}), draining()], "pod-1-2"),
        ([unready(), draining()], "pod-2-2"),
        ([unready(), no_longer_serving], "ECONNREFUSED"),
        // It comes back, and the other gets nothing any more.
        ([ready(), draining()], "pod-1-2"),
    ] {
        let [first, second] = endpoints;
        list_as(&scenario, &[(1, first), (2, second)]);
        all_get(&scenario, wanted);
    }
    list_as(&scenario, &[(1, draining()), (2, draining())]);
    all_get_both(&scenario);
}

#[test]
fn pods_that_publish_themselves_unready_are_used_until_they_are_gone() {
    let scenario = shop(json!({}));
    let _agent = agent(&scenario);
    // What the slice controller writes for them, whatever else it says.
    list_as(&scenario, &[(1, conditions(true, false, true)), (2, draining())]);
    all_get(&scenario, "pod-1-2");
    list_as(&scenario, &[(1, conditions(true, false, false)), (2, conditions(true, false, true))]);
    all_get_both(&scenario);
}

#[test]
fn the_local_set_and_the_cluster_set_fall_back_apart() {
    let scenario = shop(json!({ "internalTrafficPolicy": "Local" }));
    let _agent = agent(&scenario);
    crate::frontends::route_everything(&scenario);
    for (endpoints, inside, outside) in [
        ([draining(), ready()], "pod-1-2", "pod-2-2"),
        ([ready(), draining()], "pod-1-2", "pod-1-2"),
        ([unready(), draining()], "timeout", "pod-2-2"),
        ([unready(), unready()], "ECONNREFUSED", "ECONNREFUSED"),
    ] {
        let [first, second] = endpoints;
        list_as(&scenario, &[(1, first), (2, second)]);
        for (client, (target, kind)) in looks(&scenario) {
            let is_inside = at(CLUSTER_IPS, PORT).contains(&target);
            // UDP is told at once what TCP waits for.
            let inside = if inside == "timeout" && !kind.is_empty() { "EPERM" } else { inside };
            settles(client, (target, kind), if is_inside { inside } else { outside });
        }
    }
}

/// A ready endpoint that is meant for these zones and nodes.
fn hinted(zones: &[&str], nodes: &[&str]) -> Value {
    let named = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
    json!({
        "conditions": { "ready": true },
        "hints": { "forZones": named(zones), "forNodes": named(nodes) },
    })
}

/// Gives node 1 this zone.
fn move_to(scenario: &Scenario, zone: &str) {
    scenario.manifests.write_cluster(&scenario.cluster).unwrap();
    let text = std::fs::read_to_string(scenario.manifests.path().join("cluster.yaml")).unwrap();
    let labelled = format!("{{name: node-1, labels: {{topology.kubernetes.io/zone: {zone}}}}}");
    let moved = text.replace("{name: node-1}", &labelled);
    assert_ne!(moved, text);
    scenario.manifests.write("cluster.yaml", &moved).unwrap();
}

#[test]
fn hints_keep_clients_in_their_zone_where_all_endpoints_have_them() {
    let scenario = shop(json!({}));
    let by_zone = [(1, hinted(&["a"], &[])), (2, hinted(&["b", "c"], &[]))];
    list_as(&scenario, &by_zone);
    let _agent = agent(&scenario);
    // A node without a zone is in none of them.
    all_get_both(&scenario);
    for (zone, wanted) in [("a", "pod-1-2"), ("c", "pod-2-2")] {
        move_to(&scenario, zone);
        all_get(&scenario, wanted);
    }
    // A zone that no hint names, and an endpoint without a hint: either leaves all.
    move_to(&scenario, "d");
    all_get_both(&scenario);
    move_to(&scenario, "c");
    all_get(&scenario, "pod-2-2");
    list_as(&scenario, &[(1, ready()), by_zone[1].clone()]);
    all_get_both(&scenario);
    // One that is not ready has no say: neither does it lack a hint, nor is its zone served by it.
    list_as(
        &scenario,
        &[(1, hinted(&["a"], &[])), (2, crate::shop::laid_over(hinted(&["c"], &[]), unready()))],
    );
    all_get(&scenario, "pod-1-2");
}

#[test]
fn a_hint_for_the_node_comes_before_one_for_its_zone() {
    let scenario = shop(json!({}));
    move_to(&scenario, "a");
    list_as(&scenario, &[(1, hinted(&["b"], &["node-1"])), (2, hinted(&["a"], &["node-2"]))]);
    let _agent = agent(&scenario);
    all_get(&scenario, "pod-1-2");
    // Its node's endpoint goes: the zone decides.
    list_as(&scenario, &[(1, hinted(&["b"], &["node-3"])), (2, hinted(&["a"], &["node-2"]))]);
    all_get(&scenario, "pod-2-2");
}

#[test]
fn hints_bind_no_local_set_and_no_fallback() {
    let scenario = shop(json!({ "internalTrafficPolicy": "Local" }));
    move_to(&scenario, "b");
    list_as(&scenario, &[(1, hinted(&["a"], &[])), (2, hinted(&["b"], &[]))]);
    let _agent = agent(&scenario);
    let pod = scenario.cluster.pod(1, 1).place();
    for kind in KINDS {
        settles(pod, (at(CLUSTER_IPS, PORT)[0], kind), "pod-1-2");
        settles(pod, (at(LB_IPS, PORT)[0], kind), "pod-2-2");
    }
    let draining = |zone| crate::shop::laid_over(hinted(&[zone], &[]), draining());
    list_as(&scenario, &[(1, draining("a")), (2, draining("b"))]);
    for kind in KINDS {
        comes_to_meet_both(pod, (at(LB_IPS, PORT)[0], kind));
    }
}
