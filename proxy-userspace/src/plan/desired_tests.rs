use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::*;
use crate::model::{Endpoint, Protocol, SlicePort, TrafficPolicy};
use crate::plan::tables::DesiredView::{Drop, Pass, Random, Reject};

fn port(name: &str, protocol: Protocol, number: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port: number, node_port: None }
}

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
        affinity_seconds: Some(10_800),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        health_check_node_port: None,
    }
}

fn endpoint(addr: IpAddr) -> Endpoint {
    Endpoint { addr, node: None, ready: true, serving: true, terminating: false, hints: None }
}

fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
    let ports = [("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 5353)];
    EndpointSlice {
        name: ObjectName::new("default", "web-1"),
        service: "web".into(),
        family: Family::of(endpoints[0].addr),
        endpoints,
        ports: ports.map(|(name, protocol, port)| SlicePort { name: name.into(), protocol, port }).into(),
        triggered_at: None,
    }
}

#[test]
fn each_port_is_planned_in_each_family() {
    let v4 = slice(vec![endpoint("10.1.0.1".parse().unwrap()), endpoint("10.1.0.2".parse().unwrap())]);
    let v6 = slice(vec![endpoint("fd01::1".parse().unwrap())]);
    let plan = desired_ports(&service(), &[&v4, &v6], &Node::default());
    assert!(plan.warnings.is_empty());
    let seen: Vec<_> = plan
        .ports
        .iter()
        .map(|port| (&*port.label, port.backends.len(), port.backends[0].port.get()))
        .collect();
    let expected = [
        ("default/web:http/tcp", 2, 8080),
        ("default/web:http/tcp6", 1, 8080),
        ("default/web:dns/udp", 2, 5353),
        ("default/web:dns/udp6", 1, 5353),
    ];
    assert_eq!(seen, expected);
    for port in &plan.ports {
        assert_eq!(port.views, [Random, Pass, Pass]);
        assert_eq!((port.affinity_seconds, port.frontends.len()), (10_800, 2));
    }
}

#[test]
fn external_frontends_bring_the_external_policy() {
    let mut external = service();
    external.ports[0].node_port = Some(30080);
    let v4 = slice(vec![endpoint("10.1.0.1".parse().unwrap())]);
    let plan = desired_ports(&external, &[v4], &Node::default());
    let views: Vec<_> = plan.ports.iter().map(|port| port.views).collect();
    assert_eq!(
        views,
        [[Random, Random, Drop], [Reject, Reject, Reject], [Random, Pass, Pass], [Reject, Pass, Pass]]
    );
}

#[test]
fn each_port_has_the_source_ranges_of_its_family_where_a_frontend_checks_them() {
    let sources = |ranges: &[&str], balancers: &[&str]| {
        let service = Service {
            source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            load_balancer_ips: balancers.iter().map(|text| text.parse().unwrap()).collect(),
            ..service()
        };
        let plan = desired_ports::<EndpointSlice>(&service, &[], &Node::default());
        plan.ports.iter().map(|port| port.sources.len()).collect::<Vec<_>>()
    };
    let (ranges, balancers) =
        (["203.0.113.0/24", "198.51.100.0/24", "2001:db8::/32"], ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(sources(&ranges, &balancers), [2, 1, 2, 1], "of each port in each family");
    assert_eq!(sources(&ranges, &balancers[..1]), [2, 0, 2, 0], "no IP of the other family");
    assert_eq!(sources(&ranges[..2], &balancers), [2, 0, 2, 0]);
    assert_eq!(sources(&["203.0.113.0/24", "0.0.0.0/0"], &balancers), [0; 4], "no restriction");
    assert_eq!(sources(&["0.0.0.0/1", "128.0.0.0/1"], &balancers), [2, 0, 2, 0]);
    assert_eq!(sources(&ranges, &["10.96.0.1"]), [0; 4], "the cluster IP is open");
}

#[test]
fn an_affinity_beyond_the_layout_is_the_longest_one() {
    let affinity = |seconds| {
        let service = Service { affinity_seconds: seconds, ..service() };
        desired_ports::<EndpointSlice>(&service, &[], &Node::default()).ports[0].affinity_seconds
    };
    assert_eq!([None, Some(1), Some(u32::MAX)].map(affinity), [0, 1, Head::MAX_AFFINITY]);
}

#[test]
fn more_endpoints_than_a_view_holds_are_warned_of() {
    let ends = (0..=CHUNK_SLOTS).map(|n| endpoint(Ipv4Addr::from(0x0a01_0000 + n).into())).collect();
    let plan = desired_ports(&service(), &[slice(ends)], &Node::default());
    let labels: Vec<_> = plan.warnings.iter().map(PlanWarning::label).collect();
    assert_eq!(labels, ["default/web:http/tcp", "default/web:dns/udp"]);
    let text = "the Internal view holds 131072 endpoints, 1 more get no connections";
    assert!(plan.warnings.iter().all(|warning| warning.to_string() == text), "{:?}", plan.warnings);
}

#[test]
fn tags_are_those_of_the_planned_ports() {
    let plan = desired_ports::<EndpointSlice>(&service(), &[], &Node::default());
    let planned: Vec<_> = plan.ports.iter().map(|port| port.tag).collect();
    assert_eq!(port_tags(&service()), planned);
}

#[test]
fn tags_tell_everything_apart_that_makes_a_service_port() {
    let mut tags = HashSet::new();
    for name in ["web", "webh"] {
        let service = ObjectName::new("default", name);
        for (port_name, protocol) in
            [("http", Protocol::Tcp), ("ttp", Protocol::Tcp), ("http", Protocol::Udp)]
        {
            for family in Family::ALL {
                assert!(tags.insert(port_tag(&service, &port(port_name, protocol, 80), family)));
            }
        }
    }
    let service = ObjectName::new("default", "web");
    let number_does_not_matter = port_tag(&service, &port("http", Protocol::Tcp, 81), Family::V4);
    assert!(!tags.insert(number_does_not_matter));
}

#[test]
fn tags_never_change() {
    // Pinned cells carry these numbers: `printf 'default/web\0http\0\006\0\040\0' | sha256sum`.
    let tag = port_tag(&ObjectName::new("default", "web"), &port("http", Protocol::Tcp, 80), Family::V4);
    assert_eq!(tag, OwnerTag(u64::from_le_bytes([0x8e, 0x3b, 0x29, 0x79, 0xe2, 0x3b, 0x10, 0xd0])));
}

#[test]
fn labels_name_a_nameless_port_by_its_number() {
    let service = ObjectName::new("default", "web");
    assert_eq!(&*port_label(&service, &port("", Protocol::Sctp, 80), Family::V6), "default/web:80/sctp6");
}
