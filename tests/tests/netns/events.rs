//! Events of an agent that runs: what it tells of itself and of what it does not serve, and that it needs nobody to
//! listen.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::agent::{Agent, Launch};
use tests::apiserver::{ApiServer, EVENTS, Manners, NODES, SERVICES, SLICES};
use tests::process::Process;
use tests::sweep;
use tests::topology::{Cluster, Node, Pod};
use tests::wait;

const VIP: &str = "10.96.0.10";
const LIMIT: Duration = Duration::from_secs(20);

fn put_service(server: &ApiServer, name: &str, ip: &str, external: &Value) {
    let spec = json!({
        "clusterIP": ip, "clusterIPs": [ip], "ports": [{ "port": 80, "protocol": "TCP" }], "externalIPs": external,
    });
    server.put(SERVICES, json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec }));
}

fn point(server: &ApiServer, backend: &Pod) {
    let labels = json!({ "kubernetes.io/service-name": "web" });
    let slice = json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": labels }, "addressType": "IPv4",
        "endpoints": [{ "addresses": [backend.v4.to_string()] }], "ports": [{ "name": "", "port": 80 }],
    });
    server.put(SLICES, slice);
}

/// A server in the network of the node, with a Service `web` and two more that cannot be served as they ask.
fn serve_api(node: &Node) -> ApiServer {
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    server.put(NODES, json!({ "metadata": { "name": node.name } }));
    put_service(&server, "web", VIP, &json!(["192.0.2.1"]));
    put_service(&server, "wet", "10.96.0.11", &json!(["192.0.2.1"]));
    put_service(&server, "wit", "10.96.0.12", &json!(["nonsense"]));
    server
}

fn spawn(node: &Node, server: &ApiServer, pin_dir: &std::path::Path) -> Process {
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["agent", "--node-name", &node.name, "--api-server", &server.url()]);
    command.args(["--healthz-address", "127.0.0.1:10256", "--metrics-address", "127.0.0.1:10249"]);
    command.arg("--cgroup").arg(node.cgroup.path()).arg("--pin-dir").arg(pin_dir);
    Process::spawn("agent that tells", command).unwrap()
}

#[track_caller]
fn until(what: &str, agent: &Process, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_agent_tells_of_its_node_and_of_what_it_does_not_serve() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let server = serve_api(node);
    // No bpffs, so that there is a limitation to tell of.
    let pin_dir = sweep::scratch_dir("pins").unwrap();
    let agent = spawn(node, &server, &pin_dir);
    let told = || -> BTreeSet<String> {
        let word = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let events = server.events();
        let line = |event: &Value| {
            let name = event["regarding"]["name"].as_str().unwrap_or_default();
            format!("{name} {} {}", word(event, "type"), word(event, "reason"))
        };
        events.iter().map(line).collect()
    };
    let wanted: BTreeSet<String> = [
        "node-1 Normal Starting",
        "node-1 Normal Ready",
        "node-1 Warning HostLimitation",
        "wet Warning FrontendTaken",
        "wit Warning InvalidField",
    ]
    .map(str::to_owned)
    .into();
    until("all is told", &agent, || told() == wanted);
    let text_on = |name: &str| {
        let events = server.events();
        let event = events.iter().find(|event| event["regarding"]["name"] == name).unwrap();
        event["note"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        text_on("wet"),
        "192.0.2.1:80/tcp is not served for default/wet:80/tcp on node node-1: default/web:80/tcp has it"
    );
    assert!(
        text_on("wit").starts_with("spec.externalIPs[0]: \"nonsense\" is not an address"),
        "{}",
        text_on("wit")
    );
    drop(agent);
    std::fs::remove_dir_all(pin_dir).unwrap();
}

#[test]
fn what_a_host_does_not_let_an_agent_do_is_told_of_its_node() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let server = serve_api(node);
    let wrapper = ["setpriv", "--bounding-set", "-sys_admin"].map(str::to_owned).to_vec();
    let _agent = Agent::start_as(node, Launch::at(&server.url()).under(wrapper)).unwrap();
    let told = || {
        let events = server.events();
        let notes = events.iter().filter(|event| event["reason"] == "HostLimitation");
        let notes: Vec<String> = notes.map(|event| event["note"].to_string()).collect();
        if notes.iter().any(|note| note.contains("CAP_SYS_ADMIN")) {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    };
    wait::until_ok(LIMIT, "an Event", told).unwrap();
}

#[test]
fn an_agent_that_nobody_listens_to_serves_all_the_same() {
    let cluster = Cluster::new(1, 3).unwrap();
    let node = cluster.node(1);
    let pods = [1, 2, 3].map(|pod| cluster.pod(1, pod));
    let target: SocketAddr = format!("{VIP}:80").parse().unwrap();
    let _servers = [1, 2].map(|at: usize| {
        pods[at].place().serve([(SocketAddr::new(pods[at].v4, 80), &*pods[at].name)]).unwrap()
    });
    let answered_by = || pods[0].place().get(target, &["--timeout", "300"]).unwrap().name;
    let faults: [fn(&mut Manners) -> &mut Vec<String>; 3] =
        [|manners| &mut manners.denied, |manners| &mut manners.failing, |manners| &mut manners.mute];
    for (index, fault) in faults.into_iter().enumerate() {
        let server = serve_api(node);
        server.behave(|manners| fault(manners).push(EVENTS.to_owned()));
        point(&server, pods[1]);
        let pin_dir = node.bpffs.path().join(format!("shunt-{index}"));
        let agent = spawn(node, &server, &pin_dir);
        until("the Service is served", &agent, || answered_by().as_ref() == Some(&pods[1].name));
        let tries = || server.asked().iter().filter(|asked| asked.method == "POST").count();
        until("an Event was to be written", &agent, || tries() > 0);
        point(&server, pods[2]);
        until("the endpoint has changed", &agent, || answered_by().as_ref() == Some(&pods[2].name));
        assert_eq!(server.events(), Vec::<Value>::new());
        let complaints = || agent.log().matches("Events cannot be written").count();
        if index < 2 {
            until("the log says so", &agent, || complaints() == 1);
        }
        drop(agent);
        let mut clean_up = node.agent().command("shunt").unwrap();
        tests::netns::run(clean_up.arg("cleanup").arg("--pin-dir").arg(pin_dir)).unwrap();
    }
}
