//! Who reaches what through an agent, and what is left as it was.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tests::load::Place;
use tests::report::GetReport;

use crate::scenario::{BACKEND_PORT, DNS, IDLE, PORT, Scenario, WEB, ways};

/// Connects often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;

/// Limit within which a change of manifests is in force.
const CHANGE: Duration = Duration::from_secs(2);

#[test]
fn pods_and_hosts_reach_a_service_by_every_family() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    for client in scenario.clients() {
        for (target, options) in ways(WEB, PORT) {
            reaches_both(client, (target, options), &[]);
        }
    }
}

/// A client meets both backends, and always sees what it asked for, in the form in which it asked.
#[track_caller]
fn reaches_both(client: Place<'_>, (target, options): (SocketAddr, &[&str]), kind: &[&str]) {
    let mut served = BTreeSet::new();
    for _ in 0..TRIES {
        let report = client.get(target, &[options, kind].concat()).unwrap();
        let shown = report.peer.unwrap_or_else(|| panic!("{report:?}"));
        let is_mapped = matches!(shown.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        assert_eq!((canonical(shown), is_mapped), (target, !options.is_empty()), "{report:?}");
        served.insert(report.name.unwrap());
    }
    assert_eq!(served, ["pod-1-2", "pod-2-2"].map(str::to_owned).into(), "{target} {options:?}");
}

#[test]
fn pods_and_hosts_reach_a_service_of_udp_by_every_family() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    for client in scenario.clients() {
        for (target, options) in ways(DNS, PORT) {
            for kind in ["--udp", "--datagram"] {
                reaches_both(client, (target, options), &[kind]);
            }
            // The service serves UDP only, and the other only TCP.
            let report = client.get(target, options).unwrap();
            assert_eq!(report.error.as_deref(), Some("ECONNREFUSED"), "{report:?}");
        }
        for (target, options) in ways(WEB, PORT).into_iter().chain(ways(IDLE, PORT)) {
            for kind in ["--udp", "--datagram"] {
                let report = client.get(target, &[options, &[kind]].concat()).unwrap();
                assert_eq!(report.error.as_deref(), Some("ECONNREFUSED"), "{report:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    for client in scenario.clients() {
        for (target, options) in ways(IDLE, PORT).into_iter().chain(ways(WEB, PORT + 1)) {
            let report = client.get(target, options).unwrap();
            assert_eq!(report.error.as_deref(), Some("ECONNREFUSED"), "{report:?}");
            assert!(report.connect_ms < 1_000.0, "{report:?}");
        }
    }
}

#[test]
fn a_socket_bound_to_a_device_is_left_alone() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let client = scenario.cluster.pod(1, 1).place();
    for (target, options) in ways(WEB, PORT) {
        let bound = [options, &["--device", "eth0", "--timeout", "500"]].concat();
        let report = client.get(target, &bound).unwrap();
        assert!(report.peer.is_none() && report.error.is_some(), "{report:?}");
        // It is the binding that made the difference.
        assert!(client.get(target, options).unwrap().error.is_none());
    }
    let direct = SocketAddr::new(scenario.cluster.pod(1, 2).v4, BACKEND_PORT);
    assert!(client.get(direct, &["--device", "eth0"]).unwrap().error.is_none());
}

#[test]
fn other_addresses_are_as_without_an_agent() {
    let scenario = Scenario::new();
    let pod = scenario.cluster.pod(2, 2);
    let untouched = [
        SocketAddr::new(pod.v4, BACKEND_PORT),
        SocketAddr::new(pod.v6, BACKEND_PORT),
        SocketAddr::new(pod.v4, PORT),
        SocketAddr::new("203.0.113.1".parse().unwrap(), PORT),
        SocketAddr::new("2001:db8::1".parse().unwrap(), PORT),
        SocketAddr::new("127.0.0.1".parse().unwrap(), PORT),
        SocketAddr::new("::1".parse().unwrap(), PORT),
    ];
    let look = || -> Vec<_> {
        let clients = scenario.clients();
        let all = clients.iter().flat_map(|client| untouched.map(|target| (client, target)));
        all.map(|(client, target)| outcome(&client.get(target, &["--timeout", "500"]).unwrap())).collect()
    };
    let before = look();
    assert!(
        before.iter().any(|(_, error, _)| error.is_some()) && before.iter().any(|(name, ..)| name.is_some())
    );
    let _agents = scenario.agents();
    assert_eq!(look(), before);
}

#[test]
fn a_process_outside_the_cgroup_is_left_alone() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let node = scenario.cluster.node(1);
    let target = ways(WEB, PORT)[0].0;
    // This very process is in no cgroup of the cluster; its thread only sees the node's network.
    let outside =
        node.netns.inside(|| TcpStream::connect_timeout(&target, Duration::from_millis(500))).unwrap();
    assert!(outside.is_err());
    assert!(node.host().get(target, &[]).unwrap().error.is_none());
}

#[test]
fn endpoints_come_and_go() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let clients = [scenario.cluster.pod(1, 1).place(), scenario.cluster.node(2).host()];
    for client in clients {
        for (target, options) in ways(WEB, PORT) {
            for (nodes, wanted) in [(&[1][..], "pod-1-2"), (&[2], "pod-2-2"), (&[], "ECONNREFUSED")] {
                scenario.list(nodes);
                settle(client, (target, options), wanted);
            }
            scenario.list(&[1, 2]);
        }
    }
}

#[test]
fn a_deleted_service_is_nobodys_address_again() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let client = scenario.cluster.pod(1, 1).place();
    let target = ways(IDLE, PORT)[0].0;
    assert_eq!(client.get(target, &[]).unwrap().error.as_deref(), Some("ECONNREFUSED"));
    scenario.manifests.remove("idle.yaml").unwrap();
    let deadline = Instant::now() + CHANGE;
    loop {
        let report = client.get(target, &["--timeout", "300"]).unwrap();
        if report.error.as_deref().is_some_and(|error| error != "ECONNREFUSED") {
            break;
        }
        assert!(Instant::now() < deadline, "{report:?}");
    }
}

/// Waits until `client` gets `wanted`, a name or an error, and then that it gets nothing else.
fn settle(client: Place<'_>, (target, options): (SocketAddr, &[&str]), wanted: &str) {
    let deadline = Instant::now() + CHANGE;
    let look = || {
        let report = client.get(target, options).unwrap();
        report.name.or(report.error).unwrap()
    };
    let mut in_a_row = 0;
    while in_a_row < TRIES {
        let seen = look();
        in_a_row = if seen == wanted { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < deadline || in_a_row > 0, "{target} {options:?}: {seen}, not {wanted}");
    }
}

/// What of a report must not depend on an agent.
fn outcome(report: &GetReport) -> (Option<String>, Option<String>, Option<SocketAddr>) {
    (report.name.clone(), report.error.clone(), report.peer)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
