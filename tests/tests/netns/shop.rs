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

/// Writes the Service with what is changed of it: keys of `spec`, laid over the rest.
pub(crate) fn write(scenario: &Scenario, spec: Value, ingress: &Value) {
    put(scenario, &service(spec, ingress));
}

/// The Service with what is changed of it.
pub(crate) fn service(spec: Value, ingress: &Value) -> Value {
    let usual = json!({
        "type": "LoadBalancer",
        "clusterIP": CLUSTER_IPS[0], "clusterIPs": CLUSTER_IPS, "ipFamilies": ["IPv4", "IPv6"],
        "externalIPs": EXTERNAL_IPS,
        "ports": [
            { "name": "tcp", "protocol": "TCP", "port": PORT, "nodePort": NODE_PORT },
            { "name": "udp", "protocol": "UDP", "port": PORT, "nodePort": NODE_PORT },
        ],
    });
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "default", "name": "shop" },
        "spec": laid_over(usual, spec),
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

/// Writes an object to the file that has its name.
pub(crate) fn put(scenario: &Scenario, object: &Value) {
    let file = format!("{}.json", object["metadata"]["name"].as_str().unwrap());
    scenario.manifests.write(&file, &object.to_string()).unwrap();
}

/// The keys of `object`, and those of `rest` in their place.
pub(crate) fn laid_over(mut object: Value, rest: Value) -> Value {
    let (Some(all), Value::Object(rest)) = (object.as_object_mut(), rest) else { panic!("objects") };
    all.extend(rest);
    object
}

/// The usual ingress: both IPs, served by the nodes.
pub(crate) fn ingress() -> Value {
    json!(LB_IPS.map(|ip| json!({ "ip": ip })))
}

/// Lists the second pods of these nodes as ready endpoints.
pub(crate) fn list(scenario: &Scenario, nodes: &[usize]) {
    let ready = json!({ "conditions": { "ready": true } });
    list_as(scenario, &nodes.iter().map(|node| (*node, ready.clone())).collect::<Vec<_>>());
}

/// Lists the second pods of these nodes, each with what else its endpoint says.
pub(crate) fn list_as(scenario: &Scenario, endpoints: &[(usize, Value)]) {
    for family in [0, 1] {
        let listed = endpoints
            .iter()
            .map(|(node, rest)| laid_over(endpoint(scenario, family, (*node, 2)), rest.clone()));
        put(
            scenario,
            &slice(("shop", family), &json!([tcp(BACKEND_PORT), udp(BACKEND_PORT)]), listed.collect()),
        );
    }
}

/// The port `tcp` of a slice.
pub(crate) fn tcp(number: u16) -> Value {
    json!({ "name": "tcp", "protocol": "TCP", "port": number })
}

/// The port `udp` of a slice.
pub(crate) fn udp(number: u16) -> Value {
    json!({ "name": "udp", "protocol": "UDP", "port": number })
}

/// The endpoint that pod `pod` of `node` is, in one family (0 is IPv4).
pub(crate) fn endpoint(scenario: &Scenario, family: usize, (node, pod): (usize, usize)) -> Value {
    let address = [scenario.cluster.pod(node, pod).v4, scenario.cluster.pod(node, pod).v6][family];
    json!({ "addresses": [address], "nodeName": scenario.cluster.node(node).name })
}

/// The slice of a Service in one family (0 is IPv4).
pub(crate) fn slice((service, family): (&str, usize), ports: &Value, endpoints: Vec<Value>) -> Value {
    let address_type = ["IPv4", "IPv6"][family];
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{service}-{}", address_type.to_lowercase()),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": address_type,
        "ports": ports,
        "endpoints": Value::Array(endpoints),
    })
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

/// A pod and the host of node 1.
pub(crate) fn clients(scenario: &Scenario) -> [Place<'_>; 2] {
    [scenario.cluster.pod(1, 1).place(), scenario.cluster.node(1).host()]
}

/// A client with a target and a way to ask.
pub(crate) type Look<'a> = (Place<'a>, (SocketAddr, &'static [&'static str]));

/// Looks that have each client, family, frontend and way to ask among them, where all of them would take long.
pub(crate) fn looks(scenario: &Scenario) -> [Look<'_>; 6] {
    let [pod, host] = clients(scenario);
    let [stream, connected, datagram] = KINDS;
    [
        (pod, (at(CLUSTER_IPS, PORT)[0], stream)),
        (host, (at(CLUSTER_IPS, PORT)[1], connected)),
        (host, (on_node(scenario, 1)[0], datagram)),
        (pod, (on_node(scenario, 1)[1], stream)),
        (pod, (at(LB_IPS, PORT)[0], connected)),
        (host, (at(EXTERNAL_IPS, PORT)[1], stream)),
    ]
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
    // One of two backends may come a few times in a row by chance; an error does not.
    let enough = if wanted.starts_with('E') || wanted == "timeout" { 8 } else { 16 };
    let mut in_a_row = 0;
    let mut last = None;
    let settled = wait::until(CHANGE, "an answer", || {
        let report = ask(client, target, options);
        let seen = report.name.or(report.error);
        in_a_row = if seen.as_deref() == Some(wanted) { in_a_row + 1 } else { 0 };
        last = seen;
        Ok((in_a_row == enough).then_some(()))
    });
    assert!(settled.is_ok(), "{target} {options:?}: {last:?}, not {wanted}");
}

/// Waits until asking has given both of two backends.
#[track_caller]
pub(crate) fn comes_to_meet_both(client: Place<'_>, (target, options): (SocketAddr, &[&str])) {
    let mut served = std::collections::BTreeSet::new();
    let both = wait::until(CHANGE, "both backends", || {
        served.extend(ask(client, target, options).name);
        Ok((served.len() == 2).then_some(()))
    });
    assert!(both.is_ok(), "{target} {options:?}: only {served:?}");
}

/// Waits until nobody answers, and then that it stays so.
#[track_caller]
pub(crate) fn comes_to_be_unserved(client: Place<'_>, (target, options): (SocketAddr, &[&str])) {
    let unserved = || Ok(ask(client, target, options).name.is_none().then_some(()));
    wait::until(CHANGE, &format!("{target} {options:?} to be nobody's"), unserved).unwrap();
    let names: Vec<_> = (0..3).filter_map(|_| ask(client, target, options).name).collect();
    assert!(names.is_empty(), "{target} {options:?}: {names:?}");
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
