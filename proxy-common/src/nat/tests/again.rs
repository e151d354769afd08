//! A client's port that is used again.

use super::*;

#[test]
fn a_port_that_is_used_again_begins_a_flow_a_moment_after_the_last_was_over() {
    for ends in [[false, true], [true, false]] {
        let (mut node, client, seen) = open(2);
        for is_client in ends {
            if is_client {
                node.sends(client, vip(0), ACK | FIN).unwrap();
            } else {
                node.answers(seen, ACK | FIN);
            }
        }
        let record = |node: &Node| {
            let key = FlowKey::new(Part::Forward, client, vip(0), Proto::TCP);
            node.records.get(&key).unwrap()
        };
        assert!(record(&node).is_over(), "{ends:?}");
        node.now += SECOND / 4;
        assert_eq!(node.sends(client, vip(0), SYN), Ok(seen), "the same goes on, and is not at its end");
        assert!(!record(&node).has(Flow::FINISHED | Flow::ENDED) && record(&node).has(Flow::SETTLED));
        node.sends(client, vip(0), ACK | FIN).unwrap();
        node.answers(seen, ACK | FIN);
        node.now += SECOND;
        node.sends(client, vip(0), SYN).unwrap();
        assert!(!record(&node).has(Flow::FINISHED | Flow::SETTLED), "{:?}", record(&node));
    }
}

/// An open connection of a client, with one of so many backends.
fn open(backends: u8) -> (Node, End, Trip) {
    connected(Node::new(backends, Proto::TCP))
}

/// The same with the one backend on another node.
fn open_to_remote() -> (Node, End, Trip) {
    let mut node = Node::new(2, Proto::TCP);
    node.tables.word = Some(ViewWord::random(1, 1));
    connected(node)
}

fn connected(node: Node) -> (Node, End, Trip) {
    let client = end(200, 0, 40_000);
    let seen = node.sends(client, vip(0), SYN).unwrap();
    node.answers(seen, SYN | ACK);
    node.sends(client, vip(0), ACK).unwrap();
    (node, client, seen)
}

/// Forged, or late: whatever is not of its window, the backend leaves it, and so does the flow.
#[test]
fn a_syn_in_the_middle_of_a_connection_is_for_the_backend_that_has_it() {
    const BACKENDS: u8 = 50;
    for (is_gone, before, pause) in [
        (false, ACK, 100 * SECOND),
        (true, ACK, 9 * SECOND),
        (false, RST, SECOND / 4),
        (true, RST, SECOND / 4),
        (false, ACK | FIN, 100 * SECOND),
        (true, ACK | FIN, 9 * SECOND),
    ] {
        let (mut node, client, seen) = open(BACKENDS);
        node.sends(client, vip(0), before).unwrap();
        if is_gone {
            let gone = (0..BACKENDS).find(|index| backend(*index) == seen.dst);
            node.tables.gone.borrow_mut().extend(gone);
        }
        node.now += pause;
        for tcp in [SYN, ACK] {
            assert_eq!(node.sends(client, vip(0), tcp), Ok(seen), "{is_gone} {before} {tcp}");
        }
        assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: client });
    }
}

#[test]
fn an_association_of_sctp_drains_and_whoever_asks_for_another_is_led_elsewhere() {
    let client = end(200, 0, 40_000);
    let elsewhere = Err(Action::Drop(SERVICE, DropReason::SctpPort));
    for (ends, is_gone, pause, goes_on) in [
        (&[][..], false, 100 * SECOND, true),
        (&[], true, 9 * SECOND, true),
        (&[], true, 10 * SECOND, false),
        (&[(true, RST)], false, SECOND, false),
        (&[(true, FIN), (false, FIN)], false, SECOND / 4, true),
        (&[(true, FIN), (false, FIN)], false, SECOND, false),
    ] {
        let mut node = Node::new(1, Proto::SCTP);
        associate(&node, client, 0);
        if is_gone {
            node.tables.gone.borrow_mut().push(0);
        }
        node.now += 20 * SECOND;
        let seen = node.sends(client, vip(0), 0).unwrap();
        assert_eq!(seen.dst, backend(0));
        for (is_client, flags) in ends {
            if *is_client {
                node.sends(client, vip(0), *flags).unwrap();
            } else {
                node.answers(seen, *flags);
            }
        }
        node.now += pause;
        let again = node.sends(client, vip(0), SYN);
        assert_eq!(again, if goes_on { Ok(seen) } else { elsewhere }, "{ends:?} {is_gone} {pause}");
    }
}

#[test]
fn a_connection_that_one_side_has_finished_keeps_its_port() {
    for both in [true, false] {
        let (mut node, client, seen) = open_to_remote();
        node.sends(client, vip(0), ACK | FIN).unwrap();
        if both {
            node.answers(seen, ACK | FIN);
        }
        node.now += 60 * SECOND;
        // Of few ports, so that another soon asks for this one.
        node.records.ports.set(Ports { first: seen.src.port.get(), count: 1 });
        let other = end(200, 1, 40_000);
        let got = node.arrives(Trip { src: other, dst: vip(0) }, SYN).unwrap();
        assert_eq!(node.passes((got, true), SYN), if both { Ok(seen) } else { Err(DropReason::NoPort) });
    }
}

#[test]
fn without_ports_set_aside_nobody_gets_one_that_is_none() {
    let mut node = Node::new(2, Proto::TCP);
    node.records.ports.set(Ports { first: 0, count: 0 });
    let client = end(200, 0, 40_000);
    // Who needs none is served; the same client through another frontend would.
    node.tables.word = Some(ViewWord::random(0, 1));
    assert_eq!(node.sends(client, vip(0), SYN).unwrap().src, client);
    let full = Err(Action::Drop(SERVICE, DropReason::NoPort));
    assert_eq!(node.sends(client, vip(1), SYN), full);
    node.tables.word = Some(ViewWord::random(1, 1));
    let other = end(200, 1, 40_000);
    let got = node.arrives(Trip { src: other, dst: vip(0) }, SYN).unwrap();
    assert_eq!(node.passes((got, true), SYN), Err(DropReason::NoPort));
}

#[test]
fn soon_enough_it_takes_the_records_that_are_there() {
    let mut node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    let connect = |node: &Node| {
        let seen = node.sends(client, vip(0), SYN).unwrap();
        for (part, src, dst) in [(Part::Forward, client, vip(0)), (Part::Reply, seen.dst, seen.src)] {
            let flow = node.records.get(&FlowKey::new(part, src, dst, Proto::TCP)).unwrap();
            let is_as_new = (flow.flags, flow.used) == (Flow::FROM_AFAR, node.now);
            assert!(is_as_new, "nothing is left of the flow before: {flow:?}");
        }
        node.answers(seen, SYN | ACK);
        node.sends(client, vip(0), ACK).unwrap();
        node.sends(client, vip(0), RST).unwrap();
        node.records.renewed.get()
    };
    assert_eq!(connect(&node), 0);
    node.now += SECOND;
    assert_eq!(connect(&node), 2);
    // Not what may be swept away at this moment.
    node.now += u64::from(Timeouts::KERNEL.tcp_finished) * SECOND;
    assert_eq!(connect(&node), 2);
    assert_eq!(node.records.keys().len(), 2);
}

#[test]
fn another_frontend_or_backend_takes_records_of_its_own() {
    let node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    for number in [0, 1, 0] {
        let seen = node.sends(client, vip(number), SYN).unwrap();
        node.answers(seen, SYN | ACK);
        node.sends(client, vip(number), RST).unwrap();
    }
    // The client through the first frontend again has the port inside of the node that it had.
    assert_eq!(node.records.renewed.get(), 2);
    assert_eq!(node.records.keys().len(), 4);
}

#[test]
fn a_syn_that_is_sent_again_gets_marks_that_were_lost() {
    let node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    node.sends(client, vip(0), SYN).unwrap();
    node.records.marks.borrow_mut().clear();
    let seen = node.sends(client, vip(0), SYN).unwrap();
    assert_eq!(node.asked.get(), 2);
    let reply = Trip { src: seen.dst, dst: seen.src };
    assert_eq!(node.leaves(reply, SYN | ACK, false).src, vip(0));
    node.sends(client, vip(0), ACK).unwrap();
}

/// A port towards remote backends that a connection has lost, having seemed to be over, is not used by it any more: the answers would
/// be another's.
#[test]
fn who_has_lost_its_port_gets_another() {
    let (mut node, one, first) = open_to_remote();
    let other = end(200, 1, 40_000);
    node.sends(one, vip(0), RST).unwrap();
    node.now += 2 * SECOND;
    let second = node.takes_source(other, vip(0), first);
    for tcp in [ACK, SYN] {
        let seen = node.sends(one, vip(0), tcp).unwrap();
        assert_ne!(seen, second);
        assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: one });
        assert_eq!(node.answers(second, ACK), Trip { src: vip(0), dst: other });
    }
}

/// The same while it opens: a flood may have pushed the record out that held its port, and another flow has the port by now.
#[test]
fn who_has_lost_its_port_while_it_opens_leaves_it_to_the_other() {
    for is_apart in [true, false] {
        let node = Node::new(2, Proto::TCP);
        let word = Some(ViewWord::random(1, 1));
        let tables = Tables { word, gone: RefCell::default(), backends: 2, affinity: 0, is_blurred: false };
        let node = Node { tables, ..node };
        if is_apart {
            node.records.open_at_once.set(0);
        }
        let [one, other] = [end(200, 0, 40_000), end(200, 1, 40_000)];
        let first = node.sends(one, vip(0), SYN).unwrap();
        node.answers(first, SYN | ACK);
        let port = FlowKey::new(Part::Return, first.dst, first.src, Proto::TCP);
        node.records.remove(&port);
        let second = node.takes_source(other, vip(0), first);
        node.arrives(Trip { src: one, dst: vip(0) }, ACK).unwrap();
        let held = node.records.get(&port).unwrap();
        assert_eq!((held.becomes, held.has(Flow::SETTLED)), (other, false));
        let seen = node.sends(one, vip(0), ACK).unwrap();
        assert_ne!(seen, second);
        assert_eq!(node.answers(seen, ACK), Trip { src: vip(0), dst: one });
        assert_eq!(node.answers(second, ACK), Trip { src: vip(0), dst: other });
    }
}
