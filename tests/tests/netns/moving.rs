//! Connected UDP sockets through an agent: they follow their service without knowing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::agent::Agent;
use tests::netns::Netns;
use tests::process::{Process, placed};
use tests::rights;
use tests::topology::Pod;
use tests::wait;

use crate::proofs_object::{App, LIMIT, Shell};
use crate::scenario::{BACKEND_PORT, DNS, PORT, Scenario};

/// Within which an application must have noticed. A socket moves in milliseconds, but an answer of the old backend that is
/// under way just then is lost, and these applications wait for three seconds before they ask again. How soon one follows
/// that asks more often is measured beside kube-proxy (tier versus).
const MOVED: Duration = Duration::from_secs(8);

/// What an application sees of its socket: cookie, own address, peer.
fn show(app: &mut App, name: &str) -> (String, String, String) {
    let shown = app.tell(&format!("show {name}")).unwrap();
    let mut words = shown.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap();
    (next(), next(), next())
}

/// A client of one kind: where it is, the socket that it opens, and what it dials.
struct Case<'a> {
    app: App,
    family: &'a str,
    vip: String,
    direct: SocketAddr,
}

impl<'a> Case<'a> {
    /// Every kind: pod and host, IPv4, IPv6 and mapped.
    fn all(scenario: &'a Scenario) -> Vec<Self> {
        let node = scenario.cluster.node(1);
        let backend = scenario.cluster.pod(1, 2);
        let mut cases = Vec::new();
        for netns in [&node.pods[0].netns, &node.netns] {
            for (family, vip, direct) in [
                ("v4", format!("{}:{PORT}", DNS[0]), backend.v4),
                ("v6", format!("[{}]:{PORT}", DNS[1]), backend.v6),
                ("v6", format!("[::ffff:{}]:{PORT}", DNS[0]), backend.v6),
            ] {
                let app = App::start(netns, &node.cgroup, Shell::Bare).unwrap();
                cases.push(Self { app, family, vip, direct: SocketAddr::new(direct, BACKEND_PORT) });
            }
        }
        cases
    }

    fn connect(&mut self) {
        for (name, to) in [("socket", self.vip.clone()), ("neighbour", self.direct.to_string())] {
            self.app.tell(&format!("open {name} {}", self.family)).unwrap();
            self.app.tell(&format!("connect {name} {to}")).unwrap();
        }
    }

    /// Waits until the socket is answered by `name`, sending as an application does that ignores errors.
    #[track_caller]
    fn served_by(&mut self, name: &str, since: Instant) {
        let vip = self.vip.clone();
        let answered = wait::until(MOVED, "an answer", || {
            Ok((self.app.tell("ask socket").ok().as_deref() == Some(name)).then_some(()))
        });
        answered.unwrap_or_else(|error| panic!("{vip}: {error:#} after {:?}", since.elapsed()));
    }
}

#[test]
fn connected_sockets_follow_their_service_and_their_neighbours_stay() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    let mut cases = Case::all(&scenario);
    scenario.list(&[1]);
    settle(&scenario);
    cases.iter_mut().for_each(Case::connect);
    let mut before = Vec::new();
    for case in &mut cases {
        assert_eq!(case.app.tell("ask socket").unwrap(), "pod-1-2", "{}", case.vip);
        before.push((show(&mut case.app, "socket"), show(&mut case.app, "neighbour")));
        assert_eq!(before.last().unwrap().0.2, case.vip);
    }
    for (nodes, name) in [(&[2][..], "pod-2-2"), (&[1], "pod-1-2")] {
        scenario.list(nodes);
        let event = Instant::now();
        for (case, before) in cases.iter_mut().zip(&before) {
            case.served_by(name, event);
            assert_eq!(
                (show(&mut case.app, "socket"), show(&mut case.app, "neighbour")),
                *before,
                "{}",
                case.vip
            );
            assert_eq!(case.app.tell("ask neighbour").unwrap(), "pod-1-2");
        }
        println!("all six follow within {:?}", event.elapsed());
    }
}

#[test]
fn without_a_backend_they_wait_and_follow_the_next() {
    let scenario = Scenario::new();
    let agents = scenario.agents();
    scenario.list(&[1]);
    settle(&scenario);
    let mut cases = Case::all(&scenario);
    cases.iter_mut().for_each(Case::connect);
    let before: Vec<_> = cases.iter_mut().map(|case| show(&mut case.app, "socket")).collect();
    scenario.list(&[]);
    let count = cases.len() as u64;
    wait::until(MOVED, "all to wait", || {
        Ok((agents[0].progress()?.clients.udp_waiting == count).then_some(()))
    })
    .unwrap();
    for (case, before) in cases.iter_mut().zip(&before) {
        let refused = case.app.tell("ask socket").unwrap_err().to_string();
        assert!(refused.contains("Operation not permitted"), "no datagram leaves the node: {refused}");
        assert_eq!(show(&mut case.app, "socket"), *before);
    }
    scenario.list(&[2]);
    let event = Instant::now();
    for (case, before) in cases.iter_mut().zip(&before) {
        case.served_by("pod-2-2", event);
        assert_eq!(show(&mut case.app, "socket"), *before);
    }
}

#[test]
fn an_application_that_left_its_service_is_left_alone() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    scenario.list(&[1]);
    settle(&scenario);
    let node = scenario.cluster.node(1);
    let mut app = App::start(&node.pods[0].netns, &node.cgroup, Shell::Bare).unwrap();
    let direct = SocketAddr::new(scenario.cluster.pod(1, 2).v4, BACKEND_PORT);
    let steps = [("away", format!("connect away {direct}")), ("idle", "disconnect idle".to_owned())];
    for (name, step) in &steps {
        app.tell(&format!("open {name} v4")).unwrap();
        app.tell(&format!("connect {name} {}:{PORT}", DNS[0])).unwrap();
        app.tell(step).unwrap();
    }
    app.tell("open stays v4").unwrap();
    app.tell(&format!("connect stays {}:{PORT}", DNS[0])).unwrap();
    let before = ["away", "idle"].map(|name| show(&mut app, name));
    scenario.list(&[2]);
    wait::until(MOVED, "the third to move", || {
        Ok((app.tell("ask stays").ok().as_deref() == Some("pod-2-2")).then_some(()))
    })
    .unwrap();
    assert_eq!(["away", "idle"].map(|name| show(&mut app, name)), before);
    assert_eq!(app.tell("ask away").unwrap(), "pod-1-2");
}

#[test]
fn what_changed_while_no_agent_ran_is_followed_by_the_next() {
    let scenario = Scenario::new();
    let mut agents = scenario.agents();
    scenario.list(&[1]);
    settle(&scenario);
    let node = scenario.cluster.node(1);
    let mut app = App::start(&node.pods[0].netns, &node.cgroup, Shell::Bare).unwrap();
    app.tell("open socket v4").unwrap();
    app.tell(&format!("connect socket {}:{PORT}", DNS[0])).unwrap();
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2");
    agents[0].kill().unwrap();
    scenario.list(&[2]);
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2", "the control: nobody moves it");
    agents[0].start_again().unwrap();
    wait::until(MOVED, "it to move", || {
        Ok((app.tell("ask socket").ok().as_deref() == Some("pod-2-2")).then_some(()))
    })
    .unwrap();
}

#[test]
fn with_moving_off_a_socket_stays_where_it_was() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start_with(node, scenario.manifests.path(), &["--move-udp", "false"]).unwrap();
    scenario.list(&[1]);
    settle(&scenario);
    let mut app = App::start(&node.pods[0].netns, &node.cgroup, Shell::Bare).unwrap();
    app.tell("open socket v4").unwrap();
    app.tell(&format!("connect socket {}:{PORT}", DNS[0])).unwrap();
    scenario.list(&[2]);
    served_anew(&scenario, scenario.cluster.pod(2, 2));
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2");
    assert_eq!(agent.progress().unwrap().clients.udp_moved, 0);
}

#[test]
fn an_endpoint_that_still_serves_keeps_its_sockets() {
    let scenario = Scenario::new();
    let agents = scenario.agents();
    scenario.list(&[1]);
    settle(&scenario);
    let node = scenario.cluster.node(1);
    let mut app = connected(&scenario, &node.pods[0].netns);
    // Terminating and still serving, beside one that is ready: new sockets go there, and this one stays.
    let [old, new] = [1, 2].map(|node| scenario.cluster.pod(node, 2));
    let endpoint = |pod: &Pod, is_ready: bool| json!({ "addresses": [pod.v4], "conditions": { "ready": is_ready, "serving": true, "terminating": !is_ready } });
    let slice = |endpoints: Vec<serde_json::Value>| {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "namespace": "default", "name": "dns-ipv4", "labels": { "kubernetes.io/service-name": "dns" } },
            "addressType": "IPv4", "ports": [{ "name": "", "protocol": "UDP", "port": BACKEND_PORT }],
            "endpoints": endpoints,
        });
        scenario.manifests.write("dns-ipv4.yaml", &slice.to_string()).unwrap();
    };
    slice(vec![endpoint(old, false), endpoint(new, true)]);
    let client = scenario.cluster.pod(1, 1).place();
    let target = SocketAddr::new(DNS[0].parse().unwrap(), PORT);
    crate::shop::settles(client, (target, &["--udp"]), "pod-2-2");
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2");
    assert_eq!(agents[0].progress().unwrap().clients.udp_moved, 0);
    slice(vec![endpoint(new, true)]);
    follows(&mut app, "pod-2-2");
}

#[test]
fn the_capabilities_of_the_daemonset_are_enough_to_move() {
    let scenario = Scenario::new();
    let listed = crate::capabilities::listed();
    let listed: Vec<&str> = listed.iter().map(|name| &**name).collect();
    let node = scenario.cluster.node(1);
    let _agent = Agent::start_under(node, scenario.manifests.path(), rights::only(&listed)).unwrap();
    scenario.list(&[1]);
    settle(&scenario);
    let mut apps = [&node.pods[0].netns, &node.netns].map(|netns| connected(&scenario, netns));
    scenario.list(&[2]);
    for app in &mut apps {
        follows(app, "pod-2-2");
    }
}

/// Without the right to take descriptors, what can be done is done, and the rest is counted.
#[test]
fn without_the_right_a_socket_of_the_host_is_destroyed_and_one_of_a_pod_is_counted() {
    let scenario = Scenario::new();
    let listed = crate::capabilities::listed();
    let fewer: Vec<&str> = listed.iter().map(|name| &**name).filter(|name| *name != "SYS_PTRACE").collect();
    assert_eq!(fewer.len() + 1, listed.len());
    let node = scenario.cluster.node(1);
    let agent = Agent::start_under(node, scenario.manifests.path(), rights::only(&fewer)).unwrap();
    scenario.list(&[1]);
    settle(&scenario);
    let [mut pod, mut host] = [&node.pods[0].netns, &node.netns].map(|netns| connected(&scenario, netns));
    scenario.list(&[2]);
    let counted = || {
        let clients = agent.progress()?.clients;
        Ok((clients.udp_destroyed == 1 && clients.udp_lost == 1).then_some(()))
    };
    wait::until(Duration::from_secs(5), "both to be counted", counted).unwrap();
    let error = host.tell("ask socket").unwrap_err().to_string();
    assert!(error.contains("abort") || error.contains("Destination address required"), "{error}");
    assert_eq!(pod.tell("ask socket").unwrap(), "pod-1-2", "it stays with the backend that is gone");
}

/// The process that connected the socket has ended; a child has it.
#[test]
fn a_socket_that_a_child_has_inherited_moves_too() {
    let scenario = Scenario::new();
    let _agents = scenario.agents();
    scenario.list(&[1]);
    settle(&scenario);
    let node = scenario.cluster.node(1);
    // The outer shell only keeps the output open.
    let script = format!(
        "bash -c 'exec 3<>/dev/udp/{}/{PORT}; echo opener $$; \
         (while printf ? >&3; do read -r -t 1 -N 7 name <&3; echo \"$name\"; sleep 0.02; done) & disown'; sleep 60",
        DNS[0]
    );
    let mut command = placed(std::path::Path::new("bash"), &node.pods[0].netns, &node.cgroup);
    command.args(["-c", &script]);
    let mut process = Process::spawn("a child", command).unwrap();
    let opener = process.wait_line(LIMIT, |line| line.starts_with("opener ")).unwrap();
    process.wait_line(LIMIT, |line| line == "pod-1-2").unwrap();
    let opener = format!("/proc/{}", opener.strip_prefix("opener ").unwrap());
    wait::until(LIMIT, "only the child to be left", || {
        Ok((!std::path::Path::new(&opener).exists()).then_some(()))
    })
    .unwrap();
    scenario.list(&[2]);
    process.wait_line(MOVED, |line| line == "pod-2-2").unwrap();
}

/// An application with a connected socket that the first node's backend answers.
fn connected(scenario: &Scenario, netns: &Netns) -> App {
    let mut app = App::start(netns, &scenario.cluster.node(1).cgroup, Shell::Bare).unwrap();
    app.tell("open socket v4").unwrap();
    app.tell(&format!("connect socket {}:{PORT}", DNS[0])).unwrap();
    assert_eq!(app.tell("ask socket").unwrap(), "pod-1-2");
    app
}

#[track_caller]
fn follows(app: &mut App, name: &str) {
    let is_there = || Ok((app.tell("ask socket").ok().as_deref() == Some(name)).then_some(()));
    wait::until(MOVED, "it to move", is_there).unwrap();
}

/// Waits until new sockets are served by the first node's backend alone.
fn settle(scenario: &Scenario) {
    served_anew(scenario, scenario.cluster.pod(1, 2));
}

fn served_anew(scenario: &Scenario, by: &Pod) {
    let client = scenario.cluster.pod(1, 1).place();
    for ip in DNS {
        let target = SocketAddr::new(ip.parse().unwrap(), PORT);
        let mut in_a_row = 0;
        wait::until(Duration::from_secs(5), "one backend", || {
            let report = client.get(target, &["--udp"])?;
            in_a_row = if report.name.as_deref() == Some(&*by.name) { in_a_row + 1 } else { 0 };
            Ok((in_a_row == 12).then_some(()))
        })
        .unwrap();
    }
}
