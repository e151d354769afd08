//! The kernel store agrees with the fake on every golden scenario.

use std::collections::BTreeSet;

use proxy_common::addr::Addr;
use proxy_common::node::CidrKey;
use proxy_common::source::SourceKey;
use shunt::datapath::load::{LoadOptions, Loaded};
use shunt::maps::Hashes;
use shunt::maps::memory::Memory;
use shunt::maps::store::{KernelStore, frontends_shape};
use shunt::sys::map::Map;
use tests::golden::{LARGE, Played, Scenario, large, play};
use tests::hand::object_under_test;

/// Entries of the first frontend hash: few, as in the golden tier, so that it must grow.
const FRONTENDS: u32 = 16;

/// Fresh kernel maps.
fn fresh_store() -> KernelStore {
    let object = object_under_test().unwrap();
    let options = LoadOptions {
        object: &object,
        pin_dir: None,
        host_netns: 1,
        counter_shards: 2,
        mover: 0,
        host_only: false,
        log_level: 0,
    };
    let loaded = Loaded::new(&options).unwrap();
    let maps = loaded.kernel_maps().unwrap();
    let small = Map::create("FRONTENDS", &frontends_shape(FRONTENDS)).unwrap();
    maps.frontends.set_inner(0, &small).unwrap();
    let store = KernelStore::open(maps).unwrap();
    assert_eq!(store.frontend_capacity(), FRONTENDS);
    store
}

/// Plays a scenario on fresh kernel maps.
fn play_on_kernel(scenario: &Scenario) -> Played<KernelStore> {
    play(scenario, fresh_store(), |_, _| ()).unwrap()
}

/// As many ranges as one batch call brings, twice over and more, of many cells and lengths.
#[test]
fn the_kernel_gives_back_every_range_of_clients() {
    let mut store = fresh_store();
    let range = |number: u32| {
        let addr = Addr::from_v4_word((number << 12).to_be());
        SourceKey::new(number % 100, CidrKey { prefix_len: 96 + 20 + number % 13, addr })
    };
    let mut wanted: BTreeSet<SourceKey> = (1..=10_000).map(range).collect();
    assert_eq!(wanted.len(), 10_000);
    for key in &wanted {
        store.insert_source(*key).unwrap();
    }
    let held = |store: &KernelStore| store.sources().unwrap().into_iter().collect::<BTreeSet<_>>();
    assert!(held(&store) == wanted);
    for key in wanted.iter().copied().step_by(3).collect::<Vec<_>>() {
        store.delete_source(key).unwrap();
        store.delete_source(key).unwrap();
        wanted.remove(&key);
    }
    assert!(held(&store) == wanted);
}

#[test]
fn the_kernel_store_agrees_with_every_golden_scenario() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (mut played, mut grown) = (0, 0);
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
        let Played { seen, store } = play_on_kernel(&scenario);
        assert_eq!(seen, scenario.expected(), "{}", path.display());
        played += 1;
        grown += u32::from(store.frontend_capacity() > FRONTENDS);
    }
    assert!(played > 1 && grown > 0, "{played} scenarios, {grown} in which the frontend hash grew");
}

#[test]
fn the_kernel_store_agrees_with_the_large_scenario() {
    let scenario = large();
    let fake = play(&scenario, Memory::new(FRONTENDS), Memory::advance).unwrap();
    let Played { seen, store } = play_on_kernel(&scenario);
    assert!(seen == fake.seen, "the stores differ");
    assert_eq!(store.frontend_capacity(), fake.store.frontend_capacity());
    assert!(store.frontend_capacity() as usize > LARGE);
}
