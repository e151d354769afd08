//! Services and slices as a cluster of some size has them, and the manifests that say the same.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shunt::model::{
    Endpoint, EndpointSlice, Event, Family, Listing, ObjectName, Protocol, Service, ServicePort, SlicePort,
    TrafficPolicy,
};

/// Port of every service.
const PORT: u16 = 80;
/// Port of every endpoint.
pub(super) const TARGET_PORT: u16 = 8_080;
/// Cluster IPs come from 10.96.0.0/12, scattered as an allocator scatters them.
const VIPS: (u32, u32) = (0x0a60_0000, 1 << 20);
/// Endpoints come from this range: one address each.
pub(super) const PODS: &str = "10.128.0.0/9";
const FIRST_POD: u32 = 0x0a80_0000;
/// Odd, so that it meets each address of the range once.
const STRIDE: u32 = 0x9e3b1;

/// What a source listed before anything is written.
pub(super) const LISTINGS: [Listing; 2] = [Listing::Services, Listing::EndpointSlices];

/// A cluster.
#[derive(Clone)]
pub(super) struct World {
    pub(super) services: u32,
    pub(super) endpoints: u32,
    node: Arc<str>,
}

impl World {
    /// Services with this many endpoints each. The layout of addresses holds a million services and eight million
    /// endpoints.
    pub(super) fn new(services: u32, endpoints: u32) -> Self {
        Self { services, endpoints, node: "bench".into() }
    }

    /// Everything, listed once.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = LISTINGS.map(Event::ListStarted).into();
        for index in 0..self.services {
            events.push(Event::ServiceApplied(service(index).into()));
            events.push(Event::SliceApplied(self.slice(index).into()));
        }
        events.extend(LISTINGS.map(Event::ListEnded));
        events
    }

    /// Whether `at` is an endpoint of service `index`.
    pub(super) fn is_endpoint(&self, index: u32, at: SocketAddr) -> bool {
        (0..self.endpoints).any(|ordinal| self.pod(index, ordinal) == at.ip()) && at.port() == TARGET_PORT
    }

    /// The slice of service `index` after one of its pods was replaced by one that no service had before.
    pub(super) fn changed_slice(&self, index: u32) -> EndpointSlice {
        let mut slice = self.slice(index);
        if let Some(endpoint) = slice.endpoints.first_mut() {
            endpoint.addr = pod_at(self.services * self.endpoints + index);
        }
        slice
    }

    /// The same as manifests, one document an object.
    pub(super) fn manifests(&self) -> String {
        let mut text = String::new();
        for index in 0..self.services {
            write_service(&mut text, index);
            self.write_slice(&mut text, index);
        }
        text
    }

    fn slice(&self, index: u32) -> EndpointSlice {
        let endpoint = |ordinal| Endpoint {
            addr: self.pod(index, ordinal),
            node: Some(self.node.clone()),
            ready: true,
            serving: true,
            terminating: false,
            hints: None,
        };
        EndpointSlice {
            name: ObjectName::new("default", &slice_name(index)),
            service: name(index).into(),
            family: Family::V4,
            endpoints: (0..self.endpoints).map(endpoint).collect(),
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: TARGET_PORT }],
            triggered_at: None,
        }
    }

    fn pod(&self, index: u32, ordinal: u32) -> IpAddr {
        pod_at(index * self.endpoints + ordinal)
    }

    fn write_slice(&self, text: &mut String, index: u32) {
        let (service, name) = (name(index), slice_name(index));
        // Neither here.
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
             namespace: default\n  labels:\n    kubernetes.io/service-name: {service}\naddressType: IPv4\n\
             ports:\n- name: \"\"\n  protocol: TCP\n  port: {TARGET_PORT}\nendpoints:\n"
        );
        for ordinal in 0..self.endpoints {
            let (pod, node) = (self.pod(index, ordinal), &self.node);
            let _ = write!(
                text,
                "- addresses: [{pod}]\n  nodeName: {node}\n  conditions:\n    ready: true\n    serving: true\n    \
                 terminating: false\n"
            );
        }
    }
}

/// Where service `index` is dialled.
pub(super) fn dialled(index: u32) -> SocketAddr {
    SocketAddr::new(vip(index), PORT)
}

fn service(index: u32) -> Service {
    Service {
        name: ObjectName::new("default", &name(index)),
        cluster_ips: vec![vip(index)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: PORT, node_port: None }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }
}

fn write_service(text: &mut String, index: u32) {
    let (name, vip) = (name(index), vip(index));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec:\n  type: ClusterIP\n  clusterIP: {vip}\n  clusterIPs: [{vip}]\n  ports:\n  \
         - protocol: TCP\n    port: {PORT}\n    targetPort: {TARGET_PORT}\n"
    );
}

fn name(index: u32) -> String {
    format!("service-{index}")
}

fn slice_name(index: u32) -> String {
    format!("service-{index}-slice")
}

fn vip(index: u32) -> IpAddr {
    let (first, size) = VIPS;
    Ipv4Addr::from_bits(first + index.wrapping_mul(STRIDE) % size).into()
}

fn pod_at(index: u32) -> IpAddr {
    Ipv4Addr::from_bits(FIRST_POD + index).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    #[test]
    fn no_two_services_share_an_address() {
        let vips: HashSet<IpAddr> = (0..200_000).map(vip).collect();
        assert_eq!(vips.len(), 200_000);
        assert!(vips.iter().all(|ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[1] & 0xf0 == 96)));
    }

    #[test]
    fn a_replaced_pod_is_nobody_elses() {
        let world = World::new(10, 3);
        let pods: HashSet<IpAddr> =
            (0..10).flat_map(|index| world.slice(index).endpoints).map(|endpoint| endpoint.addr).collect();
        assert_eq!(pods.len(), 30);
        for index in 0..10 {
            let changed = world.changed_slice(index);
            assert_eq!(changed.endpoints.len(), 3);
            assert_eq!(changed.endpoints.iter().filter(|endpoint| pods.contains(&endpoint.addr)).count(), 2);
        }
    }
}
