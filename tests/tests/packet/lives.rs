//! How long records live, and what becomes of a flow that has lost one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_common::flow::Part;
use proxy_common::nat::{REFRESH, Settings, Timeouts};
use shunt::flows::Swept;

use super::build::{Tcp, packet};
use super::rig::{Rig, SETTINGS};
use super::{Ends, families, next, settle};

#[test]
fn the_sweep_keeps_what_lives_and_removes_what_is_over() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        settle(&mut rig, client, (vip, backend));
        let stranger = SocketAddr::new(client.ip(), 9);
        rig.run("shunt_arrive", &packet((stranger, vip), Some(Tcp::Syn))).unwrap();
        let mut sweeper = rig.sweeper().unwrap();
        let lives = Swept { settled: 1, opening: 1, records: 4, removed: 0, direct: 0 };
        assert_eq!(sweeper.round().unwrap(), lives);
        // It has not been removed while it lives.
        assert_eq!(sweeper.round().unwrap(), lives);
        let timeouts = Timeouts { tcp_open: 0, ..Timeouts::KERNEL };
        rig.write_settings(Settings { timeouts, ..SETTINGS }).unwrap();
        let over = Swept { settled: 0, opening: 1, records: 2, removed: 2, direct: 0 };
        assert_eq!(sweeper.round().unwrap(), over);
        assert_eq!(sweeper.round().unwrap(), Swept { removed: 0, ..over });
    }
}

#[test]
fn a_mark_lasts_as_long_as_the_sweep_renews_it() {
    let [ends, _] = families();
    let Ends { client, vip, backend, .. } = ends;
    let mut rig = ends.rig();
    settle(&mut rig, client, (vip, backend));
    let reply = packet((backend, client), Some(Tcp::Ack));
    let known = next(packet((vip, client), Some(Tcp::Ack)));
    let mut sweeper = rig.sweeper().unwrap();
    for _ in 0..5 {
        sweeper.round().unwrap();
        assert_eq!(rig.run("shunt_leave", &reply).unwrap(), known);
    }
    // An agent that died in the middle of a round, and the first round of the next.
    rig.pass_rounds(2).unwrap();
    assert_eq!(rig.run("shunt_leave", &reply).unwrap(), known);
    rig.sweeper().unwrap().round().unwrap();
    // The control: where rounds pass without a sweep it is forgotten, although its record is there.
    rig.pass_rounds(3).unwrap();
    assert_eq!(rig.run("shunt_leave", &reply).unwrap(), next(reply.clone()));
    rig.sweeper().unwrap().round().unwrap();
    assert_eq!(rig.run("shunt_leave", &reply).unwrap(), known);
}

#[test]
fn a_lost_record_is_made_anew_by_the_other() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        settle(&mut rig, client, (vip, backend));
        let ack = Some(Tcp::Ack);
        let (request, inside) = (packet((client, vip), ack), packet((client, backend), ack));
        let (reply, outside) = (packet((backend, client), ack), packet((vip, client), ack));
        // A flow's packets look after all of its records now and then.
        let lose = |rig: &mut Rig, (part, from, to)| {
            assert!(rig.forget(part, from, to).unwrap());
            std::thread::sleep(2 * Duration::from_nanos(REFRESH));
        };
        lose(&mut rig, (Part::Reply, backend, client));
        assert_eq!(rig.run("shunt_arrive", &request).unwrap(), next(inside.clone()));
        assert_eq!(rig.run("shunt_leave", &reply).unwrap(), next(outside.clone()));
        lose(&mut rig, (Part::Forward, client, vip));
        assert_eq!(rig.run("shunt_leave", &reply).unwrap(), next(outside));
        assert_eq!(rig.run("shunt_arrive", &request).unwrap(), next(inside));
        assert!(!rig.forget(Part::Return, backend, client).unwrap(), "no other source was needed");
    }
}

#[test]
fn a_pod_is_switched_to_whom_its_replies_come_from() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        settle(&mut rig, client, (vip, backend));
        let (request, inside) =
            (packet((client, vip), Some(Tcp::Ack)), packet((client, backend), Some(Tcp::Ack)));
        assert_eq!(rig.run("shunt_arrive", &request).unwrap(), next(inside.clone()));
        // A neighbour on the bridge, not the gateway that the request was sent to.
        let mut reply = packet((backend, client), Some(Tcp::Ack));
        reply[..12].copy_from_slice(&[[2; 6], [8; 6]].concat());
        rig.run_as_it_is("shunt_leave", &reply).unwrap();
        let mut switched = inside;
        switched[..6].copy_from_slice(&[8; 6]);
        assert_eq!(rig.run("shunt_arrive", &request).unwrap(), next(switched));
    }
}

#[test]
fn flows_that_are_too_many_lie_apart_until_their_clients_answer() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        rig.write_settings(Settings { open_at_once: 1, ..SETTINGS }).unwrap();
        let other = |port| SocketAddr::new(client.ip(), port);
        let (second, third) = (other(40_001), other(40_002));
        let begin = |rig: &mut Rig, client| {
            let answer = rig.run("shunt_arrive", &packet((client, vip), Some(Tcp::Syn))).unwrap();
            assert_eq!(answer, next(packet((client, backend), Some(Tcp::Syn))));
        };
        begin(&mut rig, client);
        assert_eq!((rig.records().unwrap(), rig.counts().unwrap()), ([2, 0], [0, 1]));
        begin(&mut rig, second);
        assert_eq!(rig.records().unwrap(), [2, 1], "the other record waits for the answer");
        let [apart, opening] = rig.counts().unwrap();
        assert!(apart > 0 && opening == 1, "{apart} {opening}");
        // The SYN comes again, and then the connection opens as any other does.
        settle(&mut rig, second, (vip, backend));
        assert_eq!(rig.records().unwrap(), [4, 0]);
        settle(&mut rig, client, (vip, backend));
        assert_eq!((rig.records().unwrap(), rig.counts().unwrap()[1]), ([4, 0], 0));
        // Two walks that find nothing apart take back that there is something: one may miss a record.
        let mut sweeper = rig.sweeper().unwrap();
        assert_eq!(
            sweeper.round().unwrap(),
            Swept { settled: 2, opening: 0, records: 4, removed: 0, direct: 0 }
        );
        assert!(rig.counts().unwrap()[0] >= apart, "it may have been put there just now");
        sweeper.round().unwrap();
        assert_eq!(rig.counts().unwrap(), [0, 0]);
        begin(&mut rig, third);
        begin(&mut rig, other(40_003));
        for _ in 0..3 {
            assert_eq!(
                sweeper.round().unwrap(),
                Swept { settled: 2, opening: 2, records: 7, removed: 0, direct: 0 }
            );
            assert!(rig.counts().unwrap()[0] > 0 && rig.counts().unwrap()[1] == 1, "some lie apart");
        }
        settle(&mut rig, other(40_003), (vip, backend));
        assert_eq!(rig.records().unwrap(), [8, 0]);
    }
}

/// Records of the main table; `SHUNT_SWEEP_RECORDS` says otherwise. The time is printed and not judged.
const RECORDS: u32 = 20_000;

#[test]
fn a_full_table_is_swept_in_one_round() {
    let records = std::env::var("SHUNT_SWEEP_RECORDS").map_or(RECORDS, |text| text.parse().unwrap());
    let [ends, _] = families();
    let mut rig = ends.rig();
    // What is over has been over for longer than the machine has run: an open connection lives for days.
    let timeouts = Timeouts { tcp_open: 60, ..Timeouts::KERNEL };
    rig.write_settings(Settings { timeouts, ..SETTINGS }).unwrap();
    rig.fill(records).unwrap();
    let mut sweeper = rig.sweeper().unwrap();
    let (begun, half) = (Instant::now(), u64::from(records / 2));
    let swept = sweeper.round().unwrap();
    println!("{records} records, half of them over: {:?}; {swept:?}", begun.elapsed());
    // What is removed while the walk pauses makes it miss a neighbour; the next round sees to that.
    assert!(swept.removed.abs_diff(half) < 100 && swept.records.abs_diff(half) < 100, "{swept:?}");
    sweeper.round().unwrap();
    let begun = Instant::now();
    let lives = Swept { settled: half / 2, opening: 0, records: half, removed: 0, direct: 0 };
    assert_eq!(sweeper.round().unwrap(), lives);
    println!("{half} records, none of them over: {:?}", begun.elapsed());
}
