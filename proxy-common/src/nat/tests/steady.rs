//! Packets in the middle of a connection. That all are decided about as they would be without
//! [`middle`] is seen to by [`Node`],
//! for every packet of every test.

use super::*;

/// An open connection to a backend of this node, and its client's request.
fn open(proto: Proto) -> (Node, Trip, Trip) {
    let node = Node::new(1, proto);
    let request = Trip { src: end(1, 2, 40_000), dst: vip(0) };
    let seen = node.arrives(request, SYN).unwrap();
    let reply = Trip { src: seen.dst, dst: seen.src };
    node.leaves(reply, SYN | ACK, true);
    node.arrives(request, ACK).unwrap();
    (node, request, reply)
}

/// Whether the client's next packet is in the middle of a connection, and whether the backend's is.
fn are_steady(node: &Node, (request, reply): (Trip, Trip), tcp: u8) -> (bool, bool) {
    let before = node.steady.get();
    let _ = node.arrives(request, tcp);
    let between = node.steady.get();
    node.leaves(reply, tcp, true);
    (between > before, node.steady.get() > between)
}

#[test]
fn what_neither_begins_nor_resets_a_settled_connection_is_in_its_middle() {
    let (mut node, request, reply) = open(Proto::TCP);
    assert_eq!(are_steady(&node, (request, reply), ACK), (true, true));
    assert_eq!(are_steady(&node, (request, reply), SYN | ACK), (false, false));
    assert_eq!(
        are_steady(&node, (request, reply), FIN | ACK),
        (true, false),
        "both records know a backend's"
    );
    assert_eq!(are_steady(&node, (request, reply), ACK), (true, true));
    assert_eq!(are_steady(&node, (request, reply), RST), (false, false));
    // One that was said to be reset, and is not: the first to come looks after both.
    assert_eq!(are_steady(&node, (request, reply), ACK), (false, true));
    assert_eq!(are_steady(&node, (request, reply), ACK), (true, true));
    node.now += REFRESH;
    assert_eq!(are_steady(&node, (request, reply), ACK), (false, true), "one looks after both");
    assert_eq!(are_steady(&node, (request, reply), ACK), (true, true));
}

#[test]
fn others_decide_about_the_rest() {
    let (node, request, reply) = open(Proto::UDP);
    assert_eq!(are_steady(&node, (request, reply), 0), (false, false));
    let (node, request, reply) = open(Proto::TCP);
    node.mac.set([1, 2, 3]);
    assert_eq!(are_steady(&node, (request, reply), ACK), (true, false), "its frame may tell something");
}

#[test]
fn who_has_no_record_is_a_stranger() {
    let (node, request, reply) = open(Proto::TCP);
    let of = |trip, tcp| middle(&node.records, (&node.headers(trip), tcp), Part::Forward);
    let stranger = Trip { src: end(1, 2, 40_001), ..request };
    assert!(matches!(of(request, ACK), Middle::Known(..)));
    for tcp in [ACK, FIN | ACK] {
        assert_eq!(of(stranger, tcp), Middle::Stranger);
        assert_eq!(node.arrives(stranger, tcp), Err(Action::Pass), "as all would have it");
    }
    assert_eq!(of(stranger, SYN), Middle::Other);
    // A reply that comes back in by a device has marks, and no record of this part.
    assert_eq!(of(reply, ACK), Middle::Other);
    // Marks that are lost make a stranger of whoever has no record at its place.
    node.records.marks.borrow_mut().clear();
    assert!(matches!(of(request, ACK), Middle::Known(..)));
    assert_eq!(of(reply, ACK), Middle::Stranger);
}
