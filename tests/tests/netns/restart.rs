//! Agents that die, come back and are replaced under traffic: no connect may fail.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use proxy_common::names::{self, SCHEMA};
use shunt::datapath::attach::pinned_links;
use shunt::datapath::pin::{MapSet, PinDir};
use shunt::sys::map::{Map, Shape};
use tests::agent::{Agent, pin_dir};
use tests::churn::{Churn, Pace};
use tests::contents::Contents;
use tests::load::{Load, Place};
use tests::report::ConnectsReport;

use crate::churn::{Busy, SERVICE, VIP};

/// One of eight backends is replaced every 50 ms and goes on listening for longer than an agent is away.
pub(crate) const SLOW: Pace =
    Pace { listed: 8, replaced: 1, step: Duration::from_millis(50), ahead: 0, grace: Duration::from_secs(2) };

/// Time between the end of an agent and the start of the next.
pub(crate) const AWAY: Duration = Duration::from_millis(200);

/// Two streams of connects: from a pod and from the host.
fn streams(busy: &Busy) -> [Load; 2] {
    let places = [busy.cluster.pod(1, 1).place(), busy.cluster.node(1).host()];
    places.map(stream)
}

/// A stream of connects from there.
pub(crate) fn stream(place: Place<'_>) -> Load {
    let options = ["--threads", "1", "--pause", "50", "--read-every", "16", "--hold"];
    place.connects(VIP.parse().unwrap(), &options).unwrap()
}

/// Ends the streams: no connect failed, and none was shown anything but the VIP.
pub(crate) fn finish<const COUNT: usize>(loads: [Load; COUNT]) -> ConnectsReport {
    let mut sum = ConnectsReport::default();
    for load in loads {
        let report = load.finish().unwrap();
        // Each of them was really there.
        assert!(report.attempts > 1_000, "{report:?}");
        sum.merge(report);
    }
    println!("{} connects, {} failed", sum.attempts, sum.failures());
    assert!(sum.failures() == 0 && sum.unanswered.is_empty() && sum.wrong_peer == 0, "{sum:?}");
    // Sockets that were open all the time are still remembered.
    assert_eq!(sum.held, COUNT as u64, "{sum:?}");
    sum
}

fn churn(busy: &mut Busy) -> Churn<'_> {
    let (manifests, candidates) = (&busy.manifests, &busy.candidates);
    Churn { manifests, service: SERVICE, servers: &mut busy.servers, candidates, pace: SLOW, first: 0 }
}

/// Sum of the stores and map operations since the agent was started.
fn written(agent: &Agent<'_>) -> u64 {
    let status = agent.status().unwrap();
    ["ops", "stores"].iter().map(|key| status["sync"][*key].as_u64().unwrap()).sum()
}

/// Waits until the maps hold what the manifests say now: two looks, apart, that agree.
fn settled(contents: impl Fn() -> Contents) -> Contents {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut last = contents();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = contents();
        if now == last {
            return now;
        }
        assert!(Instant::now() < deadline, "maps keep changing: {:?}", now.differences(&last));
        last = now;
    }
}

#[test]
fn a_restart_writes_nothing_and_fails_no_connect() {
    let mut busy = Busy::new(56);
    churn(&mut busy).start().unwrap();
    let mut agent = Agent::start(busy.cluster.node(1), busy.manifests.path()).unwrap();
    assert!(written(&agent) > 0);
    let root = pin_dir(busy.cluster.node(1));
    let read = || Contents::read(&root, SCHEMA).unwrap();
    let loads = streams(&busy);
    for _ in 0..3 {
        let before = settled(read);
        agent.kill().unwrap();
        std::thread::sleep(AWAY);
        let started = Instant::now();
        agent.start_again().unwrap();
        println!("ready after {:?}", started.elapsed());
        std::thread::sleep(AWAY);
        let after = read();
        assert_eq!(after.differences(&before), Vec::<&str>::new());
        assert_eq!(written(&agent), 0);
        println!(
            "{} bytes of maps, {:016x} before and {:016x} after",
            before.size(),
            before.fingerprint(),
            after.fingerprint()
        );
    }
    finish(loads);
}

#[test]
fn kills_amid_changes_fail_no_connect() {
    let mut busy = Busy::new(56);
    churn(&mut busy).start().unwrap();
    let Busy { servers, candidates, cluster, manifests } = &mut busy;
    let mut agent = Agent::start(cluster.node(1), manifests.path()).unwrap();
    let places = [cluster.pod(1, 1).place(), cluster.node(1).host()];
    let loads = places.map(stream);
    let mut churn = Churn { manifests, service: SERVICE, servers, candidates, pace: SLOW, first: 0 };
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| churn.run(Duration::from_secs(6)).unwrap());
        while !changes.is_finished() {
            agent.kill().unwrap();
            std::thread::sleep(AWAY);
            agent.start_again().unwrap();
            std::thread::sleep(Duration::from_millis(600));
        }
        assert!(changes.join().unwrap() > 60);
    });
    finish(loads);
}

#[test]
fn an_upgrade_fails_no_connect() {
    let object = tests::sweep::scratch_dir("object").unwrap();
    let path = object.join("shunt.bpf.o");
    std::fs::write(&path, tests::hand::object_under_test().unwrap()).unwrap();
    let next = SCHEMA + 1;
    let variants: [(&[&str], u32); 3] = [
        (&["--object", path.to_str().unwrap()], SCHEMA),
        (&["--schema", &next.to_string()], next),
        // A downgrade is an upgrade too.
        (&[], SCHEMA),
    ];
    let mut busy = Busy::new(56);
    churn(&mut busy).start().unwrap();
    let mut agent = Agent::start(busy.cluster.node(1), busy.manifests.path()).unwrap();
    let root = pin_dir(busy.cluster.node(1));
    let mut before = programs(&root);
    let loads = streams(&busy);
    for (variant, schema) in variants {
        std::thread::sleep(AWAY);
        agent.terminate().unwrap();
        std::thread::sleep(AWAY);
        agent.start_again_as(variant).unwrap();
        let after = programs(&root);
        // Other programs under the same links, and the maps of no layout but the one in force.
        let pairs = after.iter().zip(&before);
        assert!(pairs.clone().all(|(new, old)| new.0 == old.0 && new.1 != old.1), "{after:?} {before:?}");
        let layouts: Vec<u32> =
            [SCHEMA, next].into_iter().filter(|schema| PinDir::new(&root, *schema).maps().exists()).collect();
        assert_eq!(layouts, [schema]);
        before = after;
    }
    std::thread::sleep(AWAY);
    finish(loads);
    std::fs::remove_dir_all(object).unwrap();
}

/// Maps of another program, or of a version that forgot to change its number, lie where ours should: they are moved out
/// of the way, the programs go on with them, and they are gone once others are in force.
#[test]
fn maps_of_another_shape_are_left_to_the_programs_that_use_them() {
    let mut busy = Busy::new(56);
    churn(&mut busy).start().unwrap();
    let mut agent = Agent::start(busy.cluster.node(1), busy.manifests.path()).unwrap();
    let root = pin_dir(busy.cluster.node(1));
    let loads = streams(&busy);
    std::thread::sleep(AWAY);
    agent.terminate().unwrap();
    let pins = PinDir::new(&root, SCHEMA);
    let (_, cidrs) = pins.map_paths().find(|(name, _)| *name == names::CIDRS).unwrap();
    std::fs::remove_file(&cidrs).unwrap();
    let odd = Map::create("CIDRS", &Shape::hash(20, 8, 4)).unwrap();
    shunt::sys::bpf::pin(odd.as_fd(), &cidrs).unwrap();
    // The control: without the difference the maps would be the same ones as before.
    let before = map_id(&pins);
    agent.start_again().unwrap();
    assert_ne!(map_id(&pins), before);
    assert_eq!(pins.other_sets().unwrap(), Vec::<String>::new());
    std::thread::sleep(AWAY);
    finish(loads);
}

/// Id of a map of the tables.
fn map_id(pins: &PinDir) -> u32 {
    let path = pins.directory(MapSet::Tables).join(names::FRONTENDS);
    Map::open_pinned(&path).unwrap().id()
}

/// Ids of the pinned links and of the programs under them.
fn programs(root: &Path) -> Vec<(u32, u32)> {
    let links = pinned_links(root).unwrap();
    assert!(!links.is_empty());
    links.iter().map(|(_, facts)| (facts.id, facts.program_id)).collect()
}
