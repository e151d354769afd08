//! A client's port that is used again.

use super::*;

#[test]
fn a_port_that_is_used_again_begins_a_flow() {
    let node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    let seen = node.sends(client, vip(0), SYN).unwrap();
    node.answers(seen, SYN | ACK);
    node.sends(client, vip(0), ACK).unwrap();
    node.sends(client, vip(0), ACK | FIN).unwrap();
    let key = FlowKey::new(Part::Forward, client, vip(0), Proto::TCP);
    assert!(node.records.get(&key).unwrap().has(Flow::FINISHED));
    node.sends(client, vip(0), SYN).unwrap();
    let flow = node.records.get(&key).unwrap();
    assert!(!flow.has(Flow::FINISHED) && !flow.has(Flow::SETTLED), "{flow:?}");
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
    let node = Node::new(2, Proto::TCP);
    let word = Some(ViewWord::random(1, 1));
    let tables = Tables { word, gone: RefCell::default(), backends: 2, affinity: 0, is_blurred: false };
    let mut node = Node { tables, ..node };
    let [one, other] = [end(200, 0, 40_000), end(200, 1, 40_000)];
    let first = node.sends(one, vip(0), SYN).unwrap();
    node.answers(first, SYN | ACK);
    node.sends(one, vip(0), ACK).unwrap();
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
