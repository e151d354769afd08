use std::net::IpAddr;
use std::sync::Arc;

use TrafficPolicy::{Cluster, Local};

use super::*;
use crate::model::{ObjectName, Protocol, SlicePort};

const HERE: &str = "node-here";
const ZONE: &str = "zone-here";

fn node() -> Node {
    Node { name: HERE.into(), zone: Some(ZONE.into()), ..Node::default() }
}

fn port() -> ServicePort {
    ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

/// An endpoint in words: `10.0.0.1 local draining zone=a,b node=n`; without words it is ready, remote and without
/// hints.
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let addr = words.next().unwrap().parse().unwrap();
    let mut made = Endpoint {
        addr,
        node: Some("elsewhere".into()),
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    };
    for word in words {
        let names = |list: &str| list.split(',').map(Arc::from).collect();
        match word.split_once('=').unwrap_or((word, "")) {
            ("local", "") => made.node = Some(HERE.into()),
            ("nowhere", "") => made.node = None,
            ("unready", "") => (made.ready, made.serving) = (false, false),
            ("serving", "") => made.ready = false,
            ("draining", "") => (made.ready, made.terminating) = (false, true),
            ("gone", "") => (made.ready, made.serving, made.terminating) = (false, false, true),
            // What the slice controller writes under publishNotReadyAddresses.
            ("published", "") => (made.ready, made.serving, made.terminating) = (true, false, true),
            ("zone", list) => made.hints.get_or_insert_default().zones = names(list),
            ("node", list) => made.hints.get_or_insert_default().nodes = names(list),
            other => panic!("{other:?} in {text:?}"),
        }
    }
    made
}

fn slice(endpoints: &[&str], port: u16) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("default", "web-1"),
        service: "web".into(),
        family: Family::V4,
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port }],
        triggered_at: None,
    }
}

fn choose(slices: &[EndpointSlice], node: &Node, policies: Policies) -> Eligible {
    let mut candidates = Vec::new();
    let scope = Scope { port: &port(), family: Family::V4, node };
    gather_candidates(&mut candidates, slices.iter(), scope);
    choose_eligible(&candidates, policies)
}

const CLUSTER: Policies =
    Policies { internal: TrafficPolicy::Cluster, external: Some(TrafficPolicy::Cluster) };
const LOCAL: Policies = Policies { internal: TrafficPolicy::Local, external: Some(TrafficPolicy::Local) };

/// A view in words: last bytes of the addresses that it picks from, or what it does instead.
fn view_text(eligible: &Eligible, view: View) -> String {
    match eligible.views[view as usize] {
        DesiredView::Random => {
            let members = eligible.backends.iter().filter(|row| row.state.in_view(view));
            let last = |row: &DesiredBackend| match row.addr.to_ip() {
                IpAddr::V4(ip) => ip.octets()[3].to_string(),
                IpAddr::V6(ip) => ip.to_string(),
            };
            members.map(last).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

/// Checks the cluster set (policy Cluster) and the local set (policy Local) of endpoints in one slice.
fn check(endpoints: &[&str], cluster: &str, local: &str) {
    check_on(&node(), endpoints, cluster, local);
}

fn check_on(node: &Node, endpoints: &[&str], cluster: &str, local: &str) {
    let slices = [slice(endpoints, 8080)];
    for (policies, expected) in [(CLUSTER, cluster), (LOCAL, local)] {
        let eligible = choose(&slices, node, policies);
        let what = format!("{endpoints:?} under {policies:?}");
        assert_eq!(view_text(&eligible, View::Internal), expected, "internal, {what}");
        assert_eq!(view_text(&eligible, View::External), expected, "external, {what}");
        // From inside, external frontends are never bound by a policy.
        assert_eq!(view_text(&eligible, View::Cluster), cluster, "cluster, {what}");
    }
}

#[test]
fn ready_endpoints_are_used_and_local_means_the_node_name() {
    check(&["10.0.0.1", "10.0.0.2 local", "10.0.0.3 nowhere"], "1 2 3", "2");
    check(&["10.0.0.1 unready", "10.0.0.2 serving", "10.0.0.3 gone", "10.0.0.4"], "4", "Drop");
}

#[test]
fn nothing_is_local_to_a_node_without_a_name() {
    let nameless = Node { name: "".into(), ..node() };
    let mut slices = [slice(&["10.0.0.1"], 8080)];
    slices[0].endpoints[0].node = Some("".into());
    assert_eq!(view_text(&choose(&slices, &nameless, LOCAL), View::Internal), "Drop");
}

#[test]
fn without_a_ready_endpoint_serving_and_terminating_ones_are_used() {
    check(&["10.0.0.1 draining", "10.0.0.2 draining local", "10.0.0.3 serving"], "1 2", "2");
    check(&["10.0.0.1 draining", "10.0.0.2 gone", "10.0.0.3"], "3", "Drop");
}

#[test]
fn the_two_fallbacks_are_judged_apart() {
    check(&["10.0.0.1", "10.0.0.2 draining local"], "1", "2");
    check(&["10.0.0.1 local", "10.0.0.2 draining local"], "1", "1");
    check(&["10.0.0.1 draining", "10.0.0.2 draining local"], "1 2", "2");
}

#[test]
fn unready_endpoints_are_not_even_a_last_resort() {
    check(&["10.0.0.1 unready", "10.0.0.2 serving local", "10.0.0.3 gone local"], "Reject", "Reject");
    check(&[], "Reject", "Reject");
}

#[test]
fn a_policy_local_drops_while_some_node_can_serve_and_else_rejects() {
    check(&["10.0.0.1"], "1", "Drop");
    check(&["10.0.0.1 draining"], "1", "Drop");
    check(&["10.0.0.1 serving", "10.0.0.2 serving local"], "Reject", "Reject");
}

#[test]
fn published_unready_addresses_are_used_as_ready() {
    check(&["10.0.0.1 published", "10.0.0.2 published local"], "1 2", "2");
    let rows = choose(&[slice(&["10.0.0.1 published"], 80)], &node(), CLUSTER).backends;
    assert!(rows[0].state.is_serving());
}

#[test]
fn node_hints_come_before_zone_hints() {
    let hinted = |node: &str, zone: &str| format!("node={node} zone={zone}");
    let (a, b) = (hinted(HERE, "far"), hinted("other", ZONE));
    let ends = [format!("10.0.0.1 {a}"), format!("10.0.0.2 {b}"), format!("10.0.0.3 {b}")];
    let ends: Vec<_> = ends.iter().map(String::as_str).collect();
    check(&ends, "1", "Drop");
    check(&ends[1..], "2 3", "Drop");
}

#[test]
fn zone_hints_count_if_every_ready_endpoint_has_one_and_one_is_for_here() {
    let far = "10.0.0.1 zone=far";
    check(&[far, "10.0.0.2 zone=far,zone-here"], "2", "Drop");
    check(&[far, "10.0.0.2 zone=near"], "1 2", "Drop");
    check(&[far, "10.0.0.2 zone=zone-here", "10.0.0.3"], "1 2 3", "Drop");
    // Who is not ready counts in neither test, and a draining endpoint is used whatever its hints.
    check(&[far, "10.0.0.2 zone=zone-here", "10.0.0.3 unready"], "2", "Drop");
    check(&[far, "10.0.0.2 zone=zone-here draining"], "1", "Drop");
    check(&["10.0.0.1 zone=far draining", "10.0.0.2 zone=zone-here draining"], "1 2", "Drop");
}

#[test]
fn one_ready_endpoint_without_a_node_hint_leaves_the_zones_to_decide() {
    let (a, b) = ("10.0.0.1 node=node-here zone=far", "10.0.0.2 zone=zone-here");
    check(&[a, b], "2", "Drop");
}

#[test]
fn a_node_without_a_zone_ignores_zone_hints() {
    let ends = ["10.0.0.1 zone=far", "10.0.0.2 zone=zone-here"];
    check_on(&Node { zone: None, ..node() }, &ends, "1 2", "Drop");
    check_on(
        &Node { zone: Some("".into()), ..node() },
        &["10.0.0.1 zone=", "10.0.0.2 zone=a"],
        "1 2",
        "Drop",
    );
}

#[test]
fn hints_never_apply_to_the_local_set() {
    check(&["10.0.0.1 zone=zone-here", "10.0.0.2 zone=far local"], "1", "2");
    check(&["10.0.0.1 node=node-here", "10.0.0.2 node=other local"], "1", "2");
}

#[test]
fn each_policy_governs_its_own_view() {
    let slices = [slice(&["10.0.0.1", "10.0.0.2 local"], 8080)];
    let texts = |internal, external| {
        let eligible = choose(&slices, &node(), Policies { internal, external });
        View::ALL.map(|view| view_text(&eligible, view))
    };
    assert_eq!(texts(Cluster, Some(Local)), ["1 2", "1 2", "2"]);
    assert_eq!(texts(Local, Some(Cluster)), ["2", "1 2", "1 2"]);
    assert_eq!(texts(Local, None), ["2", "Pass", "Pass"]);
    assert_eq!(texts(Cluster, None), ["1 2", "Pass", "Pass"]);
}

#[test]
fn of_two_copies_the_one_that_stays_longer_wins() {
    for (better, worse, expected) in [
        ("10.0.0.1", "10.0.0.1 draining", "1"),
        ("10.0.0.1 unready", "10.0.0.1 published", "Reject"),
        ("10.0.0.1", "10.0.0.1 serving", "1"),
        ("10.0.0.1 draining", "10.0.0.1 gone", "1"),
    ] {
        for pair in [[better, worse], [worse, better]] {
            let apart = pair.map(|one| slice(&[one], 8080));
            for slices in [&apart[..], &[slice(&pair, 8080)]] {
                let eligible = choose(slices, &node(), CLUSTER);
                assert_eq!(view_text(&eligible, View::Internal), expected, "{pair:?}");
            }
        }
    }
}

#[test]
fn one_port_name_may_mean_several_numbers() {
    let slices = [slice(&["10.0.0.1", "10.0.0.2"], 9090), slice(&["10.0.0.1"], 8080)];
    let rows = choose(&slices, &node(), CLUSTER).backends;
    let listed: Vec<_> = rows.iter().map(|row| (row.addr.to_string(), row.port.get())).collect();
    let expected = [("10.0.0.1", 8080), ("10.0.0.1", 9090), ("10.0.0.2", 9090)];
    assert_eq!(listed.len(), expected.len());
    for (addr, port) in expected {
        assert!(listed.contains(&(addr.to_owned(), port)), "{addr}:{port} in {listed:?}");
    }
    assert!(rows.is_sorted_by_key(|row| (row.addr, row.port)));
}

#[test]
fn a_slice_port_of_another_name_protocol_or_family_feeds_nothing() {
    let change = |change: fn(&mut EndpointSlice)| {
        let mut slices = [slice(&["10.0.0.1"], 8080)];
        change(&mut slices[0]);
        choose(&slices, &node(), CLUSTER).backends.len()
    };
    assert_eq!(change(|_| ()), 1);
    assert_eq!(change(|slice| slice.ports[0].name = "https".into()), 0);
    assert_eq!(change(|slice| slice.ports[0].protocol = Protocol::Udp), 0);
    assert_eq!(change(|slice| slice.family = Family::V6), 0);
    assert_eq!(change(|slice| slice.endpoints[0].addr = "fd00::1".parse().unwrap()), 0);
}

#[test]
fn every_endpoint_that_is_ready_or_serving_has_a_row() {
    let ends = ["10.0.0.1", "10.0.0.2 serving", "10.0.0.3 unready", "10.0.0.4 draining", "10.0.0.5 gone"];
    let rows = choose(&[slice(&ends, 80)], &node(), CLUSTER).backends;
    let states: Vec<_> = rows.iter().map(|row| (row.addr.to_string(), row.state)).collect();
    let everywhere = View::ALL.into_iter().fold(BackendState::SERVING, BackendState::with_view);
    let expected =
        [("10.0.0.1", everywhere), ("10.0.0.2", BackendState::SERVING), ("10.0.0.4", BackendState::SERVING)];
    assert_eq!(states, expected.map(|(addr, state)| (addr.to_owned(), state)));
}

#[test]
fn a_view_holds_a_chunk_of_slots_and_the_rest_is_counted() {
    let candidates: Vec<_> = (0..CHUNK_SLOTS + 3)
        .map(|n| Candidate {
            addr: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
            port: Port::new(80),
            facts: if n < 2 { Facts::READY.and(Facts::LOCAL) } else { Facts::READY },
        })
        .collect();
    let policies = Policies { internal: TrafficPolicy::Local, external: Some(TrafficPolicy::Cluster) };
    let eligible = choose_eligible(&candidates, policies);
    assert_eq!(eligible.left_out, [0, 3, 3]);
    assert_eq!(eligible.backends.len(), candidates.len());
    for (view, expected) in View::ALL.into_iter().zip([2, CHUNK_SLOTS as usize, CHUNK_SLOTS as usize]) {
        let members = eligible.backends.iter().filter(|row| row.state.in_view(view)).count();
        assert_eq!(members, expected, "{view:?}");
    }
}
