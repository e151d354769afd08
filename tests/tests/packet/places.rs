//! Flows whose records want one place.

use std::net::{Ipv4Addr, SocketAddr};

use proxy_common::addr::{Port, Proto};
use proxy_common::flow::{End, FlowKey, Part};
use proxy_common::nat::{Settings, Timeouts};
use proxy_common::place::Owner;

use super::build::{Tcp, packet};
use super::rig::{Rig, SETTINGS};
use super::{Ends, families, next, settle};

fn end(at: SocketAddr) -> End {
    End::new(at.ip().into(), Port::new(at.port()))
}

/// The places of a client's records: of its requests, and of its replies.
fn places(client: SocketAddr, (vip, backend): (SocketAddr, SocketAddr)) -> [u32; 2] {
    [(Part::Forward, client, vip), (Part::Reply, backend, client)].map(|(part, from, to)| {
        Owner::new(&FlowKey::new(part, end(from), end(to), Proto::TCP)).expect("IPv4").place()
    })
}

/// Another client, whose requests want the same place, and whose replies another.
fn rival(client: SocketAddr, ends: (SocketAddr, SocketAddr)) -> SocketAddr {
    let [forward, reply] = places(client, ends);
    let all = (0x0b00_0000..).map(|host: u32| SocketAddr::new(Ipv4Addr::from(host).into(), client.port()));
    let is_rival = |rival: &SocketAddr| {
        let [its, its_reply] = places(*rival, ends);
        its == forward && its_reply != reply
    };
    all.take(10_000_000).find(is_rival).expect("one in 262 144 is")
}

/// An open connection of a client, which has a rival; and what both dial.
fn rivals() -> (Rig, [SocketAddr; 2], (SocketAddr, SocketAddr)) {
    let [ends, _] = families();
    let Ends { client, vip, backend, .. } = ends;
    let mut rig = ends.rig();
    settle(&mut rig, client, (vip, backend));
    (rig, [client, rival(client, (vip, backend))], (vip, backend))
}

/// Whether a request and its reply are translated in the middle of their connection.
fn goes_on(rig: &mut Rig, client: SocketAddr, (vip, backend): (SocketAddr, SocketAddr)) -> [bool; 2] {
    let of = |from, to| packet((from, to), Some(Tcp::Ack));
    let request = rig.run("shunt_arrive", &of(client, vip)).expect("a request runs");
    let reply = rig.run("shunt_leave", &of(backend, client)).expect("a reply runs");
    [request == next(of(client, backend)), reply == next(of(vip, client))]
}

#[test]
fn who_finds_its_place_taken_lies_elsewhere() {
    let (mut rig, [client, rival], (vip, backend)) = rivals();
    assert_eq!((rig.records().unwrap(), rig.elsewhere().unwrap()), ([2, 0], 0));
    settle(&mut rig, rival, (vip, backend));
    assert_eq!((rig.records().unwrap(), rig.elsewhere().unwrap()), ([4, 0], 1));
    let mut sweeper = rig.sweeper().unwrap();
    for _ in 0..5 {
        for client in [client, rival] {
            assert_eq!(goes_on(&mut rig, client, (vip, backend)), [true; 2], "{client}");
        }
        sweeper.round().unwrap();
    }
    // It stays where it is when the place becomes free.
    assert!(rig.forget(Part::Forward, client, vip).unwrap());
    assert_eq!(goes_on(&mut rig, rival, (vip, backend)), [true; 2]);
    assert_eq!((rig.records().unwrap(), rig.elsewhere().unwrap()), ([3, 0], 1));
}

#[test]
fn a_place_serves_another_only_a_round_after_it_was_freed() {
    let (mut rig, [_, rival], (vip, backend)) = rivals();
    let begins = |rig: &mut Rig| {
        settle(rig, rival, (vip, backend));
        let elsewhere = rig.elsewhere().unwrap();
        assert!(rig.forget(Part::Forward, rival, vip).unwrap());
        assert!(rig.forget(Part::Reply, backend, rival).unwrap());
        elsewhere
    };
    let mut sweeper = rig.sweeper().unwrap();
    let timeouts = Timeouts { tcp_open: 0, ..Timeouts::KERNEL };
    rig.write_settings(Settings { timeouts, ..SETTINGS }).unwrap();
    assert_eq!(sweeper.round().unwrap().removed, 2);
    rig.write_settings(SETTINGS).unwrap();
    assert_eq!(begins(&mut rig), 1, "whoever was reading may still be");
    sweeper.round().unwrap();
    assert_eq!(begins(&mut rig), 0);
}

#[test]
fn where_rounds_pass_without_a_sweep_nobody_looks_elsewhere() {
    // The control of the marks at places: the record is there, and is found again once the sweep has renewed its mark.
    let (mut rig, [_, rival], (vip, backend)) = rivals();
    settle(&mut rig, rival, (vip, backend));
    rig.pass_rounds(3).unwrap();
    assert_eq!(goes_on(&mut rig, rival, (vip, backend)), [false; 2]);
    rig.sweeper().unwrap().round().unwrap();
    assert_eq!(goes_on(&mut rig, rival, (vip, backend)), [true; 2]);
}
