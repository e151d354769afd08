//! A client asks a backend both through a frontend and itself, from one port.

use super::*;

const CLIENT: (u8, u16) = (0, 40_000);

fn client() -> End {
    end(200, CLIENT.0, CLIENT.1)
}

/// What a case is about: the protocol, whether the backend is on this node, and whether the filter lets in what is for backends.
type Case = (Proto, bool, bool);

/// One connection through the first frontend.
fn connected((proto, is_on_node, is_blurred): Case) -> (Node, Trip) {
    let node = Node::new(2, proto);
    let word = Some(ViewWord::random(u32::from(!is_on_node), 1));
    let tables = Tables { word, gone: RefCell::default(), backends: 2, affinity: 0, is_blurred };
    let node = Node { tables, ..node };
    let seen = node.sends(client(), vip(0), SYN).unwrap();
    assert_eq!(is_local(seen.dst), is_on_node);
    assert_eq!(node.answers(seen, SYN | ACK), Trip { src: vip(0), dst: client() });
    node.sends(client(), vip(0), ACK).unwrap();
    (node, seen)
}

/// The client's own packet to a backend, where it leaves.
fn asks(node: &Node, to: End, tcp: u8) -> Trip {
    let trip = Trip { src: client(), dst: to };
    match node.arrives(trip, tcp) {
        Ok(changed) => node.exits((changed, true), tcp, is_local(to)),
        Err(Action::Pass) => node.leaves(trip, tcp, is_local(to)),
        Err(other) => panic!("{other:?}"),
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let protos = [Proto::TCP, Proto::UDP].into_iter();
    let places = protos.flat_map(|proto| [(proto, true), (proto, false)]);
    places.flat_map(|(proto, is_on_node)| [(proto, is_on_node, false), (proto, is_on_node, true)])
}

#[test]
fn both_are_answered_as_they_asked() {
    for case in cases() {
        let (mut node, seen) = connected(case);
        node.now += SECOND;
        let backend = seen.dst;
        let other = asks(&node, backend, SYN);
        assert_ne!(other, seen, "{case:?}: the backend takes one for the other");
        assert_eq!(other.dst, backend);
        for _ in 0..3 {
            node.now += SECOND;
            assert_eq!(node.answers(other, SYN | ACK), Trip { src: backend, dst: client() });
            assert_eq!(asks(&node, backend, ACK), other);
            assert_eq!(node.sends(client(), vip(0), ACK), Ok(seen));
            let inside = Trip { src: client(), dst: backend };
            let behind = node.enters(inside, ACK, (true, false));
            assert_eq!(behind, Err(Action::Pass), "{case:?}: sent on, it is not taken for the other");
            assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: client() });
        }
        // A SYN that is sent again is of the same connection.
        assert_eq!(asks(&node, backend, SYN), other);
    }
}

#[test]
fn once_the_first_is_over_the_client_keeps_its_port() {
    for case in cases().filter(|(proto, ..)| *proto == Proto::TCP) {
        for ends in [&[(true, RST)][..], &[(false, RST | ACK)], &[(true, FIN | ACK), (false, FIN | ACK)]] {
            let (node, seen) = connected(case);
            for (is_client, flags) in ends {
                if *is_client {
                    node.sends(client(), vip(0), *flags).unwrap();
                } else {
                    node.answers(seen, *flags);
                }
            }
            let own = Trip { src: client(), dst: seen.dst };
            assert_eq!(asks(&node, seen.dst, SYN), own, "{ends:?}");
            assert_eq!(node.records.keys(), [], "{ends:?}");
            assert_eq!(node.answers(own, SYN | ACK), Trip { src: seen.dst, dst: client() });
            assert!(!node.records.has_direct.get());
        }
    }
}

/// Others may have the records of what is over: they keep them.
#[test]
fn what_others_have_by_now_stays_theirs() {
    // The client's port through the frontend leads to another backend by now.
    let (mut node, first) = connected((Proto::TCP, true, false));
    node.sends(client(), vip(0), RST).unwrap();
    node.tables.word = Some(ViewWord::random(1, 1));
    node.now += SECOND;
    let second = node.sends(client(), vip(0), SYN).unwrap();
    assert_ne!(second.dst, first.dst);
    node.now += SECOND;
    assert_eq!(asks(&node, first.dst, SYN), first, "nothing is left of the first");
    assert_eq!(node.answers(first, SYN | ACK), Trip { src: first.dst, dst: client() });
    assert_eq!(node.sends(client(), vip(0), ACK), Ok(second));
    assert_eq!(node.answers(second, ACK), Trip { src: vip(0), dst: client() });

    // Its port towards the remote backend is another client's.
    let (mut node, first) = connected((Proto::TCP, false, false));
    node.sends(client(), vip(0), RST).unwrap();
    node.now += 2 * SECOND;
    let other = end(200, 1, 40_000);
    let second = node.takes_source(other, vip(0), first);
    node.answers(second, SYN | ACK);
    assert_eq!(asks(&node, first.dst, SYN).src, client());
    assert_eq!(node.answers(second, ACK), Trip { src: vip(0), dst: other });
}

#[test]
fn while_one_side_may_still_send_both_live() {
    for ends in [true, false] {
        let (mut node, seen) = connected((Proto::TCP, true, false));
        if ends {
            node.sends(client(), vip(0), FIN | ACK).unwrap();
        } else {
            node.answers(seen, FIN | ACK);
        }
        node.now += SECOND;
        let other = asks(&node, seen.dst, SYN);
        assert_ne!(other, seen);
        assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: client() });
        assert_eq!(node.answers(other, SYN | ACK), Trip { src: seen.dst, dst: client() });
    }
}

/// As behind a bridge that is hooked too: what one device has sent on comes in by another.
#[test]
fn what_was_sent_on_is_not_taken_for_the_clients_own() {
    for (proto, hints) in [Proto::TCP, Proto::UDP].into_iter().flat_map(|proto| {
        // By its mark, or by the records where something else is in that place.
        [(proto, (true, false)), (proto, (false, true))]
    }) {
        let mut node = Node::new(1, proto);
        let pauses = [0, REFRESH / 2, REFRESH - 1, REFRESH - 1, REFRESH / 3, REFRESH - 1, REFRESH, SECOND];
        let all = [SYN, ACK].into_iter().flat_map(|tcp| pauses.map(|pause| (tcp, pause)));
        for (count, (tcp, pause)) in all.chain(pauses.map(|pause| (ACK, pause))).enumerate() {
            node.now += pause;
            let inside = node.arrives(Trip { src: client(), dst: vip(0) }, tcp).unwrap();
            // It takes a while to the other device.
            node.now += 1_000;
            assert_eq!(node.enters(inside, tcp, hints), Err(Action::Pass), "{proto} {count} {hints:?}");
            if count % 3 == 2 {
                node.now += REFRESH / 4;
                node.answers(inside, ACK);
            }
        }
    }
}

#[test]
fn both_are_answered_also_while_the_first_is_busy() {
    for case in cases() {
        let (node, seen) = connected(case);
        let other = asks(&node, seen.dst, SYN);
        assert_ne!(other, seen, "{case:?}");
        assert_eq!(node.answers(other, SYN | ACK), Trip { src: seen.dst, dst: client() });
        assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: client() });
    }
}

/// A connection that had another port is over, and so is what it had that for.
#[test]
fn the_next_connection_begins_anew() {
    let (mut node, seen) = connected((Proto::TCP, true, false));
    let other = asks(&node, seen.dst, SYN);
    node.answers(other, SYN | ACK);
    for tcp in [ACK, FIN | ACK] {
        assert_eq!(asks(&node, seen.dst, tcp), other);
    }
    node.answers(other, FIN | ACK);
    node.sends(client(), vip(0), RST).unwrap();
    node.now += SECOND;
    let own = Trip { src: client(), dst: seen.dst };
    assert_eq!(asks(&node, seen.dst, SYN), own);
    assert_eq!(node.answers(own, SYN | ACK), Trip { src: seen.dst, dst: client() });
    assert_eq!(asks(&node, seen.dst, ACK), own);
}

/// A router's error about an answer shows the client's own port, and the backend knows the other.
#[test]
fn the_backend_is_told_of_errors_by_the_port_that_it_knows() {
    let (node, seen) = connected((Proto::TCP, true, false));
    let other = asks(&node, seen.dst, SYN);
    let sent = node.answers(other, SYN | ACK);
    let (outer, inner) = (node.headers(Trip { src: end(9, 9, 0), dst: sent.src }), node.headers(sent));
    let report = Report { outer: &outer, inner: &inner, now: node.now };
    let mut work = Work::EMPTY;
    let change = error_arrives(&node.records, &report, &mut work).unwrap();
    assert_eq!((change.quoted_side, change.quoted), (Side::Source, other.dst));
    assert_eq!((change.quoted_far_port, change.addr), (other.src.port, other.dst.addr));
}

#[test]
fn nobodys_ports_of_sctp_are_changed() {
    let mut node = Node::new(1, Proto::SCTP);
    let reply = FlowKey::new(Part::Reply, backend(0), client(), Proto::SCTP);
    let flow = Flow { becomes: vip(0), port: client().port, used: node.now, ..Flow::EMPTY };
    assert!(node.records.put(&reply, &flow));
    node.records.has_direct.set(true);
    node.now += SECOND;
    assert_eq!(node.arrives(Trip { src: client(), dst: backend(0) }, 0), Err(Action::Pass));
}

#[test]
fn those_who_share_no_flow_are_let_go() {
    for (proto, is_on_node, is_blurred) in cases() {
        let (mut node, seen) = connected((proto, is_on_node, is_blurred));
        node.now += SECOND;
        let other = end(200, 7, 40_000);
        assert_eq!(node.arrives(Trip { src: other, dst: seen.dst }, SYN), Err(Action::Pass));
        assert_eq!(node.arrives(Trip { src: client(), dst: end(1, 77, 8080) }, SYN), Err(Action::Pass));
        // Replies are no questions.
        let reply = Trip { src: seen.dst, dst: seen.src };
        if is_on_node {
            assert_eq!(node.arrives(reply, SYN | ACK), Err(Action::Pass));
        }
        assert_eq!(node.records.keys().len(), if is_on_node { 2 } else { 3 });
    }
}

#[test]
fn nobody_is_dropped_but_by_the_guard_of_floods() {
    let (mut node, seen) = connected((Proto::TCP, true, false));
    node.now += SECOND;
    node.records.is_flooded.set(true);
    let flood = crate::reason::DropReason::Flood;
    let asked = node.arrives(Trip { src: client(), dst: seen.dst }, SYN);
    assert_eq!(asked, Err(Action::Drop(SERVICE, flood)));
}
