//! `healthCheckNodePort` of one Service, asked of both for the same endpoints.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::ask::{Answer, ask_at};
use tests::cluster::Api;
use tests::cluster::objects::{Ref, SERVICE, SLICE};
use tests::netns::Netns;
use tests::topology::{Cluster, Node};
use tests::wait;

use crate::pair::{ConfigFile, cluster, configuration, start};

const LIMIT: Duration = Duration::from_secs(30);
/// Headers that differ by when and how it was asked.
const INCIDENTAL: [&str; 2] = ["date:", "connection:"];

/// The health check's number.
fn create(api: &Api) -> u16 {
    api.create(json!({
        "apiVersion": SERVICE.api_version, "kind": SERVICE.name,
        "metadata": { "namespace": "default", "name": "web" },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }],
            "ipFamilyPolicy": "RequireDualStack",
        },
    }))
    .unwrap();
    for family in ["IPv4", "IPv6"] {
        api.create(json!({
            "apiVersion": SLICE.api_version, "kind": SLICE.name,
            "metadata": {
                "namespace": "default", "name": slice(family), "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": family, "ports": [{ "port": 8080 }], "endpoints": [],
        }))
        .unwrap();
    }
    let service = Ref { kind: SERVICE, namespace: Some("default"), name: "web" };
    let made = api.get(&service).unwrap().unwrap();
    made["spec"]["healthCheckNodePort"].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap()
}

fn slice(family: &str) -> String {
    format!("web-{}", family.to_lowercase())
}

/// Gives each node these endpoints.
fn list(api: &Api, nodes: [&Node; 2], conditions: &[Value]) {
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoints: Vec<Value> = nodes
            .iter()
            .flat_map(|node| {
                conditions.iter().zip(&node.pods).map(move |(conditions, pod)| {
                    let ip = [pod.v4, pod.v6][family];
                    json!({ "addresses": [ip], "nodeName": node.name, "conditions": conditions })
                })
            })
            .collect();
        let object = Ref { kind: SLICE, namespace: Some("default"), name: &slice(name) };
        api.patch(&object, json!({ "endpoints": endpoints })).unwrap();
    }
}

/// Asks on a node's own address, once it tells so many endpoints.
fn told(prober: &Netns, ip: IpAddr, (number, count): (u16, usize)) -> Answer {
    let address = SocketAddr::new(ip, number);
    wait::until_ok(LIMIT, &format!("{address} to tell {count}"), || {
        let answer = ask_at(prober, address).map_err(|error| format!("{error:#}"))?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        if body["localEndpoints"] == count { Ok(answer) } else { Err(format!("{answer}")) }
    })
    .unwrap()
}

/// Status line and headers, sorted.
fn head(answer: &Answer) -> Vec<&str> {
    let is_incidental = |line: &&str| INCIDENTAL.iter().any(|name| line.to_lowercase().starts_with(name));
    let mut lines: Vec<&str> = answer.head.lines().filter(|line| !is_incidental(line)).collect();
    lines[1..].sort_unstable();
    lines
}

#[test]
fn health_checks_of_services_are_answered_alike() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = cluster(&topology);
    let nodes = [topology.node(1), topology.node(2)];
    let prober = Netns::create("prober").unwrap();
    topology.plug(&prober, 9).unwrap();
    let file = ConfigFile::new(&configuration(&control, nodes[0]));
    let _pair = start(&control, nodes, &file);
    let api = control.api().unwrap();
    let number = create(api);
    let ready = json!({ "ready": true });
    let draining = json!({ "ready": false, "serving": true, "terminating": true });
    for (conditions, count) in [
        (vec![], 0),
        (vec![ready.clone()], 1),
        (vec![ready.clone(), ready.clone()], 2),
        (vec![ready, draining.clone()], 1),
        (vec![draining], 0),
    ] {
        list(api, nodes, &conditions);
        for family in [0, 1] {
            let [ours, theirs] = nodes.map(|node| told(&prober, node.addresses()[family], (number, count)));
            println!("{count} endpoints: {:?} {:?}", head(&theirs), theirs.body);
            assert_eq!(ours.code, if count == 0 { 503 } else { 200 });
            assert_eq!(head(&ours), head(&theirs));
            assert_eq!(ours.body, theirs.body, "byte by byte");
        }
    }
    // NodePorts are on the primary addresses, and so are these.
    for node in nodes {
        assert!(ask_at(&node.netns, SocketAddr::new([127, 0, 0, 1].into(), number)).is_err());
    }
    let service = Ref { kind: SERVICE, namespace: Some("default"), name: "web" };
    api.patch(&service, json!({ "spec": { "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 0 } }))
        .unwrap();
    for ip in nodes.iter().flat_map(|node| node.addresses()) {
        let address = SocketAddr::new(ip, number);
        wait::until_ok(LIMIT, "nobody to answer", || match ask_at(&prober, address) {
            Ok(answer) => Err(format!("{address}: {answer}")),
            Err(_) => Ok(()),
        })
        .unwrap();
    }
}
