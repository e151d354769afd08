//! The rules of kube-proxy written a second time, naively and from their prose, against which the real code is
//! checked with random endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{Hints, ObjectName, Protocol, SlicePort};

type Socket = (IpAddr, u16);

/// What the prose says of one view.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Pass,
    Reject,
    Drop,
    OneOf(BTreeSet<Socket>),
}

fn is_local(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.node.as_ref() == Some(&node.name)
}

fn names_node(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.node_hints().contains(&node.name)
}

fn names_zone(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.zone_hints().iter().any(|hint| Some(hint) == node.zone.as_ref())
}

/// "Duplicates over slices count once, and of two copies the one that is not terminating wins", then ready ones.
fn distinct(slices: &[EndpointSlice], scope: Scope<'_>) -> BTreeMap<Socket, Endpoint> {
    let preference = |one: &Endpoint| {
        let conditions = (!one.terminating, one.ready, one.serving, is_local(one, scope.node));
        let node_hints = (!one.node_hints().is_empty(), names_node(one, scope.node));
        let zone_hints = (!one.zone_hints().is_empty(), names_zone(one, scope.node));
        (conditions, node_hints, zone_hints)
    };
    let mut found: BTreeMap<Socket, Endpoint> = BTreeMap::new();
    for slice in slices {
        for port in &slice.ports {
            if port.name != scope.port.name || port.protocol != scope.port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                let key = (endpoint.addr, port.port);
                let loses = found.get(&key).is_some_and(|held| preference(held) >= preference(endpoint));
                if !loses {
                    found.insert(key, endpoint.clone());
                }
            }
        }
    }
    found
}

fn sockets(all: &BTreeMap<Socket, Endpoint>, keep: impl Fn(&Endpoint) -> bool) -> BTreeSet<Socket> {
    all.iter().filter(|(_, endpoint)| keep(endpoint)).map(|(key, _)| *key).collect()
}

fn cluster_set(all: &BTreeMap<Socket, Endpoint>, node: &Node) -> BTreeSet<Socket> {
    let ready: Vec<_> = all.values().filter(|one| one.ready).collect();
    if ready.is_empty() {
        return sockets(all, |one| one.serving && one.terminating);
    }
    if ready.iter().all(|one| !one.node_hints().is_empty()) && ready.iter().any(|one| names_node(one, node)) {
        return sockets(all, |one| one.ready && names_node(one, node));
    }
    if ready.iter().all(|one| !one.zone_hints().is_empty()) && ready.iter().any(|one| names_zone(one, node)) {
        return sockets(all, |one| one.ready && names_zone(one, node));
    }
    sockets(all, |one| one.ready)
}

fn local_set(all: &BTreeMap<Socket, Endpoint>, node: &Node) -> BTreeSet<Socket> {
    let ready = sockets(all, |one| one.ready && is_local(one, node));
    if ready.is_empty() {
        sockets(all, |one| one.serving && one.terminating && is_local(one, node))
    } else {
        ready
    }
}

fn answer(all: &BTreeMap<Socket, Endpoint>, node: &Node, policy: TrafficPolicy) -> Answer {
    let usable_anywhere = all.values().any(|one| one.ready || (one.serving && one.terminating));
    let set = match policy {
        TrafficPolicy::Cluster => cluster_set(all, node),
        TrafficPolicy::Local => local_set(all, node),
    };
    match (set.is_empty(), usable_anywhere) {
        (false, _) => Answer::OneOf(set),
        (true, true) => Answer::Drop,
        (true, false) => Answer::Reject,
    }
}

fn answers(slices: &[EndpointSlice], scope: Scope<'_>, policies: Policies) -> [Answer; 3] {
    let all = distinct(slices, scope);
    let of = |policy| answer(&all, scope.node, policy);
    match policies.external {
        Some(policy) => [of(policies.internal), of(TrafficPolicy::Cluster), of(policy)],
        None => [of(policies.internal), Answer::Pass, Answer::Pass],
    }
}

fn actual(eligible: &Eligible) -> [Answer; 3] {
    View::ALL.map(|view| {
        let rows = eligible.backends.iter().filter(|row| row.state.in_view(view));
        let set: BTreeSet<_> = rows.map(|row| (row.addr.to_ip(), row.port.get())).collect();
        match eligible.views[view as usize] {
            DesiredView::Random => Answer::OneOf(set),
            _ if !set.is_empty() => panic!("rows in a view that does not pick: {set:?}"),
            DesiredView::Pass => Answer::Pass,
            DesiredView::Reject => Answer::Reject,
            DesiredView::Drop => Answer::Drop,
        }
    })
}

fn hints() -> impl Strategy<Value = Box<[Arc<str>]>> {
    prop_oneof![
        1 => Just(Vec::new()),
        3 => proptest::sample::subsequence(vec!["a", "b", "c"], 1..=2),
    ]
    .prop_map(|names| names.into_iter().map(Arc::from).collect())
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let node = proptest::option::of(prop_oneof![Just("a"), Just("b")]);
    let conditions = (proptest::bool::ANY, proptest::bool::ANY, proptest::bool::ANY);
    let one = (1_u8..6, node, conditions, hints(), hints()).prop_map(
        |(last, node, (ready, serving, terminating), zone_hints, node_hints)| Endpoint {
            addr: Ipv4Addr::new(10, 0, 0, last).into(),
            node: node.map(Arc::from),
            ready,
            serving,
            terminating,
            hints: Hints { zones: zone_hints, nodes: node_hints }.boxed(),
        },
    );
    // Few endpoints, so that sets in which all agree come up often.
    proptest::collection::vec(one, 0..4)
}

fn slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let ports =
        proptest::collection::vec((prop_oneof![3 => Just("http"), 1 => Just("admin")], 80_u16..82), 0..3);
    let one = (endpoints(), ports).prop_map(|(endpoints, ports)| EndpointSlice {
        name: ObjectName::new("default", "web-1"),
        service: "web".into(),
        family: Family::V4,
        endpoints,
        ports: ports
            .into_iter()
            .map(|(name, port)| SlicePort { name: name.into(), protocol: Protocol::Tcp, port })
            .collect(),
        triggered_at: None,
    });
    proptest::collection::vec(one, 0..4)
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn own_node() -> impl Strategy<Value = Node> {
    let zone = proptest::option::weighted(0.8, Just("a"));
    zone.prop_map(|zone| Node { name: "a".into(), zone: zone.map(Arc::from), ..Node::default() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn agrees_with_the_prose(
        mut slices in slices(),
        node in own_node(),
        internal in policy(),
        external in proptest::option::of(policy()),
    ) {
        let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let scope = Scope { port: &port, family: Family::V4, node: &node };
        let policies = Policies { internal, external };
        let mut candidates = Vec::new();
        gather_candidates(&mut candidates, slices.iter(), scope);
        let eligible = choose_eligible(&candidates, policies);
        prop_assert_eq!(actual(&eligible), answers(&slices, scope, policies));

        let rows: BTreeSet<_> = eligible.backends.iter().map(|row| (row.addr.to_ip(), row.port.get())).collect();
        prop_assert_eq!(rows.len(), eligible.backends.len());
        prop_assert_eq!(rows, sockets(&distinct(&slices, scope), |one| one.ready || one.serving));
        prop_assert!(eligible.backends.iter().all(|row| row.state.is_serving()));

        slices.reverse();
        for slice in &mut slices {
            slice.endpoints.reverse();
        }
        gather_candidates(&mut candidates, slices.iter(), scope);
        prop_assert_eq!(choose_eligible(&candidates, policies), eligible);
    }
}
