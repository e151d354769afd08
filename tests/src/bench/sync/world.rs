//! The objects of the bench: many services whose endpoints nobody reaches, and some without endpoints whose slice is
//! filled when its turn comes.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

/// Port of every service.
pub(super) const PORT: u16 = 80;
/// Port of the one backend that answers.
pub(super) const BACKEND_PORT: u16 = 8080;
/// The namespace of all.
pub(super) const NAMESPACE: &str = "default";

/// A service without a selector; `cluster_ip` is for a server that gives out none itself.
pub(super) fn service(name: &str, cluster_ip: Option<IpAddr>) -> Value {
    let mut spec = json!({ "ports": [{ "port": PORT, "targetPort": BACKEND_PORT, "protocol": "TCP" }] });
    if let Some(ip) = cluster_ip {
        spec["clusterIP"] = ip.to_string().into();
        spec["clusterIPs"] = json!([ip]);
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": NAMESPACE, "name": name }, "spec": spec,
    })
}

/// The slice of a service.
pub(super) fn slice(name: &str, endpoints: &[IpAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true }, "nodeName": "node-9" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4", "ports": [{ "name": "", "port": BACKEND_PORT, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// Endpoints of service `index` that no host has.
pub(super) fn unreachable(index: usize, count: usize) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 0));
    let offset = index * count;
    (offset..offset + count).map(|number| Ipv4Addr::from(first + number as u32).into()).collect()
}

/// The cluster IP of service `index` where the server gives out none.
pub(super) fn cluster_ip(index: usize) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + index as u32).into()
}
