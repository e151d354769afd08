use super::*;
use crate::model::{ObjectName, TrafficPolicy};

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        cluster_ips: ips(&["10.96.0.1", "fd00::1"]),
        external_ips: ips(&["203.0.113.1", "2001:db8::1"]),
        load_balancer_ips: ips(&["192.0.2.1", "2001:db8::2", "192.0.2.2"]),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Udp,
            port: 80,
            node_port: Some(30080),
        }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }
}

/// One line per frontend: `address:port/protocol kind flags`.
fn lines(service: &Service, cluster_ip: &str) -> Vec<String> {
    let frontends = expand_frontends(service, &service.ports[0], cluster_ip.parse().unwrap());
    assert!(frontends.is_sorted_by(|a, b| a.key < b.key), "sorted, none twice");
    let line = |one: &DesiredFrontend| {
        let FrontendKey { addr, port, proto, .. } = one.key;
        format!("{addr} {}/{proto} {:?} {}", port.get(), one.kind, one.flags)
    };
    let mut lines: Vec<_> = frontends.iter().map(line).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_kind_is_expanded_in_its_own_family() {
    let v4 = [
        "0.0.0.0 30080/udp NodePort 0",
        "10.96.0.1 0/any OwnedVip 0",
        "10.96.0.1 80/udp ClusterIp 0",
        "192.0.2.1 80/udp LoadBalancer 0",
        "192.0.2.2 80/udp LoadBalancer 0",
        "203.0.113.1 80/udp ExternalIp 0",
    ];
    assert_eq!(lines(&service(), "10.96.0.1"), v4);
    let v6 = [
        "2001:db8::1 80/udp ExternalIp 0",
        "2001:db8::2 80/udp LoadBalancer 0",
        ":: 30080/udp NodePort 0",
        "fd00::1 0/any OwnedVip 0",
        "fd00::1 80/udp ClusterIp 0",
    ];
    assert_eq!(lines(&service(), "fd00::1"), v6);
}

#[test]
fn a_plain_service_has_its_cluster_ip_only() {
    let mut plain = service();
    (plain.external_ips, plain.load_balancer_ips) = (Vec::new(), Vec::new());
    plain.ports[0].node_port = None;
    assert_eq!(lines(&plain, "10.96.0.1"), ["10.96.0.1 0/any OwnedVip 0", "10.96.0.1 80/udp ClusterIp 0"]);
    assert!(!has_external_frontend(&plain, &plain.ports[0], Family::V4));
}

#[test]
fn one_address_of_several_kinds_is_the_most_bound_one() {
    let mut twice = service();
    twice.load_balancer_ips = ips(&["10.96.0.1", "192.0.2.1", "192.0.2.1"]);
    twice.external_ips = ips(&["192.0.2.1", "10.96.0.1"]);
    let expected = [
        "0.0.0.0 30080/udp NodePort 0",
        "10.96.0.1 0/any OwnedVip 0",
        "10.96.0.1 80/udp ClusterIp 0",
        "192.0.2.1 80/udp LoadBalancer 0",
    ];
    assert_eq!(lines(&twice, "10.96.0.1"), expected);
}

#[test]
fn each_kind_makes_a_service_port_external_in_its_family_only() {
    let external = |change: fn(&mut Service)| {
        let mut service = service();
        (service.external_ips, service.load_balancer_ips) = (Vec::new(), Vec::new());
        service.ports[0].node_port = None;
        change(&mut service);
        Family::ALL.map(|family| has_external_frontend(&service, &service.ports[0], family))
    };
    assert_eq!(external(|service| service.ports[0].node_port = Some(30080)), [true, true]);
    assert_eq!(external(|service| service.load_balancer_ips = ips(&["192.0.2.1"])), [true, false]);
    assert_eq!(external(|service| service.external_ips = ips(&["2001:db8::1"])), [false, true]);
}

#[test]
fn source_ranges_bind_load_balancer_ips_of_their_family() {
    let restricted = |ranges: &[&str]| {
        let mut service = service();
        service.source_ranges = ranges.iter().map(|text| text.parse().unwrap()).collect();
        Family::ALL.map(|family| restricts_sources(&service, family))
    };
    assert_eq!(restricted(&[]), [false, false]);
    assert_eq!(restricted(&["198.51.100.0/24"]), [true, false]);
    assert_eq!(restricted(&["2001:db8::/32", "10.0.0.0/8"]), [true, true]);
    assert_eq!(restricted(&["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"]), [false, true]);
    assert_eq!(restricted(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]), [true, false]);
}

#[test]
fn only_load_balancer_ips_check_the_source() {
    let mut bound = service();
    bound.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let flagged =
        |ip: &str| lines(&bound, ip).into_iter().filter(|line| line.ends_with(" 1")).collect::<Vec<_>>();
    assert_eq!(flagged("10.96.0.1"), ["192.0.2.1 80/udp LoadBalancer 1", "192.0.2.2 80/udp LoadBalancer 1"]);
    assert!(flagged("fd00::1").is_empty());
}
