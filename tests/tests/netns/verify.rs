//! `shunt verify` on a node: nothing to tell while the maps are right, and exactly what is wrong when they are not.

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::FrontendKey;
use proxy_common::names::SCHEMA;
use shunt::datapath::load::open_pinned_maps;
use shunt::datapath::pin::PinDir;
use shunt::maps::Hashes;
use shunt::maps::store::KernelStore;
use tests::agent::{Agent, pin_dir};
use tests::topology::Node;

use crate::scenario::{PORT, Scenario, WEB};

fn verify(scenario: &Scenario) -> (Option<i32>, String) {
    let node = scenario.cluster.node(1);
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["verify", "--within", "2", "--node-name", &node.name]).env("SHUNT_PIN_DIR", pin_dir(node));
    let output = command.arg("--manifests").arg(scenario.manifests.path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn maps_of(node: &Node) -> KernelStore {
    KernelStore::open(open_pinned_maps(&PinDir::new(&pin_dir(node), SCHEMA)).unwrap()).unwrap()
}

#[test]
fn a_frontend_that_was_taken_away_is_named() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    assert_eq!(verify(&scenario), (Some(0), "the maps hold what the source says\n".to_owned()));

    let mut store = maps_of(node);
    let vip: Addr = WEB[0].parse::<std::net::IpAddr>().unwrap().into();
    store.delete_frontends(&[FrontendKey::new(vip, Port::new(PORT), Proto::TCP)]).unwrap();
    let (code, text) = verify(&scenario);
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("1 entries differ"), "{text}");
    assert_eq!(lines[1], "- frontend 10.96.0.10:80/tcp cluster-ip -> default/web:80/tcp");
    drop(agent);
}

const BOUND: &str = "apiVersion: v1
kind: Service
metadata: {namespace: default, name: bound}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.60
  clusterIPs: [10.96.0.60]
  loadBalancerSourceRanges: [203.0.113.0/24, 198.51.100.0/25]
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.200}]}}
";

#[test]
fn a_range_of_clients_that_was_taken_away_is_named() {
    let scenario = Scenario::new();
    scenario.manifests.write("bound.yaml", BOUND).unwrap();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    assert_eq!(verify(&scenario).0, Some(0));
    let dump = |table: &str, output: &str| agent.shunt(&["dump", table, "-o", output]).unwrap();
    let words = |text: &str, first: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(first));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let frontends = dump("frontends", "table");
    let checked = ["192.0.2.200:80/tcp", "load-balancer", "check-source", "default/bound:80/tcp"];
    assert_eq!(words(&frontends, checked[0]), checked);
    assert_eq!(words(&frontends, "10.96.0.60:80/tcp")[2], "-");
    let services: serde_json::Value = serde_json::from_str(&dump("services", "json")).unwrap();
    let bound = services.as_array().unwrap().iter().find(|entry| entry["service"] == "default/bound:80/tcp");
    assert_eq!(bound.unwrap()["sources"], serde_json::json!(["198.51.100.0/25", "203.0.113.0/24"]));
    assert_eq!(words(&agent.shunt(&["status"]).unwrap(), "SOURCES")[1..3], ["2", "65536"]);

    let mut store = maps_of(node);
    let present = store.sources().unwrap();
    let gone = present.iter().find(|key| key.addr.to_string() == "203.0.113.0").unwrap();
    store.delete_source(*gone).unwrap();
    let (code, text) = verify(&scenario);
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines, ["  service default/bound:80/tcp", "-   source 203.0.113.0/24"]);
}
