//! Packets of other kinds than most: SCTP, datagrams without a checksum; and flows to backends on other nodes that lose a record.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_common::flow::Part;
use proxy_common::nat::REFRESH;
use proxy_common::reason::DropReason;

use super::build::{Tcp, packet, sctp, unchecked};
use super::rig::{Answer, Rig};
use super::{Ends, families, next, source};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const DATA: u8 = 0;
const ABORT: u8 = 6;

#[test]
fn sctp_goes_to_a_backend_of_the_same_port_and_back() {
    for ends in families() {
        let Ends { client, backend, node, .. } = ends;
        let vip = SocketAddr::new(ends.vip.ip(), backend.port());
        for is_remote in [false, true] {
            let mut rig = Rig::new(vip, backend).unwrap();
            rig.insert_frontend_of_sctp(vip).unwrap();
            if is_remote {
                rig.set_device(Some(node.ip())).unwrap();
                rig.own(node.ip()).unwrap();
            }
            for (asks, answers) in [(INIT, INIT_ACK), (DATA, DATA)] {
                let arrived = rig.run("shunt_arrive", &sctp((client, vip), asks)).unwrap();
                assert_eq!(arrived, next(sctp((client, backend), asks)));
                let left = rig.run("shunt_leave", &sctp((client, backend), asks)).unwrap();
                // It keeps its port everywhere.
                let seen = if is_remote { SocketAddr::new(node.ip(), client.port()) } else { client };
                assert_eq!(left, next(sctp((seen, backend), asks)));
                let returned = rig.run("shunt_arrive", &sctp((backend, seen), answers)).unwrap();
                assert_eq!(returned, next(sctp((backend, client), answers)));
                let reply = rig.run("shunt_leave", &sctp((backend, client), answers)).unwrap();
                assert_eq!(reply, next(sctp((vip, client), answers)));
            }
        }
    }
}

#[test]
fn sctp_is_turned_away_where_the_backend_has_another_port_and_led_elsewhere_after_an_abort() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        rig.insert_frontend_of_sctp(vip).unwrap();
        assert_eq!(rig.run("shunt_arrive", &sctp((client, vip), INIT)).unwrap(), Answer::Dropped);
        assert_eq!(rig.dropped(DropReason::SctpPort).unwrap(), 1);

        let vip = SocketAddr::new(vip.ip(), backend.port());
        rig.insert_frontend_of_sctp(vip).unwrap();
        let enters = |rig: &mut Rig, chunk| rig.run("shunt_arrive", &sctp((client, vip), chunk)).unwrap();
        for chunk in [INIT, DATA] {
            assert_eq!(enters(&mut rig, chunk), next(sctp((client, backend), chunk)));
            rig.run("shunt_leave", &sctp((backend, client), chunk)).unwrap();
        }
        let other = SocketAddr::new(
            if client.is_ipv4() {
                [10, 244, 1, 3].into()
            } else {
                [0xfd00_u16, 0x244, 1, 0, 0, 0, 0, 3].into()
            },
            backend.port(),
        );
        rig.replace_backend(other).unwrap();
        for chunk in [DATA, INIT, ABORT] {
            assert_eq!(enters(&mut rig, chunk), next(sctp((client, backend), chunk)), "it drains");
        }
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(enters(&mut rig, INIT), next(sctp((client, other), INIT)));
    }
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    let [ends, _] = families();
    let Ends { client, vip, backend, node, .. } = ends;
    let mut rig = ends.rig();
    rig.set_device(Some(node.ip())).unwrap();
    rig.own(node.ip()).unwrap();
    let arrived = rig.run("shunt_arrive", &unchecked((client, vip))).unwrap();
    assert_eq!(arrived, next(unchecked((client, backend))));
    let left = rig.run("shunt_leave", &unchecked((client, backend))).unwrap();
    let snat = source(&left, node.ip());
    assert_eq!(left, next(unchecked((snat, backend))));
    let returned = rig.run("shunt_arrive", &unchecked((backend, snat))).unwrap();
    assert_eq!(returned, next(unchecked((backend, client))));
    let reply = rig.run("shunt_leave", &unchecked((backend, client))).unwrap();
    assert_eq!(reply, next(unchecked((vip, client))));
}

#[test]
fn of_a_flow_to_another_node_any_lost_record_is_made_anew_by_the_others() {
    for ends in families() {
        let Ends { client, vip, backend, node, .. } = ends;
        let mut rig = ends.rig();
        rig.set_device(Some(node.ip())).unwrap();
        rig.own(node.ip()).unwrap();
        let asks = |rig: &mut Rig, tcp| {
            rig.run("shunt_arrive", &packet((client, vip), Some(tcp))).unwrap();
            rig.run("shunt_leave", &packet((client, backend), Some(tcp))).unwrap()
        };
        let snat = source(&asks(&mut rig, Tcp::Syn), node.ip());
        let answers = |rig: &mut Rig, tcp| {
            let returned = rig.run("shunt_arrive", &packet((backend, snat), Some(tcp))).unwrap();
            assert_eq!(returned, next(packet((backend, client), Some(tcp))));
            let reply = rig.run("shunt_leave", &packet((backend, client), Some(tcp))).unwrap();
            assert_eq!(reply, next(packet((vip, client), Some(tcp))));
        };
        answers(&mut rig, Tcp::SynAck);
        let sent = next(packet((snat, backend), Some(Tcp::Ack)));
        assert_eq!(asks(&mut rig, Tcp::Ack), sent);
        let lost =
            [(Part::Forward, client, vip), (Part::Reply, backend, client), (Part::Return, backend, snat)];
        for (part, from, to) in lost {
            assert!(rig.forget(part, from, to).unwrap(), "{part:?} was there");
            // A flow's packets look after all of its records now and then.
            std::thread::sleep(2 * Duration::from_nanos(REFRESH));
            // What the backend sends needs the other two alone; without its own record only the client can bring it back.
            if part == Part::Forward {
                answers(&mut rig, Tcp::Ack);
            }
            assert_eq!(asks(&mut rig, Tcp::Ack), sent, "{part:?}");
            answers(&mut rig, Tcp::Ack);
            assert!(lost.iter().all(|(part, from, to)| rig.has(*part, *from, *to).unwrap()), "{part:?}");
        }
    }
}
