//! The role that `deploy` gives the agent, against what the running source asks for.

use std::collections::BTreeSet;

use tests::apiserver::{ApiServer, Asked};
use tests::deployment::{Right, of_kind, plain, rights};

use crate::rig::{NODE, Rig, server};

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// The right that an API server looks for before it answers.
fn needed(asked: &Asked) -> Right {
    let parts: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
    let verb = if asked.query.contains("watch=") { "watch" } else { "list" };
    match *parts {
        ["api", "v1", resource] => right("", resource, verb),
        ["apis", group, _, resource] => right(group, resource, verb),
        _ => panic!("no collection: {}", asked.path),
    }
}

/// What a source asks of the server until it has listed all.
fn asked_of(server: &ApiServer) -> Vec<Asked> {
    let _rig = Rig::listed(server);
    server.asked()
}

#[test]
fn the_role_holds_exactly_what_is_asked_for() {
    // One server is listed as a stream, which is a watch; the other in pages: together every way of asking.
    let (streaming, paging) = (server(), server());
    paging.behave(|manners| manners.streams_lists = false);
    let asked = [asked_of(&streaming), asked_of(&paging)].concat();
    let needed: BTreeSet<Right> = asked.iter().map(needed).collect();

    let objects = plain().unwrap();
    let mut granted = rights(of_kind(&objects, "ClusterRole").unwrap()).unwrap();
    // The agent writes nothing but Events, in which the source has no part.
    for verb in ["create", "patch"] {
        assert!(granted.remove(&right("events.k8s.io", "events", verb)), "no {verb} of Events");
    }
    assert_eq!(granted, needed);
}

#[test]
fn only_the_own_node_is_asked_for() {
    let asked = asked_of(&server());
    let queries: Vec<&String> =
        asked.iter().filter(|asked| asked.path.ends_with("/nodes")).map(|asked| &asked.query).collect();
    let own = format!("fieldSelector=metadata.name%3D{NODE}");
    assert!(!queries.is_empty() && queries.iter().all(|query| query.contains(&own)), "{queries:?}");
}
