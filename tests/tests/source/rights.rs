//! The role that `deploy` gives the agent, against what the running source asks for, and the Events that it writes.

use std::collections::BTreeSet;

use shunt::source::api::Kind;
use tests::apiserver::{ApiServer, Asked};
use tests::deployment::{Right, of_kind, plain, rights};

use crate::events::{limits, recorder, until, warning};
use crate::rig::{NODE, Rig, server};

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// The right that an API server looks for before it answers.
fn needed(asked: &Asked) -> Right {
    let parts: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
    let verb = match (&*asked.method, asked.query.contains("watch=")) {
        ("GET", true) => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        (other, _) => panic!("{other} {}", asked.path),
    };
    match *parts {
        ["api", "v1", resource] | ["api", "v1", "namespaces", _, resource] => right("", resource, verb),
        ["apis", group, _, resource]
        | ["apis", group, _, "namespaces", _, resource]
        | ["apis", group, _, "namespaces", _, resource, _] => right(group, resource, verb),
        _ => panic!("no collection: {}", asked.path),
    }
}

/// What a source asks of the server until it has listed all, and what is asked and written to tell of something twice.
fn asked_of(server: &ApiServer) -> Vec<Asked> {
    let rig = Rig::listed(server);
    let mut recorder = recorder(server, NODE, limits());
    let warning = warning(Kind::Service, "default", "web");
    recorder.skipped(std::slice::from_ref(&warning));
    until("it is told", || server.events().len() == 1);
    recorder.skipped(&[warning]);
    until("it is counted up", || server.events()[0]["series"]["count"] == 2);
    drop(rig);
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
    let granted = rights(of_kind(&objects, "ClusterRole").unwrap()).unwrap();
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
