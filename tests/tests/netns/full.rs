//! A table without room: who finds none is named wherever somebody may look, and is served as soon as there is some.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{Agent, Launch};
use tests::apiserver::{ApiServer, NODES, SERVICES, SLICES};
use tests::exposition::Exposition;
use tests::topology::{Cluster, Pod};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(20);
/// The Services, in the order in which they are planned, with their cluster IPs.
const WEB: (&str, &str) = ("web", "10.96.0.10");
const WET: (&str, &str) = ("wet", "10.96.0.11");
const PORT: u16 = 80;

fn put(server: &ApiServer, (name, ip): (&str, &str), backend: &Pod) {
    let spec = json!({ "clusterIP": ip, "clusterIPs": [ip], "ports": [{ "port": PORT, "protocol": "TCP" }] });
    server.put(SERVICES, json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec }));
    let labels = json!({ "kubernetes.io/service-name": name });
    server.put(
        SLICES,
        json!({
            "metadata": { "name": format!("{name}-1"), "namespace": "default", "labels": labels },
            "addressType": "IPv4", "endpoints": [{ "addresses": [backend.v4.to_string()] }],
            "ports": [{ "name": "", "port": PORT }],
        }),
    );
}

/// What status and metrics say of refusals.
fn refused(agent: &Agent<'_>) -> (Value, Option<f64>) {
    let read = Exposition::parse(&agent.scrape("*/*").unwrap(), false).unwrap();
    (agent.status().unwrap()["refused"].clone(), read.get("shunt_refused_service_ports", &[]))
}

#[test]
fn who_finds_no_room_is_told_everywhere_and_served_as_soon_as_there_is_some() {
    let cluster = Cluster::new(1, 2).unwrap();
    let (node, client, backend) = (cluster.node(1), cluster.pod(1, 1), cluster.pod(1, 2));
    let _servers = backend.place().serve([(SocketAddr::new(backend.v4, PORT), &*backend.name)]).unwrap();
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    server.put(NODES, json!({ "metadata": { "name": node.name } }));
    put(&server, WEB, backend);
    put(&server, WET, backend);
    let agent = Agent::start_as(node, Launch::at(&server.url()).varied(&["--cells", "1"])).unwrap();
    let answered = |(_, ip): (&str, &str)| {
        let target = SocketAddr::new(ip.parse().unwrap(), PORT);
        client
            .place()
            .get(target, &["--timeout", "300"])
            .unwrap()
            .name
            .is_some_and(|name| name == backend.name)
    };
    assert_eq!((answered(WEB), answered(WET)), (true, false));

    let one = json!({ "count": 1, "first": [{ "service": "default/wet:80/tcp", "table": "SERVICES" }] });
    assert_eq!(refused(&agent), (one, Some(1.0)));
    let named = || {
        let is_named = |line: &&str| line.contains("refused: the map is full");
        let lines = agent.log().lines().filter(is_named).map(str::to_owned).collect::<Vec<_>>();
        let is_whole =
            |line: &String| line.contains("service=default/wet:80/tcp") && line.contains("table=SERVICES");
        assert!(lines.iter().all(is_whole), "{lines:?}");
        lines.len()
    };
    assert_eq!(named(), 1);
    let told = || -> Result<(Value, Value, Value), String> {
        let events = server.events();
        let event = events.iter().find(|event| event["reason"] == "MapFull").ok_or(format!("{events:?}"))?;
        Ok((event["regarding"]["name"].clone(), event["type"].clone(), event["note"].clone()))
    };
    let (name, kind, text) = wait::until_ok(LIMIT, "an Event", told).unwrap();
    assert_eq!((name, kind), (json!("wet"), json!("Warning")));
    assert_eq!(text, "default/wet:80/tcp is not served on node node-1: the map SERVICES is full");

    server.delete(SERVICES, "default", WEB.0);
    wait::until_ok(LIMIT, "room", || if answered(WET) { Ok(()) } else { Err(agent.log()) }).unwrap();
    wait::until_ok(LIMIT, "the status to say so", || match refused(&agent) {
        (status, Some(metric)) if status["count"] == 0 && metric == 0.0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!(named(), 1, "tried again and again, and told once");
}
