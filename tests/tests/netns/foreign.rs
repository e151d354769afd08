//! Pinned maps that make no sense: they are set aside and filled anew, and no connect fails meanwhile.

use std::path::Path;
use std::time::Duration;

use proxy_common::names::SCHEMA;
use proxy_common::service::OWNER_WORD;
use shunt::datapath::load::open_pinned_maps;
use shunt::datapath::pin::PinDir;
use shunt::maps::adopt::adopt;
use shunt::maps::store::KernelStore;
use shunt::maps::{WordTable, Words};
use shunt::plan::ops::cell_word;
use tests::agent::{Agent, pin_dir};
use tests::churn::Churn;
use tests::contents::head_sequence;

use crate::churn::{Busy, SERVICE, VIP};
use crate::restart::{AWAY, SLOW, finish, stream};

/// What the log says once for each set of maps that is set aside.
const ASIDE: &str = "set foreign maps aside";
const REASON: &str = "the maps contradict themselves: cell";

/// Gives the owner of a cell to another one, which no program reads and no writer does.
fn spoil(root: &Path) {
    let mut store = KernelStore::open(open_pinned_maps(&PinDir::new(root, SCHEMA)).unwrap()).unwrap();
    let (tag, cell) = adopt(&store).unwrap().actual.cells().next().unwrap();
    store.store(WordTable::Services, cell_word(cell + 100, OWNER_WORD), tag.0).unwrap();
}

/// One set was set aside, for its reason, and is gone now that nobody uses it.
#[track_caller]
fn assert_healed(agent: &Agent<'_>, root: &Path) {
    let log = agent.log();
    assert_eq!(log.matches(ASIDE).count(), 1, "{log}");
    assert!(log.lines().any(|line| line.contains(ASIDE) && line.contains(REASON)), "{log}");
    let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("aside")).collect();
    assert!(left.is_empty(), "{left:?}");
    let verified = agent.shunt_verify().unwrap();
    assert!(verified.contains("the maps hold what the source says"), "{verified}");
}

#[test]
fn maps_that_contradict_themselves_are_filled_anew_and_no_connect_fails() {
    let mut busy = Busy::new(56);
    let Busy { servers, candidates, cluster, manifests } = &mut busy;
    let root = pin_dir(cluster.node(1));
    let mut churn = Churn { manifests, service: SERVICE, servers, candidates, pace: SLOW, first: 0 };
    churn.start().unwrap();
    let mut agent = Agent::start(cluster.node(1), manifests.path()).unwrap();
    let load = stream(cluster.pod(1, 1).place());
    std::thread::sleep(AWAY);
    agent.kill().unwrap();
    spoil(&root);
    std::thread::sleep(AWAY);
    agent.start_again().unwrap();
    assert_healed(&agent, &root);

    // The hooks read the maps that are pinned now: backends that leave are not connected to.
    let switched = || head_sequence(&root, SCHEMA, VIP.parse().unwrap()).unwrap();
    let before = switched();
    churn.run(Duration::from_secs(3)).unwrap();
    assert!(switched() > before + 10, "switched {before} and then {} times", switched());

    // What was filled is as good as any: the next start takes it over.
    std::thread::sleep(AWAY);
    agent.kill().unwrap();
    agent.start_again().unwrap();
    assert!(!agent.log().contains(ASIDE), "{}", agent.log());
    assert_eq!(agent.progress().unwrap().sync.ops, 0);
    finish([load]);
}

#[test]
fn an_agent_that_meets_a_contradiction_ends_and_its_successor_heals_it() {
    let mut busy = Busy::new(56);
    let Busy { servers, candidates, cluster, manifests } = &mut busy;
    let root = pin_dir(cluster.node(1));
    let mut churn = Churn { manifests, service: SERVICE, servers, candidates, pace: SLOW, first: 0 };
    churn.start().unwrap();
    let often = ["--compare-every", "100"];
    let mut agent = Agent::start_variant(cluster.node(1), manifests.path(), &often).unwrap();
    let load = stream(cluster.pod(1, 1).place());
    std::thread::sleep(AWAY);
    spoil(&root);
    let status = agent.wait_end(Duration::from_secs(10)).unwrap();
    let log = agent.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(REASON), "{log}");
    std::thread::sleep(AWAY);
    agent.start_again().unwrap();
    assert_healed(&agent, &root);
    churn.run(Duration::from_secs(1)).unwrap();
    finish([load]);
}
