//! What load balancers, the kubelet and monitoring ask kube-proxy, asked of both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::ask::{Answer, ask};
use tests::cluster::objects::{NODE, Ref};
use tests::topology::{Cluster, Node};
use tests::wait;

use crate::pair::{ConfigFile, cluster, configuration, start};

const LIMIT: Duration = Duration::from_secs(20);
const METRICS: (bool, &str) = (false, "/metrics");
/// On its health address or its metrics address, and the path.
const PAGES: [(bool, &str); 8] = [
    (true, "/healthz"),
    (true, "/livez"),
    (true, "/nowhere"),
    (false, "/healthz"),
    (false, "/proxyMode"),
    (false, "/configz"),
    METRICS,
    (false, "/nowhere"),
];

/// Metrics of kube-proxy that Shunt does not have, with the reason. Some come only once kube-proxy has counted something.
const NOT_OURS: [(&str, &str); 8] = [
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", ONE_KIND_OF_SYNC),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", ONE_KIND_OF_SYNC),
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", NO_CONNTRACK),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", NO_CONNTRACK),
    ("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", NO_NFTABLES),
    ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", NO_NFTABLES),
    ("kubeproxy_nftables_localhost_nodeport_listeners", NO_NFTABLES),
    ("kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total", NO_NFTABLES),
];
const ONE_KIND_OF_SYNC: &str = "a batch writes what differs, be it everything: there are no two kinds";
const NO_CONNTRACK: &str = "the socket hooks leave nothing in conntrack";
const NO_NFTABLES: &str = "there are no rules";
/// Metrics that kube-proxy shows only once it has counted something, and Shunt always.
const LATE: [&str; 1] = ["kubeproxy_network_programming_duration_seconds"];

fn both(nodes: [&Node; 2], page: (bool, &str)) -> [Answer; 2] {
    nodes.map(|node| ask(node, page.0, page.1).unwrap())
}

/// The keys of an object, and of the objects in it.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(_) => json!([]),
        _ => Value::Null,
    }
}

/// Every field in `value`, as a path.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        paths(value, &path, found);
        found.insert(path);
    }
}

/// Type of each metric of kube-proxy's own, by name.
fn own_metrics(text: &str) -> BTreeMap<&str, &str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.filter(|(name, _)| name.starts_with("kubeproxy_")).collect()
}

#[test]
fn pages_are_the_same_with_the_configuration_of_kubeadm() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = cluster(&topology);
    let nodes = [topology.node(1), topology.node(2)];
    let config = configuration(&control, nodes[0]);
    let file = ConfigFile::new(&config);
    let (agent, _proxy) = start(&control, nodes, &file);
    let warned: Vec<String> = agent
        .log()
        .lines()
        .filter(|line| line.contains("WARN"))
        .map(|line| line.split_once("WARN").map_or(line, |(_, rest)| rest).trim().to_owned())
        .collect();
    println!("the agent says of kubeadm's configuration: {warned:#?}");

    for page in PAGES {
        let [ours, theirs] = both(nodes, page);
        println!(
            "{} {}\n  Shunt      {ours}\n  kube-proxy {theirs}",
            if page.0 { 10256 } else { 10249 },
            page.1
        );
        assert_eq!((ours.code, ours.media_type()), (theirs.code, theirs.media_type()), "{page:?}");
    }
    for path in ["/healthz", "/livez"] {
        let [ours, theirs] =
            both(nodes, (true, path)).map(|answer| serde_json::from_str(&answer.body).unwrap());
        assert_eq!(shape(&ours), shape(&theirs), "{path}");
        assert_eq!((&ours["healthy"], &ours["nodeEligible"]), (&theirs["healthy"], &theirs["nodeEligible"]));
    }
    let [mode, _] = both(nodes, (false, "/proxyMode"));
    assert_eq!(mode.body, "shunt");

    let [ours, theirs] = both(nodes, (false, "/configz")).map(|answer| {
        serde_json::from_str::<Value>(&answer.body).unwrap()["kubeproxy.config.k8s.io"].clone()
    });
    let (mut ours_paths, mut theirs_paths) = (BTreeSet::new(), BTreeSet::new());
    paths(&ours, "", &mut ours_paths);
    paths(&theirs, "", &mut theirs_paths);
    let missing: Vec<_> = theirs_paths.difference(&ours_paths).collect();
    assert!(theirs_paths.len() > 40 && missing.is_empty(), "/configz has no {missing:?}");
    for field in ["kind", "clusterCIDR", "oomScoreAdj", "nodePortAddresses", "metricsBindAddress"] {
        println!("/configz {field}: Shunt {}, kube-proxy {}", ours[field], theirs[field]);
    }

    let [ours, theirs] = both(nodes, METRICS);
    let (ours, theirs) = (own_metrics(&ours.body), own_metrics(&theirs.body));
    for (name, kind) in ours.iter().filter(|(name, _)| !LATE.contains(name)) {
        assert_eq!(theirs.get(name), Some(kind), "{name}");
    }
    let missing: BTreeSet<&str> = theirs.keys().filter(|name| !ours.contains_key(*name)).copied().collect();
    let explained = NOT_OURS.map(|(name, _)| name).into();
    assert!(missing.is_subset(&explained), "{missing:?}");
    assert!(missing.contains(NOT_OURS[0].0), "a metric that only kube-proxy has is seen to be missing");
    println!("{} metrics have kube-proxy's names; not there: {missing:?}", ours.len());
}

#[test]
fn a_node_on_its_way_out_is_unhealthy_and_alive() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = cluster(&topology);
    let nodes = [topology.node(1), topology.node(2)];
    let file = ConfigFile::new(&configuration(&control, nodes[0]));
    let _pair = start(&control, nodes, &file);
    let codes = |path| both(nodes, (true, path)).map(|answer| answer.code);
    assert_eq!((codes("/healthz"), codes("/livez")), ([200; 2], [200; 2]));
    let api = control.api().unwrap();
    let taint = |taints: Value| {
        for node in nodes {
            let object = Ref { kind: NODE, namespace: None, name: &node.name };
            api.patch(&object, json!({ "spec": { "taints": taints } })).unwrap();
        }
    };
    taint(json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]));
    let until = |wanted: [u16; 2]| {
        wait::until_ok(LIMIT, &format!("/healthz to be {wanted:?}"), || {
            let seen = codes("/healthz");
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .unwrap();
    };
    until([503; 2]);
    assert_eq!(codes("/livez"), [200; 2]);
    for answer in both(nodes, (true, "/healthz")) {
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap()["nodeEligible"], false, "{answer}");
    }
    taint(json!(null));
    until([200; 2]);
}
