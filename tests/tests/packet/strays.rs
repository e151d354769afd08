//! Packets that have no ports of their own, and packets that nobody serves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proxy_common::nat::Settings;
use proxy_common::reason::DropReason;

use super::build::{Tcp, error, packet, parts};
use super::rig::{Answer, SETTINGS};
use super::{Ends, families, next, settle, source};

fn router(of: SocketAddr) -> IpAddr {
    if of.is_ipv4() { [198, 51, 100, 1].into() } else { [0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1].into() }
}

#[test]
fn an_error_about_a_reply_gets_to_the_backend() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        let mut rig = ends.rig();
        settle(&mut rig, client, (vip, backend));
        let sent = packet((vip, client), Some(Tcp::Ack));
        let of_backend = packet((backend, client), Some(Tcp::Ack));
        let from = router(client);
        let answer = rig.run("shunt_arrive", &error(from, vip.ip(), &sent)).unwrap();
        assert_eq!(answer, next(error(from, backend.ip(), &of_backend)));
        // About somebody else's packet, it goes on as it is.
        let stranger = SocketAddr::new(client.ip(), 1);
        let other = error(from, vip.ip(), &packet((vip, stranger), Some(Tcp::Ack)));
        assert_eq!(rig.run("shunt_arrive", &other).unwrap(), next(other));
    }
}

#[test]
fn an_error_about_a_request_names_what_the_client_has_asked_for() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        for is_backend in [true, false] {
            let mut rig = ends.rig();
            settle(&mut rig, client, (vip, backend));
            let got = packet((client, backend), Some(Tcp::Ack));
            let sent = packet((client, vip), Some(Tcp::Ack));
            // The backend itself goes by the VIP's name; a router on the way keeps its own.
            let (from, shown) =
                if is_backend { (backend.ip(), vip.ip()) } else { (router(client), router(client)) };
            let answer = rig.run("shunt_leave", &error(from, client.ip(), &got)).unwrap();
            assert_eq!(answer, next(error(shown, client.ip(), &sent)));
        }
    }
}

#[test]
fn errors_between_a_backend_that_sees_the_node_and_the_client_pass_the_other_source() {
    let with = |is_masqueraded| families().map(|ends| (ends, is_masqueraded));
    for (ends, is_masqueraded) in [false, true].into_iter().flat_map(with) {
        let Ends { client, vip, backend, node, .. } = ends;
        let mut rig = ends.rig();
        if is_masqueraded {
            rig.write_settings(Settings { masquerades: Settings::masquerading(true, 0), ..SETTINGS })
                .unwrap();
            rig.set_device_of_pods(node.ip()).unwrap();
        } else {
            rig.set_device(Some(node.ip())).unwrap();
        }
        rig.own(node.ip()).unwrap();
        rig.run("shunt_arrive", &packet((client, vip), None)).unwrap();
        let left = rig.run("shunt_leave", &packet((client, backend), None)).unwrap();
        let snat = source(&left, node.ip());
        let sent = packet((snat, backend), None);
        assert_eq!(left, next(sent.clone()));
        // The remote node's router says that the backend is not to be reached; the client is told about its VIP.
        let from = router(client);
        let inside = error(from, client.ip(), &packet((client, backend), None));
        assert_eq!(rig.run("shunt_arrive", &error(from, node.ip(), &sent)).unwrap(), next(inside.clone()));
        let outside = error(from, client.ip(), &packet((client, vip), None));
        assert_eq!(rig.run("shunt_leave", &inside).unwrap(), next(outside));
        // The client's router says the same of a reply; the backend knows the SNAT address only.
        let about_reply = error(from, vip.ip(), &packet((vip, client), None));
        let inside = error(from, backend.ip(), &packet((backend, client), None));
        assert_eq!(rig.run("shunt_arrive", &about_reply).unwrap(), next(inside.clone()));
        let outside = error(from, backend.ip(), &packet((backend, snat), None));
        assert_eq!(rig.run("shunt_leave", &inside).unwrap(), next(outside));
    }
}

/// A client that also asks the backend itself has another port there, see `nat::direct`: whoever reports an error about what the
/// backend answers knows the client's own port only. No frontend has the backend's address.
#[test]
fn an_error_about_a_direct_answer_names_the_port_that_the_backend_knows() {
    for ends in families() {
        let Ends { client, vip, backend, node, .. } = ends;
        let mut rig = ends.rig();
        rig.set_device(Some(node.ip())).unwrap();
        let (from, asked) = (router(client), packet((client, backend), None));
        let about = error(from, backend.ip(), &packet((backend, client), None));
        // While nobody asks for himself, what is for no frontend is let go at once.
        assert_eq!(rig.run("shunt_arrive", &about).unwrap(), next(about.clone()));
        rig.run("shunt_arrive", &packet((client, vip), None)).unwrap();
        rig.run("shunt_leave", &packet((backend, client), None)).unwrap();
        let sent = rig.run("shunt_arrive", &asked).unwrap();
        let inside = source(&sent, client.ip());
        assert!(inside != client && sent == next(packet((inside, backend), None)), "{inside}");
        let answer = rig.run("shunt_leave", &packet((backend, inside), None)).unwrap();
        assert_eq!(answer, next(packet((backend, client), None)));
        let told = error(from, backend.ip(), &packet((backend, inside), None));
        assert_eq!(rig.run("shunt_arrive", &about).unwrap(), next(told));
    }
}

#[test]
fn later_parts_of_a_datagram_follow_the_first() {
    let [ends, _] = families();
    let Ends { client, vip, backend, .. } = ends;
    let mut rig = ends.rig();
    let [first, then] = parts((client, vip), 7);
    // Nobody knows yet where it goes.
    assert_eq!(rig.run("shunt_arrive", &then).unwrap(), next(then.clone()));
    let [first_inside, then_inside] = parts((client, backend), 7);
    let answer = rig.run("shunt_arrive", &first).unwrap();
    // The checksum covers the whole datagram, of which the first part shows a piece: all else is as it should be.
    let Answer::Next(changed) = answer else { panic!("{answer:?}") };
    assert_eq!(changed[..40], first_inside[..40]);
    assert_eq!(rig.run("shunt_arrive", &then).unwrap(), next(then_inside));
    // Of another datagram it is not; where the address is a Service's and nobody else's, no stack could put it together.
    let [_, other] = parts((client, vip), 8);
    assert_eq!(rig.run("shunt_arrive", &other).unwrap(), next(other.clone()));
    rig.own_vip(vip.ip()).unwrap();
    assert_eq!(rig.run("shunt_arrive", &other).unwrap(), Answer::Dropped);
    assert_eq!(rig.dropped(DropReason::LostFragment).unwrap(), 1);
    // The reply is cut in the same way.
    let [first, then] = parts((backend, client), 9);
    rig.run("shunt_leave", &first).unwrap();
    assert_eq!(rig.run("shunt_leave", &then).unwrap(), next(parts((vip, client), 9)[1].clone()));
}

/// What an answer shows of itself: who sends to whom, and its protocol.
fn seen(answer: &Answer) -> (IpAddr, IpAddr, u8) {
    let Answer::Back(bytes) = answer else { panic!("{answer:?}") };
    assert_eq!(bytes[..12], [[2; 6], [4; 6]].concat(), "the frame is not turned round");
    let ip = &bytes[14..];
    if ip[0] >> 4 == 4 {
        let of = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes"));
        (of(12), of(16), ip[9])
    } else {
        let of = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen bytes"));
        (of(8), of(24), ip[6])
    }
}

#[test]
fn what_nobody_serves_is_refused_so_many_times_a_second() {
    for ends in families() {
        let Ends { client, vip, .. } = ends;
        let mut rig = ends.rig();
        rig.serve_nobody().unwrap();
        let icmp = if client.is_ipv4() { 1 } else { 58 };
        for (tcp, proto) in [(Some(Tcp::Syn), 6), (None, icmp)] {
            let answer = rig.run("shunt_arrive", &packet((client, vip), tcp)).unwrap();
            assert_eq!(seen(&answer), (vip.ip(), client.ip(), proto));
        }
        assert_eq!(rig.dropped(DropReason::NoEndpoints).unwrap(), 2);
        // So many on each CPU in a second, of which two or three may be begun, and whatever else is dropped; the next has its own.
        rig.set_refusals_per_second(50).unwrap();
        for _ in 0..2 {
            let before = rig.dropped(DropReason::RefusalLimit).unwrap();
            let answers = (0..1_000).map(|_| rig.run("shunt_arrive", &packet((client, vip), None)).unwrap());
            let refused = answers.filter(|answer| *answer != Answer::Dropped).count();
            assert!((40..=500).contains(&refused), "{refused}");
            let dropped = rig.dropped(DropReason::RefusalLimit).unwrap() - before;
            assert_eq!(dropped, 1_000 - refused as u64);
            std::thread::sleep(Duration::from_millis(1_100));
        }
        let before = rig.dropped(DropReason::RefusalLimit).unwrap();
        rig.set_refusals_per_second(0).unwrap();
        let answer = rig.run("shunt_arrive", &packet((client, vip), None)).unwrap();
        assert_eq!(answer, Answer::Dropped);
        assert_eq!(rig.dropped(DropReason::RefusalLimit).unwrap(), before + 1);
    }
}
