//! Numbers: five hundred services, and a slice as long as the API allows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use tests::agent::Agent;
use tests::cluster::bulk::{self, BACKEND_PORT, unreachable};
use tests::load::Place;
use tests::topology::{Cluster, Node};

use crate::rig::{LIMIT, USER, at, not_served, serve, served_by, uncontrolled, verified};

const SERVICES: usize = 500;
/// What the API allows in one slice.
const LONGEST: u32 = 1_000;

#[test]
fn five_hundred_services_come_change_and_go_while_an_agent_follows() {
    let topology = Cluster::new(1, 3).unwrap();
    let control = uncontrolled(&topology);
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (one, two) = (topology.pod(1, 2), topology.pod(1, 3));
    let _servers = [serve(one), serve(two)];
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let frontends = || {
        let dump = agent.shunt(&["dump", "frontends", "-o", "json"]).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&dump).unwrap();
        rows.iter().filter(|row| row["service"] != "").count()
    };
    let before = frontends();
    let api = control.api().unwrap();
    // Most lead to nobody, as most of a real cluster's are another's business; every tenth to a pod that answers.
    let reachable = |index: usize| index.is_multiple_of(10);
    let endpoints = |index| if reachable(index) { vec![one.v4] } else { unreachable(index, 5) };
    let vips = api.create_services(0..SERVICES, endpoints).unwrap();
    verified(&agent);
    assert_eq!(frontends(), before + SERVICES);
    for index in (0..SERVICES).filter(|index| reachable(*index)).step_by(7) {
        served_by(client, at(vips[index]), &[&one.name]);
    }

    api.point_services(
        0..SERVICES,
        |index| {
            if reachable(index) { vec![two.v4] } else { unreachable(index + 1, 3) }
        },
    )
    .unwrap();
    verified(&agent);
    served_by(client, at(vips[0]), &[&two.name]);
    served_by(client, at(vips[SERVICES - 10]), &[&two.name]);

    api.delete_services((0..SERVICES).filter(|index| index % 20 != 0)).unwrap();
    verified(&agent);
    assert_eq!(frontends(), before + SERVICES / 20);
    served_by(client, at(vips[20]), &[&two.name]);
    not_served(client, at(vips[10]));
}

#[test]
fn a_slice_of_a_thousand_endpoints_shrinks_to_one_and_grows_again() {
    let topology = Cluster::new(1, 2).unwrap();
    let control = uncontrolled(&topology);
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let all: Vec<IpAddr> = (1..=LONGEST).map(backend).collect();
    claim(node);
    // Each connection is answered by the address that it came to.
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), BACKEND_PORT);
    let _server = topology.pod(1, 2).place().serve([(any, "*")]).unwrap();
    let api = control.api().unwrap();
    let vip = at(api.create_services(0..1, |_| all.clone()).unwrap()[0]);
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let name = format!("{}/{}", bulk::NAMESPACE, bulk::name(0));
    for listed in [&all[..], &all[499..500], &all[..], &all[..2], &all[1..]] {
        api.point_services(0..1, |_| listed.to_vec()).unwrap();
        verified(&agent);
        assert_eq!(held(&agent, &name), texts(listed));
        serves_all(client, vip, listed);
    }
}

/// Backend `number`, of a range that no pod of the topology has.
fn backend(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 245, 0, 0)) + number).into()
}

/// Has the second pod take connections for each address of the range.
fn claim(node: &Node) {
    node.pods[1].netns.add_route("local 10.245.0.0/16 dev lo").unwrap();
    node.netns.add_route("10.245.0.0/16 dev pod2").unwrap();
}

fn texts(addresses: &[IpAddr]) -> BTreeSet<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Addresses of the backends that the maps hold.
fn held(agent: &Agent<'_>, service: &str) -> BTreeSet<String> {
    let dump = agent.shunt(&["dump", "backends", "--service", service, "-o", "json"]).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&dump).unwrap();
    let address =
        |row: &Value| row["backend"].as_str().unwrap().parse::<SocketAddr>().unwrap().ip().to_string();
    rows.iter().map(address).collect()
}

/// Connects four times as often as there are endpoints: of those in a hundred, two are missed, and none that is not
/// listed is met.
fn serves_all(client: Place<'_>, vip: SocketAddr, listed: &[IpAddr]) {
    let count = (listed.len() * 4).max(50).to_string();
    let options = ["--count", &count, "--threads", "1", "--read-every", "1"];
    let report = client.connects(vip, &options).unwrap().wait(LIMIT).unwrap();
    assert_eq!((report.failures(), report.unanswered.len()), (0, 0), "{report:?}");
    let seen: BTreeSet<String> = report.served.into_keys().collect();
    let wanted = texts(listed);
    assert!(seen.is_subset(&wanted), "{:?}", seen.difference(&wanted));
    assert!(seen.len() * 10 >= wanted.len() * 9, "{} of {}", seen.len(), wanted.len());
}
