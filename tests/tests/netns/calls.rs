//! Ways of asking that are neither `connect` nor `sendto`: whatever brings a socket to a frontend meets the same hooks.

use std::net::{IpAddr, SocketAddr};

use tests::netns::Netns;
use tests::process::placed;

use crate::proofs_object::peer;
use crate::scenario::{BACKEND_PORT, DNS, PORT, Scenario, WEB};

/// Asks from a namespace of node 1; who answered, and the peer that the socket shows.
fn call(
    scenario: &Scenario,
    netns: &Netns,
    way: &str,
    target: SocketAddr,
) -> Result<(String, SocketAddr), String> {
    let mut command = placed(&peer().unwrap(), netns, &scenario.cluster.node(1).cgroup);
    let output = command.args(["call", way, &target.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (name, shown) = text.trim().split_once(' ').unwrap();
    Ok((name.to_owned(), shown.parse().unwrap()))
}

#[test]
fn every_way_of_asking_meets_the_service_and_shows_it() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let node = scenario.cluster.node(1);
    let ways = [
        ("fast-open", WEB),
        ("mptcp", WEB),
        ("ring-tcp", WEB),
        ("many-messages", DNS),
        ("ring-udp", DNS),
        ("reconnected", DNS),
        ("only-ipv6", DNS),
    ];
    for netns in [&node.pods[0].netns, &node.netns] {
        for (way, ips) in ways {
            for ip in ips.map(|ip| ip.parse::<IpAddr>().unwrap()) {
                if way == "only-ipv6" && ip.is_ipv4() {
                    continue;
                }
                let target = SocketAddr::new(ip, PORT);
                let (name, shown) = call(&scenario, netns, way, target)
                    .unwrap_or_else(|error| panic!("{way} {target}: {error}"));
                assert!(["pod-1-2", "pod-2-2"].contains(&&*name), "{way} {target}: {name}");
                if way == "mptcp" {
                    // The hooks see its subflow; asked for its peer is the socket above, which no hook has seen.
                    assert_eq!(shown.port(), BACKEND_PORT, "{way} {target}: {shown}");
                } else {
                    assert_eq!(shown, target, "{way}");
                }
            }
        }
    }
}

#[test]
fn without_an_agent_no_way_leads_there() {
    let scenario = Scenario::new();
    let netns = &scenario.cluster.pod(1, 1).netns;
    // Not "ring-udp", which would wait for an answer for ever.
    for (way, ips) in [("fast-open", WEB), ("mptcp", WEB), ("ring-tcp", WEB), ("many-messages", DNS)] {
        let target = SocketAddr::new(ips[0].parse().unwrap(), PORT);
        assert!(call(&scenario, netns, way, target).is_err(), "{way}");
    }
}
