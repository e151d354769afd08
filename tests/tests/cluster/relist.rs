//! A watch that cannot go on where it stopped: etcd has forgotten the place, or the server fell silent.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt::model::Listing;
use tests::agent::Agent;
use tests::cluster::objects::{Ref, SERVICE, SLICE};
use tests::cluster::{Api, ControlPlane, Cut, bulk};
use tests::topology::Cluster;
use tests::wait;

use crate::rig::{
    LIMIT, USER, at, load, not_served, serve, served_by, uncontrolled, uncontrolled_with, unharmed, verified,
};

/// Both kinds whose objects these tests change.
const KINDS: [Listing; 2] = [Listing::Services, Listing::EndpointSlices];
/// The second way to the API server.
const OTHER_PORT: u16 = 6444;
/// What the agent is documented to take until it notices that a host is gone, and time for a busy machine.
const BOUND: Duration = Duration::from_secs(30);
const SLACK: Duration = Duration::from_secs(10);

#[test]
fn after_a_compaction_everything_is_listed_anew_and_deletions_are_not_missed() {
    let topology = Cluster::new(1, 2).unwrap();
    // Without its cache the server asks etcd for what a watch has missed, as it does for what its cache has let go.
    let control = uncontrolled_with(&topology, &["--watch-cache=false"]);
    let (node, client, pod) = (topology.node(1), topology.pod(1, 1).place(), topology.pod(1, 2));
    let _server = serve(pod);
    let api = control.api().unwrap();
    let vips = api.create_services(0..3, |_| vec![pod.v4]).unwrap();
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let listings = || KINDS.map(|kind| agent.watch(kind).unwrap().listings);
    assert_eq!(listings(), [1, 1]);
    for vip in &vips {
        served_by(client, at(*vip), &[&pod.name]);
    }

    // The control: with nothing forgotten, both watches go on where they stopped.
    while_away(&agent, &control, || api.delete_services(0..1).unwrap());
    not_served(client, at(vips[0]));
    verified(&agent);
    assert_eq!(listings(), [1, 1]);

    while_away(&agent, &control, || {
        api.delete_services(1..2).unwrap();
        println!("compacted at {}", control.compact().unwrap());
    });
    not_served(client, at(vips[1]));
    wait::until(LIMIT, "both to be listed anew", || Ok((listings() == [2, 2]).then_some(()))).unwrap();
    for kind in KINDS {
        let error = agent.watch(kind).unwrap().last_error.unwrap_or_default();
        assert!(error.contains("410"), "{kind:?}: {error}");
    }
    verified(&agent);
    served_by(client, at(vips[2]), &[&pod.name]);
}

/// Does `work` while the agent's connections to the API server are broken and new ones are refused; returns once both
/// watches are followed again.
fn while_away(agent: &Agent<'_>, control: &ControlPlane, work: impl FnOnce()) {
    let cut = Cut::refusing(control, agent.node(), control.port()).unwrap();
    let mut turn = 0;
    wait::until(LIMIT, "the loss to be known", || {
        // A connection is found to be broken when something is sent: here, that an event has come.
        turn += 1;
        touch(control.api()?, turn);
        Ok(KINDS
            .iter()
            .all(|kind| agent.watch(*kind).is_ok_and(|watch| watch.lost_since.is_some()))
            .then_some(()))
    })
    .unwrap();
    work();
    drop(cut);
    wait::until(LIMIT, "both to be followed", || {
        let follows = |kind: &Listing| agent.watch(*kind).is_ok_and(|watch| watch.watching_since.is_some());
        Ok(KINDS.iter().all(follows).then_some(()))
    })
    .unwrap();
}

/// Changes a service and a slice in a way that means nothing.
fn touch(api: &Api, turn: u32) {
    let name = bulk::name(2);
    for kind in [SERVICE, SLICE] {
        let object = Ref { kind, namespace: Some(bulk::NAMESPACE), name: &name };
        api.patch(&object, json!({ "metadata": { "annotations": { "turn": turn.to_string() } } })).unwrap();
    }
}

#[test]
fn a_server_that_falls_silent_is_left_for_another_within_the_bound() {
    let topology = Cluster::new(1, 3).unwrap();
    let control = uncontrolled(&topology);
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (before, after) = (topology.pod(1, 2), topology.pod(1, 3));
    let _servers = [serve(before), serve(after)];
    let api = control.api().unwrap();
    let vips = api.create_services(0..3, |_| vec![before.v4]).unwrap();
    let other = control.also_at(OTHER_PORT).unwrap();
    let servers = format!("{},{other}", control.url());
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &["--api-server", &servers]).unwrap();
    let server = || agent.watch(Listing::Services).unwrap().server;
    assert_eq!(server(), format!("{}/", control.url()));
    // Sign of life a moment ago.
    api.point_services([2].into_iter(), |_| vec![after.v4]).unwrap();
    served_by(client, at(vips[2]), &[&after.name]);
    let loads = load(client, &[at(vips[1])]);

    let _cut = Cut::silently(&control, node, control.port()).unwrap();
    let silent = Instant::now();
    api.delete_services(0..1).unwrap();
    api.point_services([1].into_iter(), |_| vec![after.v4]).unwrap();
    wait::until(BOUND * 2, "another server", || Ok((server() == format!("{other}/")).then_some(()))).unwrap();
    let took = silent.elapsed();
    println!("left after {took:.1?}");
    // A reset, or a refusal, would have been noticed at once.
    assert!(took > BOUND / 2 && took < BOUND + SLACK, "{took:?}");
    served_by(client, at(vips[1]), &[&after.name]);
    not_served(client, at(vips[0]));
    verified(&agent);
    unharmed(loads);
}
