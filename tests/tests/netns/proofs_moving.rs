//! Connected UDP sockets are moved to another backend from outside, and what must stay does stay.
//!
//! Seen on Linux 6.18: the source address and port that the first connect chose stay at the second. A socket that
//! its application disconnected keeps its record, since no hook runs then: so the mover looks at the peer first.
//!
//! Not shown here: answers of the old backend that are still under way when the socket moves, and a socket whose
//! recorded process has ended while a child holds it, which is for destroying.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt::sys::pidfd::{PidfdError, take_sockets};

use crate::proofs_object::layout::Record;
use crate::proofs_object::{App, Shell};
use crate::proofs_rig::{Place, Rig, Site};

/// Sockets of a crowd: their records fill more than one buffer (32 KiB) of the kernel's iterator.
const CROWD: usize = 800;

/// One socket that is moved.
struct Case {
    place: Place,
    shell: Shell,
    /// What `peer-proofs` opens: `v4`, `v6`, or an address to bind to.
    socket: &'static str,
    vip: &'static str,
    /// Where the neighbour socket, which is nobody's business, is connected.
    neighbour: &'static str,
}

impl Case {
    const V4: Self = Self {
        place: Place::Pod,
        shell: Shell::Bare,
        socket: "v4",
        vip: "10.96.0.10:53",
        neighbour: "10.77.0.11:5300",
    };
}

/// What an application sees of its socket.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    cookie: u64,
    local: SocketAddr,
    peer: Option<SocketAddr>,
}

fn show(app: &mut App, name: &str) -> Seen {
    let shown = app.tell(&format!("show {name}")).expect("show");
    let words: Vec<&str> = shown.split(' ').collect();
    let [cookie, local, peer] = words[..] else { panic!("three words: {shown}") };
    Seen {
        cookie: cookie.parse().expect("cookie"),
        local: local.parse().expect("address"),
        peer: peer.parse().ok(),
    }
}

/// Opens and connects the case's socket and its neighbour; both answer from backend A afterwards.
fn start(rig: &Rig, case: &Case) -> App {
    let mut app = rig.app(case.place, case.shell);
    for (name, from, to) in
        [("moved", case.socket, case.vip), ("neighbour", family_of(case.neighbour), case.neighbour)]
    {
        app.tell(&format!("open {name} {from}")).expect("open");
        app.tell(&format!("connect {name} {to}")).expect("connect");
        assert_eq!(app.tell(&format!("ask {name}")).expect("ask"), "A", "{name}");
    }
    app
}

fn family_of(address: &str) -> &'static str {
    if address.starts_with('[') { "v6" } else { "v4" }
}

fn check_move(case: &Case) {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, case);
    let (before, neighbour) = (show(&mut app, "moved"), show(&mut app, "neighbour"));
    assert_eq!(before.peer, Some(case.vip.parse().expect("address")), "the application sees the VIP");

    let event = Instant::now();
    rig.point_vips_at(Site::B).expect("change");
    let moved = rig.move_stale();
    let took = event.elapsed();
    println!("event to moved: {:.3} ms", took.as_secs_f64() * 1e3);
    assert_eq!(moved.expect("move"), [before.cookie]);

    assert_eq!(app.tell("ask moved").expect("ask"), "B", "the new backend answers");
    assert_eq!(show(&mut app, "moved"), before, "cookie, own address and VIP stay");
    assert_eq!(show(&mut app, "neighbour"), neighbour, "the neighbour is untouched");
    assert_eq!(app.tell("ask neighbour").expect("ask"), "A");
    let records = rig.list().expect("list");
    assert_eq!(records.len(), 1, "{records:?}");
    let Record { tgid, netns, backend, .. } = records[0].record;
    assert_eq!((tgid, netns), (app.pid(), rig.cookie(case.place).expect("cookie")), "the owner stays");
    assert_ne!(backend, 0);
    assert!(rig.move_stale().expect("move").is_empty(), "nothing is left to move");
}

#[test]
fn an_ipv4_socket_of_a_pod_is_moved() {
    check_move(&Case::V4);
}

#[test]
fn an_ipv6_socket_of_a_pod_is_moved() {
    check_move(&Case { socket: "v6", vip: "[fd96::10]:53", neighbour: "[fd77::11]:5300", ..Case::V4 });
}

#[test]
fn an_ipv6_socket_that_dialled_a_mapped_address_is_moved() {
    check_move(&Case { socket: "v6", vip: "[::ffff:10.96.0.10]:53", ..Case::V4 });
}

#[test]
fn a_bound_socket_is_moved() {
    check_move(&Case { socket: "10.77.0.2:4053", ..Case::V4 });
    check_move(&Case { socket: "[fd77::2]:4053", vip: "[fd96::10]:53", ..Case::V4 });
}

#[test]
fn a_socket_in_the_agents_own_namespace_is_moved() {
    check_move(&Case { place: Place::Node, ..Case::V4 });
    check_move(&Case { place: Place::Node, socket: "v6", vip: "[fd96::10]:53", ..Case::V4 });
}

#[test]
fn a_socket_of_a_process_in_a_user_namespace_is_moved() {
    let own = std::fs::read_link("/proc/self/ns/user").expect("own namespace");
    let rig = Rig::new().expect("rig");
    let mut app = rig.app(Place::Pod, Shell::UserNamespace);
    app.tell("open probe v4").expect("the application runs");
    let other = std::fs::read_link(format!("/proc/{}/ns/user", app.pid())).expect("its namespace");
    assert_ne!(own, other);
    check_move(&Case { shell: Shell::UserNamespace, ..Case::V4 });
}

#[test]
fn a_socket_of_a_process_with_a_seccomp_filter_is_moved() {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, &Case::V4);
    app.tell("lock").expect("lock");
    let refused = app.tell("connect moved 10.96.0.10:53").expect_err("the filter is in force");
    assert!(refused.to_string().contains("Operation not permitted"), "{refused:#}");
    rig.point_vips_at(Site::B).expect("change");
    assert_eq!(rig.move_stale().expect("move").len(), 1);
    assert_eq!(app.tell("ask moved").expect("ask"), "B");
}

#[test]
fn without_a_move_the_old_backend_keeps_the_socket() {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, &Case::V4);
    rig.point_vips_at(Site::B).expect("change");
    assert_eq!(app.tell("ask moved").expect("ask"), "A", "the control: only the move changes the backend");
}

#[test]
fn a_socket_waits_at_the_vip_while_there_is_no_backend() {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, &Case::V4);
    let before = show(&mut app, "moved");
    rig.point_vips_at(Site::Nowhere).expect("change");
    assert_eq!(rig.move_stale().expect("move"), [before.cookie]);
    assert_eq!(show(&mut app, "moved"), before);
    assert_eq!(rig.list().expect("list")[0].record.backend, 0);
    rig.point_vips_at(Site::B).expect("change");
    assert_eq!(rig.move_stale().expect("move"), [before.cookie]);
    assert_eq!(app.tell("ask moved").expect("ask"), "B");
    assert_eq!(show(&mut app, "moved"), before);
}

#[test]
fn a_socket_that_its_application_took_elsewhere_is_left_alone() {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, &Case::V4);
    for (name, step) in [("away", "connect away 10.77.0.11:5300"), ("idle", "disconnect idle")] {
        app.tell(&format!("open {name} v4")).expect("open");
        app.tell(&format!("connect {name} 10.96.0.10:53")).expect("connect");
        app.tell(step).expect("leave the VIP");
    }
    let before = ["away", "idle"].map(|name| show(&mut app, name));
    let moved = show(&mut app, "moved").cookie;
    rig.point_vips_at(Site::B).expect("change");
    assert_eq!(rig.move_stale().expect("move"), [moved]);
    assert_eq!(["away", "idle"].map(|name| show(&mut app, name)), before);
    assert_eq!(before[1].peer, None);
    assert_eq!(app.tell("ask away").expect("ask"), "A");
}

#[test]
fn every_record_of_every_namespace_is_listed_once() {
    let rig = Rig::new().expect("rig");
    let mut expected = Vec::new();
    let mut apps = [Place::Pod, Place::Node].map(|place| rig.app(place, Shell::Bare));
    for app in &mut apps {
        let cookies = app.tell(&format!("crowd {} 10.96.0.10:53", CROWD / 2)).expect("crowd");
        expected.extend(cookies.split(' ').map(|cookie| cookie.parse::<u64>().expect("cookie")));
    }
    let started = Instant::now();
    let mut listed: Vec<u64> = rig.list().expect("list").iter().map(|it| it.cookie).collect();
    println!("{} records listed in {:.3} ms", listed.len(), started.elapsed().as_secs_f64() * 1e3);
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(expected.len(), CROWD);
    assert_eq!(listed, expected);

    rig.point_vips_at(Site::B).expect("change");
    let started = Instant::now();
    assert_eq!(rig.move_stale().expect("move").len(), CROWD);
    println!("{CROWD} sockets moved in {:.3} ms", started.elapsed().as_secs_f64() * 1e3);
}

#[test]
fn a_process_that_has_gone_is_told_from_a_socket_that_has() {
    let rig = Rig::new().expect("rig");
    let mut app = start(&rig, &Case::V4);
    let (pid, cookie) = (app.pid(), show(&mut app, "moved").cookie);
    let taken = |cookie| {
        let mut taken = 0;
        take_sockets(pid, &[cookie].into(), |_, _| taken += 1).map(|()| taken)
    };
    assert_eq!(taken(u64::MAX).expect("search"), 0);
    assert_eq!(taken(cookie).expect("search"), 1);
    drop(app);
    assert!(matches!(taken(cookie), Err(PidfdError::Open { .. })));
    // The records go with the sockets, which the kernel frees after a grace period.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !rig.list().expect("list").is_empty() {
        assert!(Instant::now() < deadline, "the record outlives its socket");
        std::thread::sleep(Duration::from_millis(5));
    }
}
