//! Events: what is written, what is not, and what faults of a server do to whoever has something to tell.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt::events::{Limits, Rate, Reason, Recorder};
use shunt::source::api::Kind;
use shunt::source::kube::Bounds;
use shunt::source::{Subject, Warning};
use tests::apiserver::{ApiServer, EVENTS, SERVICES, SLICES};

use crate::rig::{NODE, Rig, anonymous, bounds, server, service, short_bounds, slice};

/// For anything that must happen.
const LIMIT: Duration = Duration::from_secs(20);

/// Limits with waits that are short for a test.
pub(crate) fn limits() -> Limits {
    let short = Duration::from_millis(50);
    Limits {
        all: Rate { every: Duration::from_millis(1), ..Limits::default().all },
        object: Rate { every: Duration::from_millis(1), ..Limits::default().object },
        repeat: short,
        retry: (short, short),
        denied: Duration::from_millis(300),
        spread: Duration::ZERO,
        ..Limits::default()
    }
}

pub(crate) fn recorder(server: &ApiServer, node: &str, limits: Limits) -> Recorder {
    Recorder::start(anonymous(&[server]), (bounds(), limits), node).unwrap()
}

pub(crate) fn warning(kind: Kind, namespace: &str, name: &str) -> Warning {
    let subject = Subject { kind, namespace: namespace.into(), name: name.into() };
    Warning {
        object: subject.to_string(),
        field: "spec.ports[0]".to_owned(),
        problem: "makes no sense".to_owned(),
        about: Some(subject),
    }
}

#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often an Event was to be made.
fn creations(server: &ApiServer) -> usize {
    server.asked().iter().filter(|asked| asked.method == "POST").count()
}

fn only_event(server: &ApiServer) -> Value {
    until("an Event is there", || !server.events().is_empty());
    let events = server.events();
    assert_eq!(events.len(), 1, "{events:#?}");
    events[0].clone()
}

#[test]
fn what_was_skipped_is_told_on_the_object_itself() {
    let server = server();
    let mut bad = service("bad", "10.96.0.30");
    bad["spec"]["externalIPs"] = json!(["192.0.2.1", "nonsense"]);
    server.put(SERVICES, bad);
    server.put(SLICES, slice("bad", &["10.0.0.1", "127.0.0.1"]));
    let rig = Rig::listed(&server);
    let mut recorder = recorder(&server, NODE, limits());
    recorder.skipped(&rig.warnings);
    until("both are told", || server.events().len() == 2);
    let told: Vec<_> =
        server.events().iter().map(|it| (it["regarding"].clone(), it["note"].clone())).collect();
    let uid = |path, name| server.uid(path, "default", name).unwrap();
    let regarding = |version, kind, name, uid: String| json!({ "apiVersion": version, "kind": kind, "namespace": "default", "name": name, "uid": uid });
    // In the order of their names, in which a dash comes before a dot.
    assert_eq!(told[0].0, regarding("discovery.k8s.io/v1", "EndpointSlice", "bad-1", uid(SLICES, "bad-1")));
    assert!(told[0].1.as_str().unwrap().starts_with("endpoints[1].addresses[0]: "), "{told:?}");
    assert_eq!(told[1].0, regarding("v1", "Service", "bad", uid(SERVICES, "bad")));
    assert!(told[1].1.as_str().unwrap().starts_with("spec.externalIPs[1]: \"nonsense\" is not"), "{told:?}");
}

#[test]
fn the_own_node_is_told_of_without_a_question() {
    let server = server();
    let mut recorder = recorder(&server, NODE, limits());
    recorder.note(Reason::Starting, "it starts");
    let event = only_event(&server);
    assert_eq!(event["regarding"], json!({ "apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE }));
    assert_eq!((&event["metadata"]["namespace"], &event["type"]), (&"default".into(), &"Normal".into()));
    assert_eq!(server.asked().len(), 1, "{:?}", server.asked());
}

#[test]
fn what_comes_again_counts_up_its_event_until_that_is_gone() {
    let server = server();
    let mut recorder = recorder(&server, NODE, limits());
    let warning = [warning(Kind::Service, "default", "web")];
    recorder.skipped(&warning);
    assert!(only_event(&server).get("series").is_none());
    recorder.skipped(&warning);
    recorder.skipped(&warning);
    until("it is counted up", || only_event(&server)["series"]["count"] == 3);
    assert_eq!(creations(&server), 1);
    server.expire_events();
    recorder.skipped(&warning);
    assert!(only_event(&server).get("series").is_none());
    assert_eq!(creations(&server), 2);
}

#[test]
fn of_what_all_agents_find_one_tells() {
    let server = server();
    let warning = [warning(Kind::Service, "default", "web")];
    let mut recorders = ["node-1", "node-2", "node-3"].map(|node| recorder(&server, node, limits()));
    for recorder in &mut recorders {
        recorder.skipped(&warning);
    }
    until("all have tried", || creations(&server) == 3);
    only_event(&server);
    // The control: what is a node's own is told by each.
    for recorder in &mut recorders {
        recorder.note(Reason::HostLimitation, "no");
    }
    until("each has told", || server.events().len() == 4);
}

#[test]
fn nothing_is_told_of_what_is_gone() {
    let server = server();
    let mut recorder = recorder(&server, NODE, limits());
    recorder.skipped(&[warning(Kind::Service, "default", "gone"), warning(Kind::Service, "default", "web")]);
    assert_eq!(only_event(&server)["regarding"]["name"], "web");
    assert_eq!(creations(&server), 1);
}

#[test]
fn a_missing_right_is_found_out_once_and_cured_without_a_restart() {
    let server = server();
    server.behave(|manners| manners.denied.push(EVENTS.to_owned()));
    let mut recorder = recorder(&server, NODE, Limits { denied: Duration::from_secs(2), ..limits() });
    let since = Instant::now();
    recorder.note(Reason::Starting, "it starts");
    until("it was tried", || creations(&server) == 1);
    server.behave(|manners| manners.denied.clear());
    recorder.note(Reason::Ready, "ready");
    let event = only_event(&server);
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!((&event["reason"], creations(&server)), (&"Ready".into(), 2), "what was denied is let go");
}

#[test]
fn a_server_that_fails_or_says_nothing_is_tried_again_and_holds_nobody_up() {
    let server = server();
    let mut recorder = Recorder::start(anonymous(&[&server]), (short_bounds(), limits()), NODE).unwrap();
    for faulty in [true, false] {
        server.behave(|manners| {
            let list = if faulty { &mut manners.failing } else { &mut manners.mute };
            list.push(EVENTS.to_owned());
        });
        let (before, since) = (creations(&server), Instant::now());
        for index in 0..1000 {
            recorder.note(Reason::HostLimitation, format!("{faulty} {index}"));
        }
        assert!(since.elapsed() < short_bounds().answer, "{:?}", since.elapsed());
        until("it is tried again", || creations(&server) >= before + 2);
        server.behave(|manners| {
            manners.failing.clear();
            manners.mute.clear();
        });
        let is_told = |event: &Value| event["note"].as_str().unwrap().starts_with(&faulty.to_string());
        until("it is told", || server.events().iter().any(is_told));
    }
}

#[test]
fn the_next_server_is_told_where_one_is_gone() {
    let (dead, alive) = (server(), server());
    let access = anonymous(&[&dead, &alive]);
    drop(dead);
    let mut recorder = Recorder::start(access, (Bounds::default(), limits()), NODE).unwrap();
    recorder.note(Reason::Starting, "it starts");
    only_event(&alive);
}
