//! What changes while an agent cannot follow: the API server is down, or the agent itself is.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use shunt::model::Listing;
use tests::agent::Agent;
use tests::cluster::{Api, ControlPlane};
use tests::topology::Cluster;
use tests::wait;

use crate::rig::{
    LIMIT, USER, at, load, not_served, serve, served_by, uncontrolled, unharmed, verified, written,
};

/// Services that there are.
const SERVICES: usize = 500;
/// How many go, and how many others get another endpoint, while nobody tells the agent.
const GONE: usize = 100;
const MOVED: usize = 100;
/// How long the API server stays away; Show 4 asks for a minute.
fn away() -> Duration {
    let seconds = std::env::var("SHUNT_OUTAGE_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Many services, all of which lead to the pod `before`, and the VIPs of them.
struct World {
    topology: Cluster,
    control: ControlPlane,
    vips: Vec<SocketAddr>,
}

impl World {
    fn new() -> Self {
        let topology = Cluster::new(1, 3).unwrap();
        let control = uncontrolled(&topology);
        let before = topology.pod(1, 2).v4;
        let vips = control.api().unwrap().create_services(0..SERVICES, |_| vec![before]).unwrap();
        Self { vips: vips.into_iter().map(at).collect(), topology, control }
    }
}

/// Deletes the first services, and gives those after them another endpoint.
fn change(api: &Api, topology: &Cluster, (first, gone, moved): (usize, usize, usize)) {
    let after = topology.pod(1, 3).v4;
    api.delete_services(first..first + gone).unwrap();
    api.point_services(first + gone..first + gone + moved, |_| vec![after]).unwrap();
}

#[test]
fn what_changed_while_the_api_server_was_down_comes_as_one_difference() {
    let World { topology, mut control, vips } = World::new();
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (before, after) = (topology.pod(1, 2), topology.pod(1, 3));
    // Both serve all the time: a client that is told late is not told wrong.
    let _servers = [serve(before), serve(after)];
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    served_by(client, vips[SERVICES - 1], &[&before.name]);
    let loads = load(client, &[vips[GONE], vips[SERVICES - 1]]);
    let (known, first) = (agent.progress().unwrap().sync, written(&agent));

    let door = control.side_door().unwrap();
    control.stop_api_server().unwrap();
    let down = Instant::now();
    wait::until(LIMIT, "the loss to be known", || Ok(agent.watch(Listing::Services)?.lost_since)).unwrap();
    change(door.api(), &topology, (0, GONE, MOVED));
    thread::sleep(away().saturating_sub(down.elapsed()));
    // What is known stands.
    served_by(client, vips[0], &[&before.name]);
    served_by(client, vips[GONE], &[&before.name]);
    assert_eq!(agent.progress().unwrap().sync.batches, known.batches);

    let started = Instant::now();
    let (converged, ready) = thread::scope(|scope| {
        let converged = scope.spawn(|| converged(&agent, known.stores));
        control.start_api_server().unwrap();
        let ready = started.elapsed();
        (converged.join().unwrap() - started, ready)
    });
    let sync = agent.progress().unwrap().sync;
    let (batches, stores) = (sync.batches - known.batches, written(&agent) - first);
    println!(
        "down for {:.1?}; {GONE} services gone and {MOVED} moved; the server, started again, was ready after {ready:.2?}, and \
         all in force after {converged:.2?}, by {batches} batches and {stores} stores and operations",
        started - down,
    );
    verified(&agent);
    assert!(batches <= 4, "{batches} batches");
    assert!(stores <= costs(first, GONE + MOVED), "{stores} stores and operations, {first} for all");
    for listing in [Listing::Services, Listing::EndpointSlices] {
        assert_eq!(agent.watch(listing).unwrap().listings, 2, "{listing:?}");
    }
    served_by(client, vips[GONE + MOVED - 1], &[&after.name]);
    not_served(client, vips[GONE - 1]);
    let reports = unharmed(loads);
    let names = |index: usize| reports[index].served.keys().collect::<Vec<_>>();
    assert_eq!(names(0), [&before.name, &after.name]);
    assert_eq!(names(1), [&before.name]);
}

/// What so many changes may cost where all services together have cost `all`. To write each of them again would cost
/// more.
fn costs(all: u64, changes: usize) -> u64 {
    all * changes as u64 / SERVICES as u64
}

/// Waits until both kinds were listed again and what came of it is written; when that was.
fn converged(agent: &Agent<'_>, stores: u64) -> Instant {
    wait::until(Duration::from_mins(5), "a relist", || {
        let sync = agent.progress()?.sync;
        let relisted = [Listing::Services, Listing::EndpointSlices]
            .iter()
            .all(|listing| agent.watch(*listing).is_ok_and(|watch| watch.listings > 1));
        Ok((relisted && sync.pending == 0 && sync.stores > stores).then(Instant::now))
    })
    .unwrap()
}

#[test]
fn what_changed_while_the_agent_was_dead_is_all_that_the_next_one_writes() {
    let World { topology, control, vips } = World::new();
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (before, after) = (topology.pod(1, 2), topology.pod(1, 3));
    let _servers = [serve(before), serve(after)];
    let mut agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let first = written(&agent);
    let loads = load(client, &[vips[25], vips[SERVICES - 1]]);
    let api = control.api().unwrap();

    agent.kill().unwrap();
    change(api, &topology, (0, 25, 25));
    agent.start_again().unwrap();
    let stores = written(&agent);
    println!("{first} stores and operations for all, {stores} for 50 changes after a start");
    verified(&agent);
    served_by(client, vips[25], &[&after.name]);
    not_served(client, vips[0]);
    assert!(stores > 0 && stores <= costs(first, 50), "{stores} stores and operations, {first} for all");

    // The control: with nothing changed there is nothing to write.
    agent.kill().unwrap();
    agent.start_again().unwrap();
    assert_eq!(written(&agent), 0);
    unharmed(loads);
}
