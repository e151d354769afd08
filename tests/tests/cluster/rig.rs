//! What the tests of this tier have in common: a control plane, pods that serve, and what a client of a VIP meets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tests::agent::Agent;
use tests::cluster::bulk::BACKEND_PORT;
use tests::cluster::{ControlPlane, Options};
use tests::load::{Load, Place, Servers};
use tests::report::ConnectsReport;
use tests::topology::{Cluster, Pod};
use tests::wait;

/// Within this time whatever is awaited comes.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// What kube-proxy's own role lets its user do is all that an agent needs.
pub(crate) const USER: &str = "system:kube-proxy";
/// Connects often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;

/// A control plane whose controllers do not run, with the Node objects of `topology`.
pub(crate) fn uncontrolled(topology: &Cluster) -> ControlPlane {
    uncontrolled_with(topology, &[])
}

/// The same with further flags of the API server.
pub(crate) fn uncontrolled_with(topology: &Cluster, flags: &[&str]) -> ControlPlane {
    let options = Options { without_controllers: true, flags, ..Options::default() };
    let control = ControlPlane::start(topology, &options).unwrap();
    for node in &topology.nodes {
        control.api().unwrap().create_node(node, None).unwrap();
    }
    control
}

/// Has a pod serve its own name.
pub(crate) fn serve(pod: &Pod) -> Servers {
    let at = [pod.v4, pod.v6].map(|ip| (SocketAddr::new(ip, BACKEND_PORT), &*pod.name));
    pod.place().serve(at).unwrap()
}

/// Waits until connects to `target` are answered by all of these and by nobody else.
#[track_caller]
pub(crate) fn served_by(client: Place<'_>, target: SocketAddr, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    wait::until_ok(LIMIT, &format!("{target} to be served by {wanted:?}"), || {
        let reports = (0..TRIES).map(|_| client.get(target, &["--timeout", "1000"]).unwrap());
        let seen: BTreeSet<String> =
            reports.map(|report| report.name.or(report.error).unwrap_or_default()).collect();
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
}

/// Waits until nobody answers at `target` any more.
#[track_caller]
pub(crate) fn not_served(client: Place<'_>, target: SocketAddr) {
    wait::until_ok(LIMIT, &format!("{target} to be gone"), || {
        let report = client.get(target, &["--timeout", "300"]).unwrap();
        report.error.map(drop).ok_or_else(|| "still served".to_owned())
    })
    .unwrap();
}

/// The port that every service of this tier has.
pub(crate) fn at(vip: IpAddr) -> SocketAddr {
    SocketAddr::new(vip, tests::cluster::bulk::PORT)
}

/// Says what differs if the maps are not what the API server says.
#[track_caller]
pub(crate) fn verified(agent: &Agent<'_>) {
    let said = agent.shunt_verify().unwrap();
    let start: Vec<&str> = said.lines().take(20).collect();
    assert_eq!(start, ["the maps hold what the source says"]);
}

/// Stores and map operations since the agent was started.
pub(crate) fn written(agent: &Agent<'_>) -> u64 {
    let sync = agent.progress().unwrap().sync;
    sync.stores + sync.ops
}

/// A client that connects to each target without end.
pub(crate) fn load(client: Place<'_>, targets: &[SocketAddr]) -> Vec<Load> {
    let options = ["--threads", "1", "--pause", "200", "--read-every", "4"];
    targets.iter().map(|target| client.connects(*target, &options).unwrap()).collect()
}

/// Ends the clients, none of whom may have met a failure.
#[track_caller]
pub(crate) fn unharmed(loads: Vec<Load>) -> Vec<ConnectsReport> {
    let reports: Vec<ConnectsReport> = loads.into_iter().map(|load| load.finish().unwrap()).collect();
    for report in &reports {
        assert!(report.attempts > 500, "a client that was there: {report:?}");
        let failures = (report.failures(), report.wrong_peer, report.unanswered.len());
        assert_eq!(failures, (0, 0, 0), "{report:?}");
    }
    let attempts: u64 = reports.iter().map(|report| report.attempts).sum();
    println!("{attempts} connects, 0 failed");
    reports
}
