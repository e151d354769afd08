use super::*;
use crate::model::{ObjectName, TrafficPolicy};

fn service(ranges: &[&str]) -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        cluster_ips: ips(&["10.96.0.1", "fd00::1"]),
        external_ips: Vec::new(),
        load_balancer_ips: ips(&["192.0.2.1", "2001:db8::1"]),
        source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        ports: Vec::new(),
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// What is let in on a node with these addresses, as text; bits are those of the kernel's form.
fn allowed(ranges: &[&str], family: Family, own: &[&str]) -> Vec<String> {
    let node = Node { addresses: ips(own), ..Node::default() };
    let keys = allowed_sources(&service(ranges), family, &node);
    assert!(keys.is_sorted(), "{keys:?}");
    let mut texts: Vec<_> = keys.iter().map(|key| format!("{}/{}", key.addr, key.prefix_len)).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn each_family_has_the_ranges_of_its_own() {
    let ranges = ["203.0.113.0/24", "2001:db8:f::/48"];
    assert_eq!(allowed(&ranges, Family::V4, &[]), ["203.0.113.0/120"]);
    assert_eq!(allowed(&ranges, Family::V6, &[]), ["2001:db8:f::/48"]);
    assert_eq!(allowed(&ranges[..1], Family::V6, &[]), Vec::<String>::new());
}

#[test]
fn a_range_inside_another_or_named_twice_counts_once() {
    let ranges = ["203.0.113.128/25", "203.0.113.0/24", "203.0.113.7/24", "198.51.100.9/32"];
    assert_eq!(allowed(&ranges, Family::V4, &[]), ["198.51.100.9/128", "203.0.113.0/120"]);
}

#[test]
fn a_range_that_holds_the_node_lets_the_balancers_own_ips_of_the_family_in() {
    let ranges = ["198.51.100.0/24", "2001:db8:f::/48"];
    let v4 = |own: &[&str]| allowed(&ranges, Family::V4, own);
    assert_eq!(v4(&["198.51.100.9"]), ["192.0.2.1/128", "198.51.100.0/120"]);
    assert_eq!(v4(&["10.0.0.9", "198.51.100.9"]), v4(&["198.51.100.9"]), "any of the node's addresses");
    assert_eq!(v4(&["10.0.0.9", "2001:db8:f::9"]), ["198.51.100.0/120"]);
    let own = ["198.51.100.9", "2001:db8:f::9"];
    assert_eq!(allowed(&ranges, Family::V6, &own), ["2001:db8::1/128", "2001:db8:f::/48"]);
    assert_eq!(allowed(&["192.0.2.0/24"], Family::V4, &["192.0.2.9"]), ["192.0.2.0/120"], "it is inside");
}
