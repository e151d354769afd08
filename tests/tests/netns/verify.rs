//! `shunt verify` on a node: nothing to tell while the maps are right, and exactly what is wrong when they are not.

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::FrontendKey;
use proxy_common::names::SCHEMA;
use shunt::datapath::load::open_pinned_maps;
use shunt::datapath::pin::PinDir;
use shunt::maps::Hashes;
use shunt::maps::store::KernelStore;
use tests::agent::{Agent, pin_dir};

use crate::scenario::{PORT, Scenario, WEB};

fn verify(scenario: &Scenario) -> (Option<i32>, String) {
    let node = scenario.cluster.node(1);
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["verify", "--within", "2", "--node-name", &node.name]).env("SHUNT_PIN_DIR", pin_dir(node));
    let output = command.arg("--manifests").arg(scenario.manifests.path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_frontend_that_was_taken_away_is_named() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    assert_eq!(verify(&scenario), (Some(0), "the maps hold what the source says\n".to_owned()));

    let mut store =
        KernelStore::open(open_pinned_maps(&PinDir::new(&pin_dir(node), SCHEMA)).unwrap()).unwrap();
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
