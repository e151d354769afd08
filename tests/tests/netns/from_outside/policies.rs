//! What a Service asks for: policies, source ranges, affinity; and what becomes of clients that nobody serves.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::netns::Netns;
use tests::wait;

use super::layout::Layout;
use super::masquerading::Masquerading;
use super::pods::cluster_ips;
use super::site::{Backend, Site};
use crate::traffic::{Way, exchange};
use crate::wire;
use crate::witness::{Rules, Witness};

/// Limit within which a change is in force.
const CHANGE: Duration = Duration::from_secs(5);
/// What is refused is so at once, not after a time limit.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How an exchange fails: refused, or by silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Served,
    Refused,
    Silence,
}

impl End {
    /// What `shunt trace` calls it.
    const fn action(self) -> &'static str {
        match self {
            Self::Served => "forward",
            Self::Refused => "refuse",
            Self::Silence => "time-out",
        }
    }
}

/// How an exchange of the client ends.
pub(super) fn end(site: &Site, frontend: SocketAddr, way: Way) -> End {
    let begun = Instant::now();
    match exchange(&site.client, frontend, way) {
        Ok(_) => End::Served,
        Err(error) => {
            let kind = error
                .chain()
                .find_map(|cause| cause.downcast_ref::<std::io::Error>())
                .map(std::io::Error::kind);
            let is_refused = kind == Some(ErrorKind::ConnectionRefused);
            assert!(!is_refused || begun.elapsed() < AT_ONCE, "{error:#} after {:?}", begun.elapsed());
            if is_refused { End::Refused } else { End::Silence }
        }
    }
}

/// Waits until every frontend of a backend ends like this, by both ways; `agent`, of the node that is asked, foretells it.
#[track_caller]
fn all_end(site: &Site, agent: &Agent<'_>, backend: Backend, expected: End) {
    for frontend in backend.frontends(&site.cluster) {
        for way in Way::BOTH {
            ends_like(site, agent, (frontend, way), expected);
        }
    }
}

/// The same by one frontend and one way.
#[track_caller]
fn ends_like(site: &Site, agent: &Agent<'_>, (frontend, way): (SocketAddr, Way), expected: End) {
    let ends = || {
        let found = end(site, frontend, way);
        if found == expected { Ok(()) } else { Err(format!("{way:?} to {frontend}: {found:?}")) }
    };
    wait::until_ok(CHANGE, "the change", ends).unwrap();
    let trace = trace(agent, frontend, way);
    let verdict = &trace["verdict"];
    assert_eq!(verdict["action"], expected.action(), "{way:?} to {frontend}: {trace}");
    assert_eq!((&trace["origin"], &verdict["carried_out"]), (&json!("outside"), &json!(true)), "{trace}");
}

#[test]
fn a_service_without_endpoints_refuses_at_once_and_an_unknown_port_of_a_cluster_ip_too() {
    let site = Site::new(Layout::Routed).unwrap();
    let agents = site.agents();
    site.list(Backend::LocalPod, false).unwrap();
    all_end(&site, &agents[0], Backend::LocalPod, End::Refused);
    // The node's own address is the node's: what nobody listens at is refused by its own stack, and not by us.
    let [node, _] = site.cluster.node(1).addresses();
    assert_eq!(end(&site, SocketAddr::new(node, 30_999), Way::Tcp), End::Refused);
    for cluster_ip in ["10.96.0.101", "fd00:10:96::101"] {
        let ip: IpAddr = cluster_ip.parse().unwrap();
        for way in Way::BOTH {
            assert_eq!(
                end(&site, SocketAddr::new(ip, 80), way),
                End::Served,
                "a cluster IP that is routed here"
            );
            ends_like(&site, &agents[0], (SocketAddr::new(ip, 81), way), End::Refused);
        }
    }
    let counters = agents[0].shunt(&["dump", "counters"]).unwrap();
    for reason in ["no-endpoints", "unknown-port"] {
        let line = counters.lines().find(|line| line.contains(reason)).unwrap();
        assert!(!line.trim_end().ends_with(" 0"), "{line}");
    }
}

#[test]
fn the_local_policy_keeps_to_the_node_and_drops_where_it_has_nobody() {
    let site = Site::new(Layout::Routed).unwrap();
    let agents = site.agents();
    for backend in [Backend::LocalPod, Backend::RemotePod] {
        site.write_service(backend, json!({ "externalTrafficPolicy": "Local" })).unwrap();
    }
    all_end(&site, &agents[0], Backend::RemotePod, End::Silence);
    all_end(&site, &agents[0], Backend::LocalPod, End::Served);
    let seen = exchange(&site.client, Backend::LocalPod.frontends(&site.cluster)[0], Way::Tcp).unwrap();
    assert_eq!(seen.own, seen.seen, "the client's address is kept");
}

/// kube-proxy's `masqueradeAll`: pods of this node see the node, too; but not where the policy promises them their clients.
#[test]
fn where_all_is_masqueraded_pods_here_see_the_node_unless_the_policy_is_local() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        let masquerading = Masquerading::wish(true).unwrap();
        let witness = Witness::start(&site.cluster.node(1).netns, Rules::PodsOnly).unwrap();
        let agents = masquerading.agents(&site, &["--socket-lb", "off"]);
        let keeps_client = |client: &Netns, target: SocketAddr, way| {
            let seen = exchange(client, target, way);
            let seen = seen.unwrap_or_else(|error| panic!("{layout:?}, {target} {way:?}: {error:#}"));
            seen.own == seen.seen
        };
        let pod = &site.cluster.pod(1, 1).netns;
        for way in Way::BOTH {
            let backends = [Backend::LocalPod, Backend::RemotePod];
            for target in backends.iter().flat_map(|backend| backend.frontends(&site.cluster)) {
                assert!(!keeps_client(&site.client, target, way), "{layout:?}, {target} {way:?}");
                assert_eq!(said_to_be_seen(&agents[0], target), "this node");
            }
            for target in backends.into_iter().flat_map(cluster_ips) {
                assert!(!keeps_client(pod, target, way), "{layout:?}, a pod to {target} {way:?}");
            }
        }
        assert_eq!(witness.invalid_forwarded().unwrap(), 0, "{layout:?}");
        site.write_service(Backend::LocalPod, json!({ "externalTrafficPolicy": "Local" })).unwrap();
        for target in Backend::LocalPod.frontends(&site.cluster) {
            let is_kept =
                || keeps_client(&site.client, target, Way::Tcp).then_some(()).ok_or(target.to_string());
            wait::until_ok(CHANGE, "the policy", is_kept).unwrap();
            assert_eq!(said_to_be_seen(&agents[0], target), "the client");
            assert!(keeps_client(pod, target, Way::Tcp), "{layout:?}, a pod to {target}");
        }
    }
}

/// Whom a backend sees when the client asks, as `shunt trace` says.
fn said_to_be_seen(agent: &Agent<'_>, target: SocketAddr) -> String {
    let trace = trace(agent, target, Way::Tcp);
    let words = trace["seen_as"].as_str().unwrap_or_default();
    words.split(':').next().unwrap_or_default().to_owned()
}

/// What `shunt trace` says of the client's asking.
#[track_caller]
pub(super) fn trace(agent: &Agent<'_>, target: SocketAddr, way: Way) -> Value {
    let from = wire::clients()[usize::from(target.is_ipv6())].to_string();
    let words = ["trace", &from, &target.to_string(), "--proto", way.protocol(), "-o", "json"];
    let traces: Value = serde_json::from_str(&agent.shunt(&words).unwrap()).unwrap();
    let [trace] = &traces.as_array().unwrap()[..] else { panic!("one answer: {traces}") };
    trace.clone()
}

#[test]
fn source_ranges_bind_the_balancers_ip_and_nothing_else() {
    let site = Site::new(Layout::Routed).unwrap();
    let agents = site.agents();
    let [v4, v6] = wire::clients();
    for (ranges, expected) in [
        (json!(["192.0.2.0/24", "2001:db8:bad::/48"]), End::Silence),
        (json!([format!("{v4}/32"), format!("{v6}/128")]), End::Served),
    ] {
        site.write_service(Backend::LocalPod, json!({ "loadBalancerSourceRanges": ranges })).unwrap();
        let frontends = Backend::LocalPod.frontends(&site.cluster);
        for balancer in &frontends[2..4] {
            ends_like(&site, &agents[0], (*balancer, Way::Tcp), expected);
        }
        for other in frontends[..2].iter().chain(&frontends[4..]) {
            assert_eq!(end(&site, *other, Way::Tcp), End::Served, "{other}");
            assert_eq!(trace(&agents[0], *other, Way::Tcp)["verdict"]["action"], "forward", "{other}");
        }
    }
}

/// Whom a client meets, by the address that the backend tells of itself.
fn met(site: &Site, frontend: SocketAddr) -> Result<BTreeSet<bool>> {
    // A backend on the node sees the client itself, one elsewhere does not: so much tells them apart.
    (0..20)
        .map(|_| exchange(&site.client, frontend, Way::Udp).map(|seen| seen.own == seen.seen))
        .collect::<Result<_>>()
}

#[test]
fn affinity_holds_a_client_to_its_backend_through_every_frontend() {
    let site = Site::new(Layout::Routed).unwrap();
    let _agents = site.agents();
    site.list_both().unwrap();
    let frontends: Vec<SocketAddr> =
        Backend::LocalPod.frontends(&site.cluster).into_iter().filter(SocketAddr::is_ipv4).collect();
    // The control: without, it meets both.
    let both = || {
        let met = met(&site, frontends[0]).map_err(|error| format!("{error:#}"))?;
        if met.len() == 2 { Ok(()) } else { Err("one of two".to_owned()) }
    };
    wait::until_ok(CHANGE, "both backends", both).unwrap();
    site.write_service(Backend::LocalPod, json!({ "sessionAffinity": "ClientIP" })).unwrap();
    let one = || {
        let met: BTreeSet<bool> = frontends
            .iter()
            .map(|frontend| met(&site, *frontend))
            .collect::<Result<Vec<_>>>()
            .map_err(|error| format!("{error:#}"))?
            .into_iter()
            .flatten()
            .collect();
        if met.len() == 1 { Ok(()) } else { Err("both of two".to_owned()) }
    };
    wait::until_ok(CHANGE, "one backend", one).unwrap();
}

/// A socket that is connected to a frontend, and asks.
fn ask(socket: &UdpSocket, size: usize) -> Result<SocketAddr> {
    let question: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    socket.send(&question).context("send")?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer).with_context(|| format!("answer to {size} bytes"))?;
    let at = answer[..length].iter().position(|byte| *byte == b'\n').context("a line")?;
    anyhow::ensure!(answer[at + 1..length] == question[..], "other bytes came back");
    String::from_utf8_lossy(&answer[..at]).parse().context("an address")
}

fn socket(site: &Site, to: SocketAddr) -> UdpSocket {
    let bind: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = site.client.inside(|| UdpSocket::bind(bind)).unwrap().unwrap();
    site.client.inside(|| socket.connect(to)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

#[test]
fn datagrams_of_many_parts_come_through_in_both_directions() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        let _agents = site.agents();
        for backend in Backend::ALL {
            for frontend in backend.frontends(&site.cluster) {
                let socket = socket(&site, frontend);
                for size in [1_473, 4_000, 20_000] {
                    // The path may be too narrow for whole packets, which the first of them finds out.
                    ask(&socket, size)
                        .or_else(|_| ask(&socket, size))
                        .unwrap_or_else(|error| panic!("{layout:?} {backend:?} {frontend}: {error:#}"));
                }
            }
        }
    }
}

#[test]
fn a_flow_of_udp_follows_to_another_backend_at_once() {
    let site = Site::new(Layout::Routed).unwrap();
    let _agents = site.agents();
    let sockets: Vec<UdpSocket> = Backend::LocalPod
        .frontends(&site.cluster)
        .into_iter()
        .map(|frontend| socket(&site, frontend))
        .collect();
    for socket in &sockets {
        let own = socket.local_addr().unwrap();
        assert_eq!(ask(socket, 10).unwrap(), own, "a backend on the node sees the client itself");
    }
    site.list_elsewhere().unwrap();
    for socket in &sockets {
        let moved = || {
            let seen = ask(socket, 10).map_err(|error| format!("{error:#}"))?;
            if Some(seen) == socket.local_addr().ok() { Err("the old backend".to_owned()) } else { Ok(()) }
        };
        wait::until_ok(CHANGE, "the other backend", moved).unwrap();
    }
}
