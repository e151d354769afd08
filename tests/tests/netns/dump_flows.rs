//! `shunt dump flows`: records of the packet path by hand, shown with the name that the agent has for the service port.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapData;
use proxy_common::addr::{Port, Proto};
use proxy_common::flow::{End, Flow, FlowKey, Part, Whole};
use proxy_common::lb::Held;
use proxy_common::names::{self, FLOWS_VERSION};
use proxy_common::place::{self, Owner, PLACES, Place};
use serde_json::Value;
use shunt::sys::map::{Map, Shape};
use tests::agent::{Agent, pin_dir};
use zerocopy::IntoBytes;

use crate::scenario::{BACKEND_PORT, Scenario};

fn end(address: SocketAddr) -> End {
    End::new(address.ip().into(), Port::new(address.port()))
}

/// The record of one part, with more flags.
fn record(whole: &Whole, (part, flags): (Part, u16)) -> (FlowKey, Flow) {
    let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
    whole.key(part, &mut key);
    whole.record(part, 1, &mut flow);
    flow.flags |= flags;
    (key, flow)
}

fn keep(map: &Map, whole: &Whole, what: (Part, u16)) {
    let (key, flow) = record(whole, what);
    map.update(key.as_bytes(), flow.as_bytes()).unwrap();
}

/// A table of this name, pinned.
fn table(dir: &Path, name: &str) -> Map {
    let shape = Shape::hash(size_of::<FlowKey>() as u32, size_of::<Flow>() as u32, 16);
    let map = Map::create(name, &shape).unwrap();
    let handle = map.as_fd().try_clone_to_owned().unwrap();
    MapData::from_fd(handle).unwrap().pin(dir.join(name)).unwrap();
    map
}

/// The places of records, pinned, with one record.
fn place(dir: &Path, whole: &Whole, what: (Part, u16)) {
    let shape = Shape::mapped_array(size_of::<Place>() as u32, PLACES);
    let map = Map::create(names::PLACES, &shape).unwrap();
    let (key, flow) = record(whole, what);
    let owner = Owner::new(&key).unwrap();
    let mut words = [0; place::WORDS];
    (words[0], words[place::OWNER]) = (owner.ends, owner.lives());
    words[place::VALUE..place::FLAGS].copy_from_slice(&place::words(&flow));
    words[place::FLAGS] = u64::from(flow.flags);
    map.update(&owner.place().to_ne_bytes(), Place { words }.as_bytes()).unwrap();
    let handle = map.as_fd().try_clone_to_owned().unwrap();
    MapData::from_fd(handle).unwrap().pin(dir.join(names::PLACES)).unwrap();
}

/// A connection of TCP to a service port, a flow of UDP that has begun, to one that nobody has, and another connection, that is finished.
fn fill(dir: &Path, backend: SocketAddr, service: u32) {
    std::fs::create_dir(dir).unwrap();
    let (flows, opening) = (table(dir, names::FLOWS), table(dir, names::OPENING));
    let client = end("198.51.100.9:40000".parse().unwrap());
    let open = Whole {
        client,
        inside: client.port,
        vip: end("172.30.0.1:30080".parse().unwrap()),
        backend: end(backend),
        snat: end("172.30.0.1:61000".parse().unwrap()),
        proto: Proto::TCP,
        held: Held { service, backend: 1, generation: 1 },
        flags: Flow::SETTLED,
    };
    for part in [Part::Forward, Part::Reply, Part::Return] {
        keep(&flows, &open, (part, 0));
    }
    let held = Held { service: service + 1000, ..open.held };
    let begun = Whole { snat: End::NONE, proto: Proto::UDP, held, flags: 0, ..open };
    keep(&opening, &begun, (Part::Reply, Flow::ANSWERED));
    let finished = Whole { client: End::new(client.addr, Port::new(40_001)), snat: End::NONE, ..open };
    place(dir, &finished, (Part::Forward, Flow::FINISHED));
}

#[test]
fn flows_are_listed_from_all_tables_with_the_names_of_their_service_ports() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    let dump = |arguments: &[&str]| -> Value {
        let words = [&["dump", "flows", "-o", "json"], arguments].concat();
        serde_json::from_str(&agent.shunt(&words).unwrap()).unwrap()
    };
    assert_eq!(dump(&[]), serde_json::json!([]), "an agent without a packet path has none");

    let services: Value =
        serde_json::from_str(&agent.shunt(&["dump", "services", "-o", "json"]).unwrap()).unwrap();
    let web = services.as_array().unwrap().iter().find(|row| row["endpoints"] == 2).unwrap();
    let service = u32::try_from(web["cell"].as_u64().unwrap()).unwrap();
    let dir = pin_dir(node).join(format!("flows{FLOWS_VERSION}"));
    fill(&dir, SocketAddr::new(scenario.cluster.pod(2, 2).v4, BACKEND_PORT), service);
    let rows = dump(&[]);
    let row = |protocol: &str| {
        rows.as_array().unwrap().iter().find(|row| row["protocol"] == protocol).unwrap().clone()
    };
    assert_eq!(rows.as_array().unwrap().len(), 3, "{rows}");
    let tcp = row("tcp");
    assert_eq!((&tcp["service"], &tcp["state"]), (&web["service"], &"open".into()), "{tcp}");
    assert_eq!(
        (&tcp["client"], &tcp["snat"]),
        (&"198.51.100.9:40000".into(), &"172.30.0.1:61000".into()),
        "{tcp}"
    );
    assert_eq!(tcp["records"], serde_json::json!(["forward", "reply", "return"]));
    let udp = row("udp");
    assert_eq!(
        (&udp["service"], &udp["state"], &udp["snat"]),
        (&"-".into(), &"opening".into(), &Value::Null),
        "{udp}"
    );

    let is_finished = |row: &&Value| row["client"] == "198.51.100.9:40001" && row["state"] == "finished";
    let finished = rows.as_array().unwrap().iter().find(is_finished).expect("what lies at a place is listed");
    assert_eq!(finished["records"], serde_json::json!(["forward"]), "{finished}");

    let name = web["service"].as_str().unwrap().split('/').take(2).collect::<Vec<_>>().join("/");
    let name = name.split(':').next().unwrap();
    assert_eq!(dump(&["--service", name]).as_array().unwrap().len(), 2);
    assert_eq!(dump(&["--service", "default/nobody"]), serde_json::json!([]));
    let text = agent.shunt(&["dump", "flows"]).unwrap();
    assert!(text.starts_with("SERVICE") && text.contains("172.30.0.1:30080"), "{text}");
    std::fs::remove_dir_all(&dir).unwrap();
}
