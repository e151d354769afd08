//! What the maps' design leans on, each proved on the running kernel with a control that fails.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use proxy_common::addr::{Port, Proto};
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::names;
use proxy_common::service::ViewWord;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shunt::datapath::attach::Attached;
use shunt::datapath::hooks::HOOKS;
use shunt::datapath::pin::MapSet;
use shunt::maps::Hashes;
use shunt::sys::map::{Map, Shape};
use std::os::fd::AsFd;
use tests::hand::{Rig, SERVICE, VIP, connect_once};

/// Frontends that move at once.
const MOVED: u16 = 1_000;
/// Backends of a test.
const BACKENDS: u8 = 8;

fn rig_with_service(label: &str) -> (Rig, Vec<TcpListener>) {
    let mut rig = Rig::new(label).expect("rig");
    let listeners = rig.listeners(BACKENDS).expect("listen");
    for (listener, id) in listeners.iter().zip(1..) {
        rig.write_row(id, listener.local_addr().expect("address")).expect("row");
    }
    let ids: Vec<u32> = (1..=u32::from(BACKENDS)).collect();
    rig.write_slots(0, &ids).expect("slots");
    rig.switch_to(ViewWord::random(0, u32::from(BACKENDS))).expect("switch");
    rig.insert_vip().expect("VIP");
    (rig, listeners)
}

/// What a stream of connects saw.
struct Outcome {
    connected: u64,
    failed: u64,
}

/// Connects to the VIP without pause while `work` runs, and accepts on every listener.
fn connects_during(rig: &mut Rig, listeners: &[TcpListener], work: impl FnOnce(&mut Rig)) -> Outcome {
    let (stop, connected, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let namespace = std::fs::File::open(rig.netns.path()).expect("namespace");
    std::thread::scope(|scope| {
        for listener in listeners {
            listener.set_nonblocking(true).expect("nonblocking");
        }
        scope.spawn(|| {
            enter(&namespace).expect("enter");
            while !stop.load(Ordering::Relaxed) {
                let count = if connect_once().is_ok() { &connected } else { &failed };
                count.fetch_add(1, Ordering::Relaxed);
                for listener in listeners {
                    while listener.accept().is_ok() {}
                }
            }
        });
        work(rig);
        // Whatever changed last is met by some connects too.
        let after = connected.load(Ordering::Relaxed) + failed.load(Ordering::Relaxed) + 200;
        while connected.load(Ordering::Relaxed) + failed.load(Ordering::Relaxed) < after {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    Outcome { connected: connected.into_inner(), failed: failed.into_inner() }
}

#[test]
fn a_release_store_is_seen_by_the_next_connect() {
    let (mut rig, listeners) = rig_with_service("store");
    for listener in &listeners {
        listener.set_nonblocking(true).expect("nonblocking");
    }
    for round in 0..2_000_usize {
        let chosen = round % usize::from(BACKENDS);
        rig.switch_to(ViewWord::random(chosen as u32, 1)).expect("switch");
        let peer = rig.netns.inside(connect_once).expect("inside").expect("connect");
        assert_eq!(peer, VIP, "getpeername shows the VIP");
        listeners[chosen].accept().unwrap_or_else(|error| panic!("round {round}: backend {chosen}: {error}"));
        let others = listeners.iter().enumerate().filter(|(index, _)| *index != chosen);
        for (index, listener) in others {
            let error = listener.accept().expect_err("another backend was reached");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "backend {index}");
        }
    }
}

#[test]
fn a_reject_view_refuses_with_econnrefused() {
    let (mut rig, _listeners) = rig_with_service("reject");
    rig.switch_to(ViewWord::REJECT).expect("switch");
    let error = rig.netns.inside(connect_once).expect("inside").expect_err("refused");
    assert_eq!(error.raw_os_error(), Some(111), "ECONNREFUSED, not EPERM: {error}");
}

#[test]
fn the_frontend_hash_grows_under_connects() {
    let (mut rig, listeners) = rig_with_service("grow");
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        for doubling in 1..=40_u32 {
            rig.store.grow_frontends(names::FRONTENDS_INITIAL << (doubling % 4 + 1)).expect("grow");
        }
    });
    println!("growth: {} connects, {} failed", outcome.connected, outcome.failed);
    assert_eq!(outcome.failed, 0);
}

/// The service is made anew in another cell, and many frontends with it.
#[test]
fn frontends_move_under_connects() {
    let (mut rig, listeners) = rig_with_service("move");
    let ports = VIP.port()..VIP.port() + MOVED;
    let at = |cell| -> Vec<_> {
        let key = |port| FrontendKey::new(VIP.ip().into(), Port::new(port), Proto::TCP);
        let value = FrontendValue::new(cell, FrontendKind::ClusterIp, 0);
        ports.clone().map(|port| (key(port), value)).collect()
    };
    let cells = [SERVICE, SERVICE + 1];
    // The other cell has rows and slots of its own.
    rig.cell = cells[1];
    for (listener, id) in listeners.iter().zip(20..) {
        rig.write_row(id, listener.local_addr().expect("address")).expect("row");
    }
    rig.write_slots(20, &(20..20 + u32::from(BACKENDS)).collect::<Vec<_>>()).expect("slots");
    rig.switch_to(ViewWord::random(20, u32::from(BACKENDS))).expect("switch");
    rig.store.insert_frontends(&at(cells[0])).expect("insert");
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        let start = Instant::now();
        for round in 1..=40 {
            rig.store.move_frontends(&at(cells[round % 2])).expect("move");
        }
        println!("{MOVED} frontends move in {:?}", start.elapsed() / 40);
    });
    println!("moves: {} connects, {} failed", outcome.connected, outcome.failed);
    assert_eq!(outcome.failed, 0);
    // The VIP serves UDP too, which does not move.
    assert_eq!(rig.store.frontends().expect("frontends").len(), usize::from(MOVED) + 1);

    // The control: they led to the cell that they had been moved to.
    rig.switch_to(ViewWord::REJECT).expect("switch");
    for (cell, is_served) in [(cells[1], false), (cells[0], true)] {
        rig.store.move_frontends(&at(cell)).expect("move");
        assert_eq!(rig.netns.inside(connect_once).expect("inside").is_ok(), is_served, "cell {cell}");
    }
}

#[test]
fn a_gap_in_the_frontends_fails_connects() {
    let (mut rig, listeners) = rig_with_service("gap");
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        for _ in 0..50 {
            rig.delete_vip().expect("delete");
            std::thread::sleep(std::time::Duration::from_millis(1));
            rig.insert_vip().expect("insert");
        }
    });
    assert!(outcome.failed > 0, "the control must fail: {} connects", outcome.connected);
}

#[test]
fn links_are_replaced_without_a_gap() {
    let (mut rig, listeners) = rig_with_service("links");
    let before = shunt::datapath::attach::pinned_links(&rig.pin_root()).expect("links");
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        for _ in 0..10 {
            rig.reload().expect("reload");
            let outcomes = rig.attach().expect("attach");
            assert!(outcomes.iter().all(|(_, outcome)| *outcome == Attached::Replaced), "{outcomes:?}");
        }
    });
    println!("replacement: {} connects, {} failed", outcome.connected, outcome.failed);
    assert_eq!(outcome.failed, 0);
    let after = shunt::datapath::attach::pinned_links(&rig.pin_root()).expect("links");
    for ((hook, old), (_, new)) in before.iter().zip(&after) {
        assert_eq!(old.id, new.id, "{}: the link stays", hook.name);
        assert_ne!(old.program_id, new.program_id, "{}: the program changes", hook.name);
    }
}

#[test]
fn links_move_to_another_cgroup_without_a_gap() {
    let (mut rig, listeners) = rig_with_service("moving");
    let inner = rig.inner_cgroup().expect("cgroup");
    inner.add(std::process::id()).expect("enter");
    let directory = inner.open().expect("open");
    let id = shunt::sys::cgroup::id(&directory).expect("id");
    let ids = |rig: &Rig| {
        let links = shunt::datapath::attach::pinned_links(&rig.pin_root()).expect("links");
        links.iter().map(|(_, facts)| facts.cgroup_id).collect::<Vec<_>>()
    };
    let outer = ids(&rig);
    let is_moved = |(_, outcome): &(_, Attached)| *outcome == Attached::Moved;
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        for _ in 0..5 {
            assert!(rig.attach_at(&directory).expect("attach").iter().all(is_moved));
            assert_eq!(ids(rig), [id; HOOKS.len()]);
            assert!(rig.attach().expect("attach").iter().all(is_moved));
            assert_eq!(ids(rig), outer);
        }
    });
    println!("moving: {} connects, {} failed", outcome.connected, outcome.failed);
    assert_eq!(outcome.failed, 0);

    // The cgroup may be gone too.
    rig.attach_at(&directory).expect("attach");
    rig.enter().expect("leave");
    drop(inner);
    // The kernel lets go of the links by a work queue.
    let is_gone = || Ok((ids(&rig) == [0; HOOKS.len()]).then_some(()));
    tests::wait::until(std::time::Duration::from_secs(10), "links of no cgroup", is_gone).expect("gone");
    assert!(rig.attach().expect("attach").iter().all(is_moved));
    assert_eq!(ids(&rig), outer);
    let pins = std::fs::read_dir(rig.pin_dir().links()).expect("links").count();
    assert_eq!(pins, HOOKS.len(), "nothing is left of the move");
}

#[test]
fn detaching_before_attaching_fails_connects() {
    let (mut rig, listeners) = rig_with_service("detach");
    let outcome = connects_during(&mut rig, &listeners, |rig| {
        for _ in 0..5 {
            let links = rig.pin_dir().links();
            for hook in shunt::datapath::hooks::HOOKS {
                let link = shunt::sys::link::Link::open_pinned(&links.join(hook.name)).expect("link");
                link.detach().expect("detach");
                std::fs::remove_file(links.join(hook.name)).expect("unpin");
            }
            // On a loaded machine the connecting thread may not run in a shorter gap.
            std::thread::sleep(std::time::Duration::from_millis(5));
            rig.attach().expect("attach");
        }
    });
    assert!(outcome.failed > 0, "the control must fail: {} connects", outcome.connected);
}

#[test]
fn pinned_maps_of_another_shape_are_refused() {
    let rig = Rig::new("shape").expect("rig");
    assert_eq!(rig.pin_dir().foreign_map(MapSet::Tables).expect("check"), None);
    let path = rig.pin_dir().maps().join(names::NODE_ADDRS);
    std::fs::remove_file(&path).expect("unpin");
    let odd = Map::create("NODE_ADDRS", &Shape::hash(16, 8, names::NODE_ADDRS_MAX)).expect("map");
    shunt::sys::bpf::pin(odd.as_fd(), &path).expect("pin");
    let found = rig.pin_dir().foreign_map(MapSet::Tables).expect("check").expect("a difference");
    assert!(found.contains("NODE_ADDRS") && found.contains("value 8 B"), "{found}");
    std::fs::remove_file(&path).expect("unpin");

    let services = rig.pin_dir().maps().join(names::SERVICES.name);
    std::fs::remove_file(&services).expect("unpin");
    let template = Map::create("chunk", &Shape::mapped_array(32, 64)).expect("map");
    let outer = Shape::array_of_maps(names::SERVICES.max_chunks);
    let outer = Map::create_outer("SERVICES", &outer, &template).expect("map");
    outer.set_inner(0, &template).expect("inner");
    shunt::sys::bpf::pin(outer.as_fd(), &services).expect("pin");
    let found = rig.pin_dir().foreign_map(MapSet::Tables).expect("check").expect("a difference");
    assert!(found.contains("SERVICES") && found.contains("64 entries"), "{found}");
}

fn enter(namespace: &std::fs::File) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}
