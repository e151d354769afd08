//! The kernel store agrees with the fake on every golden scenario.

use std::collections::BTreeSet;

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::FrontendKey;
use proxy_common::lb::{Lookup, Origin, Packet, Stranger, Tuple, Verdict, admits, translate};
use proxy_common::node::CidrKey;
use proxy_common::source::SourceKey;
use shunt::datapath::load::{LoadOptions, Loaded};
use shunt::maps::Hashes;
use shunt::maps::live::Live;
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
    let (mut played, mut grown, mut looked) = (0, 0, Seen::default());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
        let Played { seen, store } = play_on_kernel(&scenario);
        assert_eq!(seen, scenario.expected(), "{}", path.display());
        let fake = play(&scenario, Memory::new(FRONTENDS), Memory::advance).unwrap().store;
        let seen = looks_the_same(&store, &fake);
        for (sum, count) in looked.iter_mut().zip(seen) {
            *sum += count;
        }
        played += 1;
        grown += u32::from(store.frontend_capacity() > FRONTENDS);
    }
    assert!(played > 1 && grown > 0, "{played} scenarios, {grown} in which the frontend hash grew");
    assert!(looked.iter().all(|count| *count > 0), "a kind of answer that nobody got: {looked:?}");
}

/// Answers by kind: forwarded, refused, dropped, left alone, let in, not let in.
type Seen = [u32; 6];

/// Whether the decision through the kernel's maps is that through the fake, for each frontend and beside it.
#[track_caller]
fn looks_the_same(store: &KernelStore, fake: &Memory) -> Seen {
    let live = Live::new(store);
    let mut seen = Seen::default();
    for (key, _) in store.frontends().unwrap().into_iter().filter(|(key, _)| !key.is_owned_vip()) {
        for origin in [Origin::Host, Origin::Pod, Origin::External] {
            for port in [key.port.get(), key.port.get() + 1] {
                let tuple = Tuple { addr: reached_at(&key), port: Port::new(port), proto: key.proto };
                let packet = Packet { tuple, origin };
                assert_eq!(
                    answers(&live, &packet, &mut seen),
                    answers(fake, &packet, &mut seen),
                    "{packet:?}"
                );
            }
        }
    }
    for text in ["10.96.200.200", "fd00:10:96::c8", "203.0.113.77"] {
        let tuple = Tuple { addr: addr(text), port: Port::new(80), proto: Proto::TCP };
        let packet = Packet { tuple, origin: Origin::Pod };
        assert_eq!(answers(&live, &packet, &mut seen), answers(fake, &packet, &mut seen), "{packet:?}");
    }
    live.check().unwrap();
    seen
}

/// What a client may meet, and whether some clients would be let in.
fn answers(lookup: &impl Lookup, packet: &Packet, seen: &mut Seen) -> BTreeSet<String> {
    let answer = |step: u32| match translate(lookup, packet, &Stranger(step * (u32::MAX / 32))) {
        Verdict::Forward(pick) => {
            seen[0] += 1;
            let clients = ["203.0.113.7", "203.0.114.7", "2001:db8:f::7", "2001:db8:e::7"].map(addr);
            let admitted = clients.map(|client| admits(lookup, &pick, client));
            for is_admitted in admitted {
                seen[if is_admitted { 4 } else { 5 }] += 1;
            }
            format!("{} {} {:?} {admitted:?}", pick.addr, pick.port.get(), pick.view)
        }
        Verdict::Reject(_, reason) => {
            seen[1] += 1;
            format!("{reason:?}")
        }
        Verdict::Drop(_, reason) => {
            seen[2] += 1;
            format!("{reason:?}")
        }
        Verdict::Pass => {
            seen[3] += 1;
            "pass".to_owned()
        }
    };
    (0..32).map(answer).collect()
}

/// An address at which a frontend is reached by somebody.
fn reached_at(key: &FrontendKey) -> Addr {
    match (key.addr.is_unspecified(), key.addr.is_v4()) {
        (false, _) => key.addr,
        (true, true) => addr("127.0.0.1"),
        (true, false) => addr("::1"),
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

#[test]
fn the_kernel_store_agrees_with_the_large_scenario() {
    let scenario = large();
    let fake = play(&scenario, Memory::new(FRONTENDS), Memory::advance).unwrap();
    let Played { seen, store } = play_on_kernel(&scenario);
    assert!(seen == fake.seen, "the stores differ");
    looks_the_same(&store, &fake.store);
    assert_eq!(store.frontend_capacity(), fake.store.frontend_capacity());
    assert!(store.frontend_capacity() as usize > LARGE);
}
