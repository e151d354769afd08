//! A Service with every kind of frontend, for the tests of what a client on a node sees.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tests::load::Place;
use tests::report::GetReport;
use tests::wait;

use crate::scenario::{BACKEND_PORT, PORT, Scenario};

/// Cluster IPs, IPv4 and IPv6.
pub(crate) const CLUSTER_IPS: [&str; 2] = ["10.96.0.70", "fd00:10:96::70"];
/// Load-balancer IPs.
pub(crate) const LB_IPS: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
/// External IPs.
pub(crate) const EXTERNAL_IPS: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
/// NodePort of TCP and of UDP.
pub(crate) const NODE_PORT: u16 = 30080;

/// Limit within which a change is in force.
const CHANGE: Duration = Duration::from_secs(5);

/// What is changed of the Service: keys of `spec`, laid over the rest.
pub(crate) fn write(scenario: &Scenario, spec: Value, ingress: &Value) {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "default", "name": "shop" },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": CLUSTER_IPS[0], "clusterIPs": CLUSTER_IPS, "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": EXTERNAL_IPS,
            "ports": [
                { "name": "tcp", "protocol": "TCP", "port": PORT, "nodePort": NODE_PORT },
                { "name": "udp", "protocol": "UDP", "port": PORT, "nodePort": NODE_PORT },
            ],
        },
        "status": { "loadBalancer": { "ingress": ingress } },
    });
    let (Some(all), Value::Object(spec)) = (service["spec"].as_object_mut(), spec) else { panic!("objects") };
    all.extend(spec);
    scenario.manifests.write("shop.json", &service.to_string()).unwrap();
}

/// The usual ingress: both IPs, served by the nodes.
pub(crate) fn ingress() -> Value {
    json!(LB_IPS.map(|ip| json!({ "ip": ip })))
}

/// Lists the second pods of these nodes as endpoints.
pub(crate) fn list(scenario: &Scenario, nodes: &[usize]) {
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoint = |node: &usize| {
            let pod = scenario.cluster.pod(*node, 2);
            let address = [pod.v4, pod.v6][family];
            json!({
                "addresses": [address], "nodeName": scenario.cluster.node(*node).name,
                "conditions": { "ready": true },
            })
        };
        let port =
            |name: &str| json!({ "name": name, "protocol": name.to_uppercase(), "port": BACKEND_PORT });
        let ports = ["tcp", "udp"].map(port);
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("shop-{}", name.to_lowercase()),
                "labels": { "kubernetes.io/service-name": "shop" },
            },
            "addressType": name,
            "ports": ports,
            "endpoints": nodes.iter().map(endpoint).collect::<Vec<_>>(),
        });
        scenario.manifests.write(&format!("shop-{name}.json"), &slice.to_string()).unwrap();
    }
}

/// Addresses with a port.
pub(crate) fn at(ips: [&str; 2], port: u16) -> [SocketAddr; 2] {
    ips.map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
}

/// NodePorts on the addresses of a node.
pub(crate) fn on_node(scenario: &Scenario, node: usize) -> [SocketAddr; 2] {
    scenario.cluster.node(node).addresses().map(|ip| SocketAddr::new(ip, NODE_PORT))
}

/// Every frontend that a client on node 1 may use, with whether it is an external one.
pub(crate) fn frontends(scenario: &Scenario) -> Vec<(SocketAddr, bool)> {
    let internal = at(CLUSTER_IPS, PORT).map(|at| (at, false));
    let external = [at(LB_IPS, PORT), at(EXTERNAL_IPS, PORT), on_node(scenario, 1)];
    internal.into_iter().chain(external.into_iter().flatten().map(|at| (at, true))).collect()
}

/// The ways to ask: TCP, connected UDP, UDP.
pub(crate) const KINDS: [&[&str]; 3] = [&[], &["--udp"], &["--datagram"]];

/// Asks once, and briefly.
pub(crate) fn ask(client: Place<'_>, target: SocketAddr, options: &[&str]) -> GetReport {
    client.get(target, &[options, &["--timeout", "300"]].concat()).unwrap()
}

/// Waits until asking gives `wanted`, the name of a backend or of an error, and then gives nothing else for a while.
#[track_caller]
pub(crate) fn settles(client: Place<'_>, (target, options): (SocketAddr, &[&str]), wanted: &str) {
    let mut in_a_row = 0;
    let mut last = None;
    let settled = wait::until(CHANGE, "an answer", || {
        let report = ask(client, target, options);
        let seen = report.name.or(report.error);
        in_a_row = if seen.as_deref() == Some(wanted) { in_a_row + 1 } else { 0 };
        last = seen;
        Ok((in_a_row == 8).then_some(()))
    });
    assert!(settled.is_ok(), "{target} {options:?}: {last:?}, not {wanted}");
}

/// A client meets each of the two backends, and sees the frontend as its peer.
#[track_caller]
pub(crate) fn meets_both(client: Place<'_>, (target, options): (SocketAddr, &[&str])) {
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let report = ask(client, target, options);
        assert_eq!(report.error, None, "{options:?} {report:?}");
        // The answer to a datagram that was sent to the own loopback or address comes from there too.
        assert_eq!(report.peer, Some(target), "{options:?}");
        served.insert(report.name.unwrap());
        if served.len() == 2 {
            return;
        }
    }
    panic!("{target} {options:?}: only {served:?}");
}

/// What a pod or host process calls itself.
pub(crate) fn loopback(port: u16) -> [SocketAddr; 2] {
    [IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()].map(|ip| SocketAddr::new(ip, port))
}
