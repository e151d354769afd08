//! Nodes and ServiceCIDRs.

use serde_json::json;

use super::{fields, served};
use crate::model::{Node, ServiceCidr};
use crate::source::convert::{Interner, Outcome, node, service_cidr};

#[test]
fn internal_addresses_come_first() {
    let object = serde_json::from_value(json!({
        "metadata": { "name": "a", "labels": { "topology.kubernetes.io/zone": "z1", "other": "x" } },
        "spec": { "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.7/24", "fd00:1::/64", "x"] },
        "status": { "addresses": [
            { "type": "ExternalIP", "address": "192.0.2.1" },
            { "type": "Hostname", "address": "a" },
            { "type": "InternalIP", "address": "10.0.0.1" },
            { "type": "InternalIP", "address": "fd00::1" },
            { "type": "InternalIP", "address": "10.0.0.01" },
            { "type": "InternalIP", "address": "bad" },
        ] },
    }))
    .unwrap();
    let (read, warned) = served(node(&object, &mut Interner::default()));
    let expected = Node {
        name: "a".into(),
        zone: Some("z1".into()),
        addresses: ["10.0.0.1", "fd00::1", "192.0.2.1"].map(|text| text.parse().unwrap()).into(),
        pod_cidrs: ["10.1.0.0/24", "fd00:1::/64"].map(|text| text.parse().unwrap()).into(),
        is_leaving: false,
    };
    assert_eq!(
        (read, warned),
        (expected, vec!["status.addresses[5].address".into(), "spec.podCIDRs[2]".into()])
    );
}

#[test]
fn a_node_may_have_nothing_but_a_name() {
    let bare = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
    let (read, warned) = served(node(&bare, &mut Interner::default()));
    assert_eq!((read, warned), (Node { name: "a".into(), ..Node::default() }, vec![]));
    let old = serde_json::from_value(json!({
        "metadata": { "name": "a", "labels": { "topology.kubernetes.io/zone": "" } },
        "spec": { "podCIDR": "10.1.0.0/24" },
    }))
    .unwrap();
    let (read, _) = served(node(&old, &mut Interner::default()));
    assert_eq!((read.zone, read.pod_cidrs.len()), (None, 1));
}

#[test]
fn a_service_cidr_without_a_readable_range_is_rejected() {
    let of = |cidrs: &[&str]| {
        let object = json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": cidrs } });
        service_cidr(&serde_json::from_value(object).unwrap())
    };
    let (cidr, warned) = served(of(&["10.96.0.0/12", "fd00:96::/108"]));
    let cidrs = ["10.96.0.0/12", "fd00:96::/108"].map(|text| text.parse().unwrap()).into();
    assert_eq!((cidr, warned), (ServiceCidr { name: "kubernetes".into(), cidrs }, vec![]));
    assert_eq!(served(of(&["10.96.0.0/12", "x"])).1, ["spec.cidrs[1]"]);
    let (outcome, warnings) = of(&["x"]);
    assert_eq!((outcome, fields(&warnings)), (Outcome::Rejected, vec!["spec.cidrs[0]".to_owned()]));
}

#[test]
fn a_node_that_is_deleted_or_marked_by_the_autoscaler_is_leaving() {
    let is_leaving = |metadata: serde_json::Value, taints: serde_json::Value| {
        let object = json!({ "metadata": metadata, "spec": { "taints": taints } });
        served(node(&serde_json::from_value(object).unwrap(), &mut Interner::default())).0.is_leaving
    };
    let plain = json!({ "name": "a" });
    let other = json!([{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }]);
    let marked = json!([{ "key": "x" }, { "key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule" }]);
    assert!(!is_leaving(plain.clone(), json!(null)));
    assert!(!is_leaving(plain.clone(), other));
    assert!(is_leaving(plain, marked));
    assert!(!is_leaving(json!({ "name": "a", "deletionTimestamp": null }), json!([])));
    assert!(is_leaving(json!({ "name": "a", "deletionTimestamp": "2030-01-01T00:00:00Z" }), json!([])));
}
