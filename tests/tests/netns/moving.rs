//! Connected UDP sockets through an agent: they follow their service without knowing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tests::topology::Pod;
use tests::wait;

use crate::proofs_object::{App, Shell};
use crate::scenario::{BACKEND_PORT, DNS, PORT, Scenario};

/// Within which a socket must have followed a change.
const MOVED: Duration = Duration::from_secs(1);

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
    let agent =
        tests::agent::Agent::start_with(node, scenario.manifests.path(), &["--move-udp", "false"]).unwrap();
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
