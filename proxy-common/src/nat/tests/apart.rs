//! Flows that are too many, and what lies apart.

use super::*;

#[test]
fn flows_that_are_too_many_lie_apart_until_their_clients_answer() {
    let mut node = Node::new(1, Proto::TCP);
    node.records.open_at_once.set(10);
    let lens = |node: &Node| (node.records.main.borrow().len(), node.records.apart.borrow().len());
    for host in 0..100 {
        let seen = node.sends(end(200, host, 40_000), vip(0), SYN).unwrap();
        node.answers(seen, SYN | ACK);
    }
    assert_eq!((lens(&node), node.records.opening.get()), ((20, 180), 10));
    // One from apart does not count as opening in the main table, where another makes room.
    node.sends(end(200, 50, 40_000), vip(0), ACK).unwrap();
    assert_eq!((lens(&node), node.records.opening.get()), ((22, 178), 10));
    node.sends(end(200, 7, 40_000), vip(0), ACK).unwrap();
    assert_eq!((lens(&node), node.records.opening.get()), ((22, 178), 9));
    node.sends(end(201, 0, 40_000), vip(0), SYN).unwrap();
    assert_eq!((lens(&node), node.records.opening.get()), ((24, 178), 10));
    // All are open as long as each other, wherever they began.
    node.now += 100_000 * SECOND;
    for (host, is_open) in [(50, true), (7, true), (8, false)] {
        assert_eq!(node.sends(end(200, host, 40_000), vip(0), ACK).is_ok(), is_open, "{host}");
    }
}

/// What a flood costs: most of its connections are never answered.
#[test]
fn a_connection_that_lies_apart_has_one_record_until_it_is_answered() {
    for proto in [Proto::TCP, Proto::UDP] {
        let mut node = Node::new(2, proto);
        node.records.open_at_once.set(0);
        let client = end(200, 0, 40_000);
        let first = node.arrives(Trip { src: client, dst: vip(0) }, SYN).unwrap();
        assert_eq!(node.records.keys().len(), if proto == Proto::TCP { 1 } else { 2 });
        assert_eq!(node.answers(first, SYN | ACK), Trip { src: vip(0), dst: client });
        assert_eq!(node.records.keys().len(), 2);
        for tcp in [ACK, RST] {
            assert_eq!(node.arrives(Trip { src: client, dst: vip(0) }, tcp), Ok(first));
        }
        node.now += SECOND;
        // The records of one that is over do not lead the next one's packets to the backend of the first.
        let next = (0..100).find_map(|_| {
            let seen = node.arrives(Trip { src: client, dst: vip(0) }, SYN).unwrap();
            (seen.dst != first.dst).then_some(seen)
        });
        let Some(next) = next else {
            assert_eq!(proto, Proto::UDP, "a SYN begins a connection");
            continue;
        };
        assert_eq!(node.leaves(Trip { src: next.dst, dst: next.src }, SYN | ACK, false).src, vip(0));
        assert_eq!(node.arrives(Trip { src: client, dst: vip(0) }, ACK), Ok(next));
    }
}

#[test]
fn a_flow_that_finds_no_room_in_the_main_table_goes_on_apart() {
    let mut node = Node::new(1, Proto::UDP);
    node.records = Records::new(2);
    let others = node.sends(end(200, 1, 1), vip(0), 0).unwrap();
    node.answers(others, 0);
    let client = end(200, 0, 40_000);
    let seen = node.sends(client, vip(0), 0).unwrap();
    node.answers(seen, 0);
    for _ in 0..10 {
        node.now += 20 * SECOND;
        assert_eq!(node.sends(end(200, 1, 1), vip(0), 0), Ok(others));
        assert_eq!(node.sends(client, vip(0), 0), Ok(seen));
        let key = FlowKey::new(Part::Forward, client, vip(0), Proto::UDP);
        let flow = node.records.get(&key).unwrap();
        assert!(flow.used == node.now && flow.has(Flow::APART), "{flow:?}");
    }
}

#[test]
fn a_full_table_and_a_flood_turn_new_flows_away_and_no_other() {
    let mut node = Node::new(1, Proto::UDP);
    node.records = Records::new(3);
    let seen = node.sends(end(200, 0, 1), vip(0), SYN).unwrap();
    let apart = node.sends(end(200, 1, 1), vip(0), SYN).unwrap();
    assert_eq!((node.records.main.borrow().len(), node.records.apart.borrow().len()), (2, 2));
    let full = Action::Drop(SERVICE, DropReason::FlowTableFull);
    assert_eq!(node.sends(end(200, 3, 1), vip(0), SYN), Err(full));
    assert_eq!(node.records.keys().len(), 4, "half a flow would be worse than none");
    assert_eq!(node.sends(end(200, 1, 1), vip(0), SYN), Ok(apart));
    assert_eq!(node.sends(end(200, 0, 1), vip(0), SYN), Ok(seen));
    node.records.is_flooded.set(true);
    assert_eq!(node.sends(end(200, 2, 1), vip(0), SYN), Err(Action::Drop(SERVICE, DropReason::Flood)));
    assert_eq!(node.sends(end(200, 0, 1), vip(0), SYN), Ok(seen));
}
