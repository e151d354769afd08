//! An agent on a node that follows an API server, in the place of which the stand-in is: from its objects to
//! connections, and what is left of both when it is gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::agent::{Agent, pin_dir};
use tests::apiserver::{ApiServer, NODES, SERVICE_CIDRS, SERVICES, SLICES};
use tests::netns::run;
use tests::process::Process;
use tests::topology::{Cluster, Node, Pod};
use tests::wait;

const VIP: &str = "10.96.0.10";
const LIMIT: Duration = Duration::from_secs(20);
const METRICS: &str = "127.0.0.1:10249";

fn fill(server: &ApiServer, node: &Node, backend: &Pod) {
    server.put(NODES, json!({ "metadata": { "name": node.name } }));
    server.put(SERVICE_CIDRS, json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.96.0.0/12"] } }));
    let ports = json!([{ "port": 80, "protocol": "TCP" }]);
    let spec = json!({ "clusterIP": VIP, "clusterIPs": [VIP], "ports": ports });
    server.put(SERVICES, json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": spec }));
    point(server, backend);
}

fn point(server: &ApiServer, backend: &Pod) {
    let labels = json!({ "kubernetes.io/service-name": "web" });
    let slice = json!({
        "metadata": { "name": "web-1", "namespace": "default", "labels": labels }, "addressType": "IPv4",
        "endpoints": [{ "addresses": [backend.v4.to_string()] }], "ports": [{ "name": "", "port": 80 }],
    });
    server.put(SLICES, slice);
}

fn status(node: &Node) -> Value {
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["status", "-o", "json", "--metrics-address", METRICS]).env("SHUNT_PIN_DIR", pin_dir(node));
    serde_json::from_str(&run(&mut command).unwrap()).unwrap()
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
fn an_api_server_is_followed_and_its_loss_changes_nothing() {
    let cluster = Cluster::new(1, 3).unwrap();
    let node = cluster.node(1);
    let pods = [1, 2, 3].map(|pod| cluster.pod(1, pod));
    let target: SocketAddr = format!("{VIP}:80").parse().unwrap();
    let _servers = [1, 2].map(|at: usize| {
        pods[at].place().serve([(SocketAddr::new(pods[at].v4, 80), &*pods[at].name)]).unwrap()
    });
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    fill(&server, node, pods[1]);
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["agent", "--node-name", &node.name, "--api-server", &server.url()]);
    command.args(["--healthz-address", "127.0.0.1:10256", "--metrics-address", METRICS]);
    command.arg("--cgroup").arg(node.cgroup.path()).arg("--pin-dir").arg(pin_dir(node));
    let agent = Process::spawn("agent that follows an API server", command).unwrap();

    let answered_by = || pods[0].place().get(target, &["--timeout", "300"]).unwrap().name;
    until("the Service is served", &agent, || answered_by().as_ref() == Some(&pods[1].name));
    point(&server, pods[2]);
    until("the endpoint has changed", &agent, || answered_by().as_ref() == Some(&pods[2].name));
    let services = || status(node)["agent"]["status"]["sources"][0]["connection"].clone();
    assert!(services()["watching_since"].is_string(), "{}", services());

    drop(server);
    let says = |word| services()["last_error"].as_str().is_some_and(|error| error.contains(word));
    until("the loss is known", &agent, || services()["lost_since"].is_string() && says("refused"));
    assert_eq!(answered_by().as_ref(), Some(&pods[2].name));
}

#[test]
fn an_api_server_behind_a_cluster_ip_is_a_limitation_that_names_the_flag() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    server.put(NODES, json!({ "metadata": { "name": node.name } }));
    let range = |range| json!({ "metadata": { "name": "k" }, "spec": { "cidrs": [range] } });
    // By a name, for which the address in the range stands.
    let url = server.url().replace("127.0.0.1", "localhost");
    let agent = Agent::follow_at(node, &url).unwrap();
    let limitations = || agent.status().unwrap()["limitations"].clone();
    assert_eq!(limitations(), json!([]), "the control: it is in no range");

    server.put(SERVICE_CIDRS, range("127.0.0.0/24"));
    let named = |text: &str| {
        text.contains("reached at 127.0.0.1, a cluster IP (127.0.0.0/24 of ServiceCIDR k)")
            && text.contains("--api-server")
    };
    wait::until(LIMIT, "the limitation", || Ok(limitations()[0].as_str().is_some_and(named).then_some(())))
        .unwrap();
    assert!(named(&agent.log()), "{}", agent.log());
    assert!(
        agent.shunt(&["status"]).unwrap().contains("a cluster IP"),
        "{}",
        agent.shunt(&["status"]).unwrap()
    );
    let told = || server.events().iter().any(|event| event["note"].as_str().is_some_and(named));
    wait::until(LIMIT, "the Event", || Ok(told().then_some(()))).unwrap();

    server.put(SERVICE_CIDRS, range("10.96.0.0/12"));
    wait::until(LIMIT, "the limitation to go", || Ok((limitations() == json!([])).then_some(()))).unwrap();
}

#[test]
fn an_agent_whose_source_panics_ends_and_names_it() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    // Without the Node, whose wait overflows in this variant.
    let server = node.netns.inside(ApiServer::start).unwrap().unwrap();
    let ended = |options: &[&str]| {
        let mut command = node.agent().command("variant").unwrap();
        command.args(options).args(["agent", "--node-name", &node.name, "--api-server", &server.url()]);
        command.args(["--healthz-address", "127.0.0.1:10256", "--metrics-address", METRICS]);
        command.arg("--cgroup").arg(node.cgroup.path()).arg("--pin-dir").arg(pin_dir(node));
        let mut agent = Process::spawn("agent whose source panics", command).unwrap();
        let status = agent.wait(Duration::from_secs(5));
        (status.ok().and_then(|status| status.code()), agent.log())
    };
    let (code, log) = ended(&["--overflow"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the thread of the source kube has ended"), "{log}");
    // The control: the agent does not end for another reason.
    let (code, log) = ended(&[]);
    assert_eq!(code, None, "{log}");
}

#[test]
fn a_cluster_ip_for_an_api_server_is_given_up_with_exit_code_4() {
    let cluster = Cluster::new(1, 0).unwrap();
    let node = cluster.node(1);
    let mut command = node.agent().command("shunt").unwrap();
    command.args(["agent", "--node-name", &node.name]).arg("--pin-dir").arg(pin_dir(node));
    command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
    let mut agent = Process::spawn("agent without an API server", command).unwrap();
    let code = agent.wait(LIMIT).unwrap().code();
    assert_eq!(code, Some(4), "{}", agent.log());
    assert!(agent.log().contains("name its own address with --api-server"), "{}", agent.log());
}
