//! The own Node, which changes while the agent runs.

use std::time::Duration;

use serde_json::{Value, json};
use shunt::model::{Event, Listing};
use tests::apiserver::NODES;

use crate::rig::{NODE, Rig, anonymous, bounds, server, short_bounds};

const MARK: &str = "ToBeDeletedByClusterAutoscaler";

/// The own Node with all that is read of it.
fn node(zone: &str, address: &str, range: &str, taints: &[&str]) -> Value {
    let taint = |key: &&str| json!({ "key": key, "effect": "NoSchedule" });
    json!({
        "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": zone } },
        "spec": { "podCIDRs": [range], "taints": taints.iter().map(taint).collect::<Vec<_>>() },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    })
}

/// Zone, address, range, and whether it is on its way out.
type Seen = (Option<String>, Vec<String>, Vec<String>, bool);

fn seen(rig: &Rig) -> Seen {
    let node = rig.state.node();
    let zone = node.zone.as_deref().map(str::to_owned);
    let addresses = node.addresses.iter().map(ToString::to_string).collect();
    (zone, addresses, node.pod_cidrs.iter().map(ToString::to_string).collect(), node.is_leaving)
}

fn wanted(zone: &str, address: &str, range: &str, is_leaving: bool) -> Seen {
    (Some(zone.to_owned()), vec![address.to_owned()], vec![range.to_owned()], is_leaving)
}

#[test]
fn changes_of_the_own_node_are_followed() {
    let server = server();
    let mut rig = Rig::listed(&server);
    let steps = [
        (node("a", "172.30.0.1", "10.244.1.0/24", &[]), wanted("a", "172.30.0.1", "10.244.1.0/24", false)),
        (node("b", "172.30.0.1", "10.244.1.0/24", &[]), wanted("b", "172.30.0.1", "10.244.1.0/24", false)),
        (node("b", "172.30.0.9", "10.244.1.0/24", &[]), wanted("b", "172.30.0.9", "10.244.1.0/24", false)),
        (node("b", "172.30.0.9", "10.244.7.0/24", &[]), wanted("b", "172.30.0.9", "10.244.7.0/24", false)),
        (
            node("b", "172.30.0.9", "10.244.7.0/24", &["x", MARK]),
            wanted("b", "172.30.0.9", "10.244.7.0/24", true),
        ),
        (node("b", "172.30.0.9", "10.244.7.0/24", &["x"]), wanted("b", "172.30.0.9", "10.244.7.0/24", false)),
    ];
    for (object, wanted) in steps {
        server.put(NODES, object);
        rig.until(&format!("{wanted:?}"), |rig| seen(rig) == wanted);
    }
    let mut going = node("b", "172.30.0.9", "10.244.7.0/24", &[]);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    server.put(NODES, going);
    rig.until("its deletion has begun", |rig| rig.state.node().is_leaving);
    let mut plain = node("", "172.30.0.9", "10.244.7.0/24", &[]);
    plain["metadata"]["labels"] = json!({});
    server.put(NODES, plain);
    rig.until("the zone is gone", |rig| rig.state.node().zone.is_none() && !rig.state.node().is_leaving);
    assert_eq!(rig.watch(Listing::Node).listings, 1, "all of it came on one watch");
    assert!(rig.warnings.is_empty(), "{:?}", rig.warnings);
}

#[test]
fn a_node_that_is_deleted_and_made_anew_is_followed() {
    let server = server();
    let mut rig = Rig::listed(&server);
    let object = || node("a", "172.30.0.1", "10.244.1.0/24", &[]);
    let there = wanted("a", "172.30.0.1", "10.244.1.0/24", false);
    let gone = (None, Vec::new(), Vec::new(), true);
    server.put(NODES, object());
    rig.until("it is known", |rig| seen(rig) == there);
    server.delete(NODES, "", NODE);
    rig.until("it is gone", |rig| seen(rig) == gone);
    assert_eq!(&*rig.state.node().name, NODE, "endpoints stay local");
    server.put(NODES, object());
    rig.until("it is back", |rig| seen(rig) == there);
}

#[test]
fn a_node_that_went_unseen_is_missed_by_the_next_listing() {
    let server = server();
    let mut rig = Rig::follow(anonymous(&[&server]), short_bounds()).until_listed();
    server.behave(|manners| manners.is_silent = true);
    server.delete(NODES, "", NODE);
    server.compact();
    server.cut();
    server.behave(|manners| manners.is_silent = false);
    rig.until("it is gone", |rig| rig.state.node().zone.is_none() && rig.state.node().is_leaving);
    assert!(!rig.events.contains(&Event::NodeDeleted), "no deletion was seen: {:?}", rig.events);
    assert!(rig.warnings.is_empty(), "{:?}", rig.warnings);
}

#[test]
fn changes_of_other_nodes_are_not_seen() {
    let server = server();
    let mut rig = Rig::listed(&server);
    for index in 0..10 {
        server.put(NODES, json!({ "metadata": { "name": "node-2", "labels": { "x": index.to_string() } } }));
    }
    server.put(NODES, node("b", "172.30.0.1", "10.244.1.0/24", &[]));
    rig.until("the own change is seen", |rig| rig.state.node().zone.as_deref() == Some("b"));
    let of_nodes = rig.events.iter().filter(|event| matches!(event, Event::NodeApplied(_) | Event::NodeKept));
    assert_eq!(of_nodes.count(), 1, "{:?}", rig.events);
}

#[test]
fn a_node_that_stops_to_make_sense_keeps_what_was_known_of_it() {
    let server = server();
    let mut rig = Rig::listed(&server);
    let mut bad = node("b", "172.30.0.1", "10.244.1.0/24", &[]);
    bad["spec"]["podCIDRs"] = 7.into();
    server.put(NODES, bad);
    rig.until("it is named", |rig| !rig.warnings.is_empty());
    assert!(rig.warnings[0].to_string().starts_with("Node node-1: spec.podCIDRs: "), "{:?}", rig.warnings);
    assert_eq!(rig.state.node().zone.as_deref(), Some("z"));
}

#[test]
fn a_node_that_never_made_sense_is_not_called_missing() {
    let server = server();
    let mut bad = node("b", "172.30.0.1", "10.244.1.0/24", &[]);
    bad["spec"]["podCIDRs"] = 7.into();
    server.put(NODES, bad);
    let mut rig = Rig::follow(anonymous(&[&server]), bounds()).until_listed();
    let warnings: Vec<String> = rig.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[1].starts_with("Node node-1: makes no sense as it is; going on without"),
        "{warnings:?}"
    );
    server.put(NODES, node("c", "172.30.0.1", "10.244.1.0/24", &[]));
    rig.until("it makes sense", |rig| rig.state.node().zone.as_deref() == Some("c"));
    rig.for_a_while(Duration::from_millis(50));
    assert_eq!(rig.warnings.len(), 2);
}
