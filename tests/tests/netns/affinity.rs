//! ClientIP affinity over many service ports: what they share, and when a client is forgotten.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::mirror::{MIRROR_PORT, Way, agent, app, ask, mirror, say};
use crate::proofs_object::App;
use crate::scenario::Scenario;
use crate::shop::{CLUSTER_IPS, endpoint, ingress, laid_over, put, slice, write};

/// Service ports: of so many that each pick between two, all agree once in 32 768 runs.
const PORTS: u16 = 16;

/// The ports, with this number or their own.
fn ports(number: Option<u16>) -> Vec<Value> {
    let port = |own: u16, protocol: &str| {
        let name = format!("p{own}-{}", protocol.to_lowercase());
        json!({ "name": name, "protocol": protocol, "port": number.unwrap_or(own) })
    };
    (1..=PORTS).flat_map(|own| ["TCP", "UDP"].map(|protocol| port(own, protocol))).collect()
}

/// The Service with many ports of TCP and UDP, all with the same two endpoints.
fn write_ports(scenario: &Scenario, seconds: u32) {
    let affinity = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } },
        "ports": ports(None),
    });
    write(scenario, affinity, &ingress());
    list_ports(scenario, &[json!({}), json!({})]);
}

/// Lists the mirrors of both nodes, each with what else its endpoint says.
fn list_ports(scenario: &Scenario, rest: &[Value; 2]) {
    for family in [0, 1] {
        let endpoints =
            [1, 2].map(|node| laid_over(endpoint(scenario, family, (node, 2)), rest[node - 1].clone()));
        put(scenario, &slice(("shop", family), &json!(ports(Some(MIRROR_PORT))), endpoints.into()));
    }
}

/// Who serves each port.
fn picks(app: &mut App, way: Way) -> Vec<IpAddr> {
    let target = |number| SocketAddr::new(CLUSTER_IPS[0].parse().unwrap(), number);
    (1..=PORTS)
        .map(|port| ask(app, &format!("{way:?}-{port}"), way, target(port)).unwrap().backend.ip())
        .collect()
}

fn all_agree(picks: &[IpAddr]) -> bool {
    picks.iter().all(|pick| *pick == picks[0])
}

#[test]
fn each_port_and_protocol_picks_for_itself_and_keeps_to_it() {
    let scenario = Scenario::new();
    let _mirrors = [1, 2].map(|node| mirror(&scenario, node));
    write_ports(&scenario, 600);
    let _agent = agent(&scenario);
    let mut app = app(scenario.cluster.node(1), Some(1));
    let [tcp, udp] = [Way::Tcp, Way::Connected].map(|way| picks(&mut app, way));
    assert!(!all_agree(&tcp) && !all_agree(&udp) && tcp != udp, "{tcp:?} {udp:?}");
    for _ in 0..3 {
        assert_eq!(picks(&mut app, Way::Tcp), tcp);
        assert_eq!(picks(&mut app, Way::Connected), udp);
        assert_eq!(picks(&mut app, Way::Datagram), udp);
    }
}

#[test]
fn a_changed_timeout_counts_for_whom_is_remembered_and_only_new_connections_renew() {
    let scenario = Scenario::new();
    let _mirrors = [1, 2].map(|node| mirror(&scenario, node));
    write_ports(&scenario, 600);
    let _agent = agent(&scenario);
    let mut app = app(scenario.cluster.node(1), Some(1));
    let first = picks(&mut app, Way::Tcp);
    let pause = Duration::from_millis(1_500);
    sleep(pause);
    assert_eq!(picks(&mut app, Way::Tcp), first, "the control: ten minutes have not passed");
    write_ports(&scenario, 1);
    sleep(pause);
    let second = picks(&mut app, Way::Tcp);
    assert_ne!(second, first, "a second has passed");
    // What is established goes on, and is no new connection.
    for _ in 0..5 {
        sleep(pause / 5);
        for port in 1..=PORTS {
            say(&mut app, &format!("Tcp-{port}")).unwrap();
        }
    }
    assert_ne!(picks(&mut app, Way::Tcp), second, "talking is not connecting");
    write_ports(&scenario, 600);
    sleep(Duration::from_millis(500));
    let third = picks(&mut app, Way::Tcp);
    sleep(pause);
    assert_eq!(picks(&mut app, Way::Tcp), third);
}

#[test]
fn hints_come_before_what_is_remembered() {
    let scenario = Scenario::new();
    let _mirrors = [1, 2].map(|node| mirror(&scenario, node));
    write_ports(&scenario, 600);
    let _agent = agent(&scenario);
    let mut app = app(scenario.cluster.node(1), Some(1));
    let before = picks(&mut app, Way::Tcp);
    assert!(!all_agree(&before));
    let hint = |node: usize| json!({ "hints": { "forNodes": [{ "name": format!("node-{node}") }] } });
    list_ports(&scenario, &[hint(1), hint(2)]);
    let own = scenario.cluster.pod(1, 2).v4;
    let all_here = || Ok(picks(&mut app, Way::Tcp).iter().all(|pick| *pick == own).then_some(()));
    tests::wait::until(Duration::from_secs(5), "the endpoint of the node", all_here).unwrap();
}
