use super::*;
use crate::model::{Endpoint, Protocol, ServicePort, SlicePort, TrafficPolicy};

fn node() -> Node {
    Node { name: "node-1".into(), ..Node::default() }
}

fn service(name: &str, port: Option<u16>) -> Service {
    let service_port =
        |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: None };
    Service {
        name: ObjectName::new("shop", name),
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![service_port("http", 80), service_port("https", 443)],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: port,
    }
}

/// Ready, on this node.
fn local(ip: &str) -> Endpoint {
    let (addr, node) = (ip.parse().unwrap(), Some("node-1".into()));
    Endpoint { addr, node, ready: true, serving: true, terminating: false, hints: None }
}

fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("shop", "web-1"),
        service: "web".into(),
        family: Family::of(endpoints[0].addr),
        endpoints,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        triggered_at: None,
    }
}

/// What is told in each family, on whichever address.
fn counts(slices: &[&EndpointSlice], node: &Node) -> Vec<(String, usize)> {
    let service = service("web", Some(31_000));
    let check = health_check(&service, slices, node).unwrap();
    let any = ["0.0.0.0", "::"].map(|ip| ip.parse().unwrap());
    let listeners = listeners(&BTreeMap::from([(service.name, check)]), &any, |_| true);
    listeners.into_iter().map(|(one, count)| (one.address.to_string(), count)).collect()
}

fn told(v4: usize, v6: usize) -> Vec<(String, usize)> {
    vec![("0.0.0.0:31000".to_owned(), v4), ("[::]:31000".to_owned(), v6)]
}

#[test]
fn each_family_counts_its_ready_local_addresses() {
    let remote = Endpoint { node: Some("node-2".into()), ..local("10.1.0.3") };
    let nowhere = Endpoint { node: None, ..local("10.1.0.4") };
    let draining = Endpoint { ready: false, terminating: true, ..local("10.1.0.5") };
    let starting = Endpoint { ready: false, ..local("10.1.0.6") };
    let v4 = slice(vec![local("10.1.0.1"), local("10.1.0.2"), remote, nowhere, draining, starting]);
    let v6 = slice(vec![local("fd01::1")]);
    assert_eq!(counts(&[&v4, &v6], &node()), told(2, 1));
    assert_eq!(counts(&[&v4], &node()), told(2, 0));
    assert_eq!(counts(&[], &node()), told(0, 0));
}

#[test]
fn an_address_counts_once_whatever_its_ports() {
    let mut other = slice(vec![local("10.1.0.1")]);
    other.ports[0].name = "no port of the Service".into();
    let same = slice(vec![local("10.1.0.1")]);
    assert_eq!(counts(&[&same, &other], &node()), told(1, 0));
    assert_eq!(counts(&[&other], &node()), told(1, 0), "as kube-proxy, which counts what slices list");
    other.ports.clear();
    assert_eq!(counts(&[&other], &node()), told(0, 0));
}

#[test]
fn a_published_endpoint_that_terminates_is_ready() {
    // publishNotReadyAddresses: the controller writes ready, which is all that counts.
    let published = Endpoint { terminating: true, ..local("10.1.0.1") };
    assert_eq!(counts(&[&slice(vec![published])], &node()), told(1, 0));
}

#[test]
fn a_node_without_a_name_has_no_endpoints() {
    let unnamed = Endpoint { node: Some("".into()), ..local("10.1.0.1") };
    assert_eq!(counts(&[&slice(vec![unnamed])], &Node::default()), told(0, 0));
}

#[test]
fn only_who_asks_for_it_has_one() {
    let slice = slice(vec![local("10.1.0.1")]);
    assert_eq!(health_check(&service("web", None), &[&slice], &node()), None);
    let portless = Service { ports: Vec::new(), ..service("web", Some(31_000)) };
    assert_eq!(health_check(&portless, &[&slice], &node()), None);
    let single = Service { cluster_ips: vec!["fd00::1".parse().unwrap()], ..service("web", Some(31_000)) };
    let check = health_check(&single, &[&slice], &node()).unwrap();
    let any = ["0.0.0.0", "::"].map(|ip| ip.parse().unwrap());
    let listeners = listeners(&BTreeMap::from([(single.name, check)]), &any, |_| true);
    let addresses: Vec<String> = listeners.keys().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["[::]:31000"], "a family without a cluster IP has none");
}

#[test]
fn a_service_port_that_the_maps_do_not_hold_makes_the_count_zero() {
    let service = service("web", Some(31_000));
    let slice = slice(vec![local("10.1.0.1")]);
    let refused = port_tag(&service.name, &service.ports[1], Family::V4);
    let check = health_check(&service, &[&slice], &node()).unwrap();
    let checks = BTreeMap::from([(service.name, check)]);
    let any = ["0.0.0.0".parse().unwrap()];
    let count = |is_held: &dyn Fn(OwnerTag) -> bool| listeners(&checks, &any, is_held).into_values().next();
    assert_eq!(count(&|_| true), Some(1));
    assert_eq!(count(&|tag| tag != refused), Some(0));
}

fn wanted(list: &[(&str, &str)]) -> Listeners {
    let listener = |(name, address): &(&str, &str)| {
        (Listener { service: ObjectName::new("shop", name), address: address.parse().unwrap() }, 1)
    };
    list.iter().map(listener).collect()
}

fn names(listeners: &[Listener]) -> Vec<&str> {
    listeners.iter().map(|one| one.service.name()).collect()
}

#[test]
fn what_is_wanted_and_open_stays() {
    let open = wanted(&[("a", "0.0.0.0:1"), ("b", "0.0.0.0:2"), ("c", "0.0.0.0:3")]);
    let after = wanted(&[("a", "0.0.0.0:1"), ("b", "0.0.0.0:9"), ("d", "0.0.0.0:3")]);
    let moves = moves(&after, open.keys(), usize::MAX);
    assert_eq!((names(&moves.close), names(&moves.open)), (vec!["b", "c"], vec!["b", "d"]));
    assert!(moves.left_out.is_empty());
}

#[test]
fn what_is_open_keeps_its_room() {
    let all = wanted(&[("a", "0.0.0.0:1"), ("b", "0.0.0.0:2"), ("c", "0.0.0.0:3")]);
    let open = wanted(&[("c", "0.0.0.0:3")]);
    let narrow = moves(&all, open.keys(), 2);
    assert_eq!((names(&narrow.open), names(&narrow.left_out)), (vec!["a"], vec!["b"]));
    // One that goes makes room in the same turn.
    let gone = wanted(&[("z", "0.0.0.0:9")]);
    let freed = moves(&all, gone.keys(), 3);
    assert_eq!((names(&freed.close), freed.open.len(), freed.left_out.len()), (vec!["z"], 3, 0));
    // Less room than what is open closes nothing that is wanted.
    assert_eq!(moves(&all, all.keys(), 1), Moves::default());
}
