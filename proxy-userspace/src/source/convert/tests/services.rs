//! Services.

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{fields, served};
use crate::model::{ObjectName, Protocol, Service, ServicePort, TrafficPolicy};
use crate::source::api;
use crate::source::convert::{Converted, Outcome, Unserved, service};

/// A Service `default/web` with this `spec`.
fn of_spec(spec: &Value) -> Converted<Service> {
    of_object(json!({ "metadata": { "namespace": "default", "name": "web" }, "spec": spec }))
}

fn of_object(object: Value) -> Converted<Service> {
    let object: api::Service = serde_json::from_value(object).unwrap();
    service(&object)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_plain_service_is_served_whole() {
    let (service, warned) = served(of_spec(&json!({
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd00:96::00a"],
        "ipFamilies": ["IPv4", "IPv6"],
        "selector": { "app": "web" },
        "ports": [
            { "name": "http", "port": 80, "targetPort": "named", "appProtocol": "h2c" },
            { "name": "dns", "port": 80, "protocol": "UDP" },
        ],
    })));
    let port = |name: &str, protocol| ServicePort { name: name.into(), protocol, port: 80, node_port: None };
    let expected = Service {
        name: ObjectName::new("default", "web"),
        cluster_ips: ips(&["10.96.0.10", "fd00:96::a"]),
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![port("http", Protocol::Tcp), port("dns", Protocol::Udp)],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    };
    assert_eq!((service, warned), (expected, vec![]));
}

#[test]
fn what_a_node_does_not_serve_is_a_deletion_without_a_word() {
    let unserved = |object: Value| {
        let (outcome, warnings) = of_object(object);
        assert_eq!(warnings, []);
        match outcome {
            Outcome::Unserved(name, reason) if name == ObjectName::new("a", "b") => reason,
            other => panic!("{other:?}"),
        }
    };
    let meta = json!({ "namespace": "a", "name": "b" });
    let labelled = json!({ "namespace": "a", "name": "b", "labels": { "service.kubernetes.io/service-proxy-name": "" } });
    let cases = [
        (json!({ "metadata": meta, "spec": { "clusterIP": "None" } }), Unserved::Headless),
        (json!({ "metadata": meta, "spec": { "clusterIPs": ["None"] } }), Unserved::Headless),
        (json!({ "metadata": meta, "spec": { "clusterIP": "" } }), Unserved::NoClusterIp),
        (json!({ "metadata": meta, "spec": { "clusterIPs": null } }), Unserved::NoClusterIp),
        (json!({ "metadata": meta }), Unserved::NoClusterIp),
        (
            json!({ "metadata": meta, "spec": { "type": "ExternalName", "externalName": "x.example" } }),
            Unserved::ExternalName,
        ),
        (json!({ "metadata": labelled, "spec": { "clusterIP": "10.96.0.1" } }), Unserved::OtherProxy),
    ];
    for (object, reason) in cases {
        assert_eq!(unserved(object.clone()), reason, "{object}");
    }
}

#[test]
fn no_usable_cluster_ip_rejects_the_whole_object() {
    for (spec, field) in [
        (json!({ "clusterIP": "10.96.0.300" }), "spec.clusterIP"),
        (json!({ "clusterIPs": ["web.example"] }), "spec.clusterIPs[0]"),
        (json!({ "clusterIPs": ["0.0.0.0"] }), "spec.clusterIPs[0]"),
        (json!({ "clusterIPs": ["127.0.0.1"] }), "spec.clusterIPs[0]"),
        (json!({ "clusterIPs": ["ff02::1"] }), "spec.clusterIPs[0]"),
        (json!({ "clusterIP": "10.96.0.1", "type": "Anycast" }), "spec.type"),
        (json!({ "clusterIP": "10.96.0.1", "ipFamilies": ["IPv6"] }), "spec.clusterIP"),
    ] {
        let (outcome, warnings) = of_spec(&spec);
        assert_eq!((outcome, fields(&warnings)), (Outcome::Rejected, vec![field.to_owned()]), "{spec}");
        assert_eq!(warnings[0].object, "Service default/web");
    }
}

#[test]
fn one_bad_cluster_ip_costs_its_family_only() {
    let (service, warned) = served(of_spec(&json!({
        "clusterIPs": ["10.96.0.1", "fd00::x", "10.96.0.2", "fd00::1"],
        "externalIPs": ["192.0.2.1"],
    })));
    assert_eq!(service.cluster_ips, ips(&["10.96.0.1", "fd00::1"]));
    assert_eq!(warned, ["spec.clusterIPs[1]", "spec.clusterIPs[2]"]);
}

#[test]
fn a_name_is_needed_and_a_namespace_is_not() {
    let spec = json!({ "clusterIP": "10.96.0.1" });
    let (service, _) = served(of_object(json!({ "metadata": { "name": "web" }, "spec": spec })));
    assert_eq!(service.name, ObjectName::new("default", "web"));
    for metadata in [json!({}), json!(null), json!({ "name": "a/b" })] {
        let (outcome, warnings) = of_object(json!({ "metadata": metadata, "spec": spec }));
        assert_eq!((outcome, fields(&warnings)), (Outcome::Rejected, vec!["metadata.name".to_owned()]));
    }
}

#[test]
fn a_bad_port_costs_itself_only() {
    let (service, warned) = served(of_spec(&json!({
        "clusterIP": "10.96.0.1",
        "ports": [
            { "name": "a", "port": 80 },
            { "name": "b", "port": 0 },
            { "name": "c", "port": 65_536 },
            { "name": "d", "port": -1 },
            { "name": "e" },
            { "name": "f", "port": 81, "protocol": "QUIC" },
            { "name": "a", "port": 82 },
            { "name": "g", "port": 80 },
            { "name": "a", "port": 80, "protocol": "SCTP" },
        ],
    })));
    let kept: Vec<_> = service.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
    assert_eq!(kept, [("a", Protocol::Tcp, 80), ("a", Protocol::Sctp, 80)]);
    let expected = ["[1].port", "[2].port", "[3].port", "[4].port", "[5].protocol", "[6].name", "[7].port"];
    assert_eq!(warned, expected.map(|field| format!("spec.ports{field}")));
}

#[test]
fn node_ports_follow_the_type() {
    let node_ports = |kind: &str| {
        let (service, warned) = served(of_spec(&json!({
            "type": kind,
            "clusterIP": "10.96.0.1",
            "allocateLoadBalancerNodePorts": false,
            "ports": [
                { "name": "a", "port": 80, "nodePort": 30_080 },
                { "name": "b", "port": 81, "nodePort": 70_000 },
                { "name": "c", "port": 82, "nodePort": 30_080 },
                { "name": "d", "port": 80, "nodePort": 30_080, "protocol": "UDP" },
                { "name": "e", "port": 83, "nodePort": 0 },
            ],
        })));
        (service.ports.iter().map(|port| port.node_port).collect::<Vec<_>>(), warned.len())
    };
    let some = vec![Some(30_080), None, None, Some(30_080), None];
    assert_eq!(node_ports("NodePort"), (some.clone(), 2));
    assert_eq!(node_ports("LoadBalancer"), (some, 2));
    assert_eq!(node_ports("ClusterIP"), (vec![None; 5], 4));
}

#[test]
fn external_addresses_need_a_cluster_ip_of_their_family() {
    let object = json!({
        "metadata": { "name": "web" },
        "spec": { "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.01", "fd01::1", "x", "127.0.0.1"] },
        "status": { "loadBalancer": { "ingress": [
            { "ip": "198.51.100.1" },
            { "ip": "198.51.100.2", "ipMode": "VIP" },
            { "ip": "198.51.100.3", "ipMode": "Proxy" },
            { "ip": "198.51.100.4", "ipMode": "Odd" },
            { "hostname": "lb.example" },
            { "ip": "fd01::2" },
        ] } },
    });
    let (service, warned) = served(of_object(object));
    assert_eq!(service.external_ips, ips(&["192.0.2.1"]));
    assert_eq!(service.load_balancer_ips, ips(&["198.51.100.1", "198.51.100.2"]));
    let external = ["spec.externalIPs[1]", "spec.externalIPs[2]", "spec.externalIPs[3]"];
    let ingress = ["status.loadBalancer.ingress[3].ipMode", "status.loadBalancer.ingress[5].ip"];
    assert_eq!(warned, [&external[..], &ingress].concat());
}

/// Load-balancer IPs and ranges that are left, and how many warnings there were.
fn restricted(ranges: &[&str]) -> (Vec<IpAddr>, Vec<String>, usize) {
    let (service, warned) = served(of_object(json!({
        "metadata": { "name": "web" },
        "spec": { "clusterIPs": ["10.96.0.1", "fd00::1"], "loadBalancerSourceRanges": ranges },
        "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }, { "ip": "fd01::1" }] } },
    })));
    let ranges = service.source_ranges.iter().map(ToString::to_string).collect();
    (service.load_balancer_ips, ranges, warned.len())
}

#[test]
fn source_ranges_are_trimmed_and_canonical() {
    let both = ips(&["198.51.100.1", "fd01::1"]);
    assert_eq!(restricted(&[]), (both.clone(), vec![], 0));
    let kept = vec!["10.0.0.0/8".to_owned(), "fd00::/16".to_owned()];
    assert_eq!(restricted(&[" 010.1.2.3/8\t", "fd00::1/16"]), (both, kept, 0));
}

/// Without a range a family is open to everyone: a typing error must not do that.
#[test]
fn a_bad_source_range_opens_nothing() {
    let (v4, v6) = (ips(&["198.51.100.1"]), ips(&["fd01::1"]));
    assert_eq!(restricted(&["10.0.0.0/99"]), (v6, vec![], 2));
    assert_eq!(restricted(&["fd00::/999"]), (v4.clone(), vec![], 2));
    assert_eq!(restricted(&["office"]), (vec![], vec![], 3));
    assert_eq!(restricted(&["office", "10.0.0.0/8"]), (v4, vec!["10.0.0.0/8".to_owned()], 2));
}

#[test]
fn affinity_has_a_default_and_a_limit() {
    for (spec, expected, warnings) in [
        (json!({}), None, 0),
        (json!({ "sessionAffinity": "None" }), None, 0),
        (json!({ "sessionAffinity": "ClientIP" }), Some(10_800), 0),
        (json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": null }), Some(10_800), 0),
        (json!({ "sessionAffinity": "ClientIP", "timeout": 1 }), Some(1), 0),
        (json!({ "sessionAffinity": "ClientIP", "timeout": 86_400 }), Some(86_400), 0),
        (json!({ "sessionAffinity": "ClientIP", "timeout": 86_401 }), Some(86_400), 1),
        (json!({ "sessionAffinity": "ClientIP", "timeout": 0 }), Some(10_800), 1),
        (json!({ "sessionAffinity": "ClientIP", "timeout": -5 }), Some(10_800), 1),
        (json!({ "sessionAffinity": "Cookie" }), None, 1),
        (json!({ "sessionAffinity": "None", "timeout": 5 }), None, 0),
    ] {
        let mut spec = spec;
        spec["clusterIP"] = json!("10.96.0.1");
        if let Some(seconds) = spec.get("timeout").cloned() {
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        let (service, warned) = served(of_spec(&spec));
        assert_eq!((service.affinity_seconds, warned.len()), (expected, warnings), "{spec}");
    }
}

#[test]
fn policies_and_the_health_check_port() {
    let read = |kind: &str, internal: &str, external: &str, port: i64| {
        let (service, warned) = served(of_spec(&json!({
            "clusterIP": "10.96.0.1", "type": kind, "internalTrafficPolicy": internal,
            "externalTrafficPolicy": external, "healthCheckNodePort": port,
        })));
        (service.internal_policy, service.external_policy, service.health_check_node_port, warned.len())
    };
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    assert_eq!(read("LoadBalancer", "Local", "Local", 31_000), (local, local, Some(31_000), 0));
    assert_eq!(read("LoadBalancer", "Cluster", "Cluster", 31_000), (cluster, cluster, None, 0));
    assert_eq!(read("LoadBalancer", "", "Local", 0), (cluster, local, None, 0));
    assert_eq!(read("LoadBalancer", "", "Local", 99_999), (cluster, local, None, 1));
    assert_eq!(read("NodePort", "", "Local", 31_000), (cluster, local, None, 0));
    assert_eq!(read("NodePort", "Near", "Far", 0), (cluster, cluster, None, 2));
}

proptest! {
    /// Whatever an object holds, what is served is valid by construction.
    #[test]
    fn no_object_panics_or_gets_through_unchecked(
        ips in prop::collection::vec(prop_oneof!["[0-9.]{0,12}", "[0-9a-f:]{0,12}", "\\PC{0,8}"], 0..4),
        ports in prop::collection::vec((any::<i64>(), any::<i64>(), "[A-Z]{0,4}"), 0..4),
        timeout: i64,
    ) {
        let ports: Vec<_> = ports.iter().map(|(port, node_port, protocol)| {
            json!({ "port": port % 70_000, "nodePort": node_port % 70_000, "protocol": protocol })
        }).collect();
        let (outcome, warnings) = of_spec(&json!({
            "type": "NodePort", "clusterIPs": ips, "externalIPs": ips, "loadBalancerSourceRanges": ips,
            "ports": ports, "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": timeout } },
        }));
        match outcome {
            Outcome::Served(service) => {
                prop_assert!((1..=2).contains(&service.cluster_ips.len()));
                prop_assert!(service.ports.iter().all(|port| port.port != 0 && port.node_port != Some(0)));
                prop_assert!((1..=86_400).contains(&service.affinity_seconds.unwrap()));
            }
            Outcome::Rejected => prop_assert!(!warnings.is_empty()),
            Outcome::Unserved(..) => {}
        }
    }
}
