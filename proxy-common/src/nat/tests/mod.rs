//! Packets enter and leave a node, and whoever answers must be answered as by the VIP.

mod again;
mod apart;
mod direct;
mod model;
mod steady;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::addr::{Port, Proto};
use crate::flow::NO_MAC;
use crate::service::ViewWord;
use model::{Node, PORTS, Records, SECOND, SERVICE, Tables, Trip, backend, end, is_local, node_addr, vip};

/// What happens to one of the connections.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends, and the backend answers.
    Ask(u8),
    /// The backend sends by itself, which makes a lost record anew that the client's packets need.
    Tell(u8),
    /// A record is lost: of which connection, and which part; a moment later its other side sends first.
    Lose(u8, Part),
    /// Time passes, in seconds.
    Pause(u64),
    /// From here on what begins is masqueraded, or is not any more.
    Masquerade(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let part = prop_oneof![Just(Part::Forward), Just(Part::Reply), Just(Part::Return)];
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Ask),
        2 => any::<u8>().prop_map(Step::Tell),
        1 => (any::<u8>(), part).prop_map(|(which, part)| Step::Lose(which, part)),
        1 => (0_u64..20).prop_map(Step::Pause),
        1 => any::<bool>().prop_map(Step::Masquerade),
    ]
}

/// Clients that share ports, so that flows want the same tuples.
fn connections() -> Vec<(End, End)> {
    let clients = (0..4).flat_map(|host| [(host, 40_000), (host, 61_007)]);
    clients.flat_map(|(host, port)| [0, 1].map(|index| (end(200, host, port), vip(index)))).collect()
}

proptest! {
    #[test]
    fn nobody_is_mistaken_for_another_whatever_record_is_lost(
        steps in prop::collection::vec(any_step(), 1..60),
        backends in 1_u8..4,
        is_tcp in any::<bool>(),
        (open_at_once, hints) in (0..6_i32, any::<bool>()),
    ) {
        let mut node = Node::new(backends, if is_tcp { Proto::TCP } else { Proto::UDP });
        node.records.open_at_once.set(open_at_once);
        node.hints = hints;
        let all = connections();
        let mut open: BTreeMap<usize, Trip> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Pause(seconds) => node.now += seconds * SECOND,
                Step::Masquerade(is_wished) => node.records.masquerade(is_wished),
                Step::Ask(which) | Step::Tell(which) | Step::Lose(which, _) => {
                    let which = usize::from(which) % all.len();
                    let (client, vip) = all[which];
                    let home = Trip { src: vip, dst: client };
                    match (step, open.get(&which).copied()) {
                        (_, None) => {
                            let seen = node.sends(client, vip, SYN).unwrap();
                            prop_assert_eq!(node.answers(seen, SYN | ACK), home);
                            prop_assert_eq!(node.sends(client, vip, ACK), Ok(seen));
                            open.insert(which, seen);
                        }
                        (Step::Tell(_), Some(seen)) => prop_assert_eq!(node.answers(seen, ACK), home),
                        (Step::Lose(_, part), Some(seen)) => {
                            lose(&node, (client, vip, seen), part);
                            node.now += REFRESH;
                            if part == Part::Forward {
                                prop_assert_eq!(node.answers(seen, ACK), home);
                            }
                            prop_assert_eq!(node.sends(client, vip, ACK), Ok(seen), "without {:?}", part);
                            prop_assert_eq!(node.answers(seen, ACK), home, "without {:?}", part);
                        }
                        (_, Some(seen)) => {
                            prop_assert_eq!(node.sends(client, vip, ACK), Ok(seen));
                            prop_assert_eq!(node.answers(seen, ACK), home);
                        }
                    }
                }
            }
            if !is_tcp {
                // Flows of datagrams may have been forgotten, and be led elsewhere: pauses add up.
                open.retain(|which, _| {
                    let (client, vip) = all[*which];
                    let key = FlowKey::new(Part::Forward, client, vip, Proto::UDP);
                    let limit = node.now.saturating_sub(29 * SECOND);
                    node.records.get(&key).is_some_and(|flow| flow.used > limit)
                });
            }
            let mut seen: Vec<Trip> = open.values().copied().collect();
            seen.sort();
            prop_assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "two flows look alike: {:?}", seen);
        }
    }
}

/// Removes one record of a flow.
fn lose(node: &Node, (client, vip, seen): (End, End, Trip), part: Part) {
    let key = FlowKey::new(Part::Forward, client, vip, node.proto);
    let Some(flow) = node.records.get(&key) else { return };
    let mut whole = Whole::EMPTY;
    whole.recall(Part::Forward, &key, &flow);
    assert_eq!(whole.has_snat(), seen.src.addr == node_addr(), "{whole:?}");
    assert!(whole.has_snat() || is_local(seen.dst), "{whole:?}");
    let mut lost = key;
    whole.key(part, &mut lost);
    node.records.remove(&lost);
}

#[test]
fn a_local_backend_sees_the_client_and_a_remote_one_the_node() {
    let node = Node::new(2, Proto::TCP);
    let mut met = [false; 2];
    for port in 1_000..1_100 {
        let client = end(200, 0, port);
        let seen = node.sends(client, vip(0), SYN).unwrap();
        let expected = if seen.dst == backend(0) { client.addr } else { node_addr() };
        assert_eq!(seen.src.addr, expected);
        met[usize::from(seen.dst == backend(1))] = true;
        if seen.dst == backend(1) {
            assert!(PORTS.has(seen.src.port), "{seen:?}");
        } else {
            assert_eq!(seen.src, client);
        }
    }
    assert_eq!(met, [true; 2]);
}

#[test]
fn one_client_port_through_two_frontends_to_one_backend_stays_two_flows() {
    let node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    let first = node.sends(client, vip(0), SYN).unwrap();
    let second = node.sends(client, vip(1), SYN).unwrap();
    assert_eq!(first.src, client);
    assert!(second.src.addr == client.addr && PORTS.has(second.src.port));
    assert_eq!(node.answers(first, SYN | ACK), Trip { src: vip(0), dst: client });
    assert_eq!(node.answers(second, SYN | ACK), Trip { src: vip(1), dst: client });
}

#[test]
fn what_nobody_knows_goes_on_to_the_stack() {
    let node = Node::new(1, Proto::TCP);
    let client = end(200, 0, 40_000);
    assert_eq!(node.sends(client, vip(0), ACK), Err(Action::Pass), "in the middle of a connection");
    assert_eq!(node.sends(client, end(5, 5, 80), SYN), Err(Action::Pass), "not for an owned address");
    assert_eq!(node.sends(backend(1), End::new(node_addr(), Port::new(61_007)), ACK), Err(Action::Pass));
    let reply = Trip { src: backend(0), dst: client };
    assert_eq!(node.leaves(reply, ACK, false), reply);
    assert!(node.records.keys().is_empty());
}

#[test]
fn a_datagram_for_the_node_itself_goes_on_at_once() {
    for (proto, asks_anyway) in [(Proto::UDP, 0), (Proto::TCP, 1)] {
        let node = Node::new(1, proto);
        let client = end(200, 0, 40_000);
        // A tunnel's port is no frontend's. That of a frontend is asked for, and so is any of a VIP, which may be refused.
        for (dst, asks) in [
            (End::new(node_addr(), Port::new(8472)), asks_anyway),
            (End::new(node_addr(), vip(0).port), 1),
            (End::new(vip(0).addr, Port::new(8472)), 1),
        ] {
            node.asked.set(0);
            assert_eq!(node.arrives(Trip { src: client, dst }, SYN), Err(Action::Pass));
            assert_eq!(node.asked.get(), asks, "{dst:?}");
        }
    }
}

#[test]
fn tcp_drains_and_udp_is_led_elsewhere_when_a_backend_goes() {
    for (proto, stays) in [(Proto::TCP, true), (Proto::UDP, false)] {
        let node = Node::new(2, proto);
        let client = end(200, 0, 40_000);
        let seen = node.sends(client, vip(0), SYN).unwrap();
        node.answers(seen, SYN | ACK);
        let gone = u8::from(seen.dst == backend(1));
        node.tables.gone.borrow_mut().push(gone);
        // The view has the other alone by now.
        let word = Some(ViewWord::random(u32::from(1 - gone), 1));
        let tables =
            Tables { word, gone: RefCell::new(vec![gone]), backends: 2, affinity: 0, is_blurred: false };
        let node = Node { tables, ..node };
        let again = node.sends(client, vip(0), ACK).unwrap();
        assert_eq!(again.dst == seen.dst, stays, "{proto}");
        assert_eq!(node.answers(again, ACK), Trip { src: vip(0), dst: client });
        // Who has been silent and dials again is led elsewhere in any case.
        let node = Node { now: node.now + 10 * SECOND, ..node };
        assert_ne!(node.sends(client, vip(0), SYN).unwrap().dst, seen.dst);
    }
}

#[test]
fn a_flow_of_datagrams_lives_as_long_as_either_side_sends() {
    for is_client in [true, false] {
        let mut node = Node::new(2, Proto::UDP);
        let client = end(200, 0, 40_000);
        let seen = node.sends(client, vip(0), 0).unwrap();
        node.answers(seen, 0);
        for _ in 0..100 {
            node.now += 20 * SECOND;
            if is_client {
                assert_eq!(node.sends(client, vip(0), 0), Ok(seen));
            } else {
                assert_eq!(node.answers(seen, 0), Trip { src: vip(0), dst: client });
            }
        }
        assert_eq!(node.answers(seen, 0), Trip { src: vip(0), dst: client }, "{is_client}");
        assert_eq!(node.sends(client, vip(0), 0), Ok(seen), "{is_client}");
    }
}

#[test]
fn a_record_that_is_lost_while_a_flow_opens_is_made_anew_at_once() {
    for (open_at_once, proto) in [(0, Proto::TCP), (1_000, Proto::TCP), (0, Proto::UDP), (1_000, Proto::UDP)]
    {
        for part in [Part::Forward, Part::Reply] {
            let node = Node::new(1, proto);
            node.records.open_at_once.set(open_at_once);
            let client = end(200, 0, 40_000);
            let home = Trip { src: vip(0), dst: client };
            let seen = node.sends(client, vip(0), SYN).unwrap();
            lose(&node, (client, vip(0), seen), part);
            if part == Part::Reply {
                assert_eq!(node.sends(client, vip(0), SYN), Ok(seen), "it comes again");
            }
            assert_eq!(node.answers(seen, SYN | ACK), home, "{part:?}");
            assert_eq!(node.sends(client, vip(0), ACK), Ok(seen), "{part:?}");
            assert_eq!(node.answers(seen, ACK), home, "{part:?}");
        }
    }
}

#[test]
fn a_flow_to_a_remote_backend_finds_room_where_the_main_table_is_all_but_full() {
    for proto in [Proto::TCP, Proto::UDP] {
        let mut node = Node::new(2, proto);
        node.tables.word = Some(ViewWord::random(1, 1));
        node.records = Records::new(2);
        let client = end(200, 0, 40_000);
        let home = Trip { src: vip(0), dst: client };
        let seen = node.sends(client, vip(0), SYN).unwrap();
        assert_eq!((node.records.main.borrow().len(), node.records.apart.borrow().len()), (2, 1));
        for _ in 0..3 {
            assert_eq!(node.answers(seen, SYN | ACK), home);
            assert_eq!(node.sends(client, vip(0), ACK), Ok(seen));
            node.now += 20 * SECOND;
        }
        // Where even what is apart has no room for more than itself, nothing is lost either.
        assert_eq!(node.records.keys().len(), 3);
    }
}

#[test]
fn where_all_is_masqueraded_a_pod_here_sees_the_node_but_where_it_is_to_see_its_client() {
    let client = end(200, 0, 40_000);
    let kept = ViewWord(ViewWord::random(0, 1).0 | ViewWord::KEEPS_SOURCE);
    for (word, masquerades, expected) in [
        (ViewWord::random(0, 1), false, client.addr),
        (ViewWord::random(0, 1), true, node_addr()),
        (kept, false, client.addr),
        (kept, true, client.addr),
    ] {
        for proto in [Proto::TCP, Proto::UDP] {
            let mut node = Node::new(1, proto);
            node.tables.word = Some(word);
            node.records.masquerade(masquerades);
            let seen = node.sends(client, vip(0), SYN).unwrap();
            assert_eq!((seen.src.addr, seen.dst), (expected, backend(0)), "{word:?} {masquerades}");
            for _ in 0..3 {
                assert_eq!(node.answers(seen, SYN | ACK), Trip { src: vip(0), dst: client });
                assert_eq!(node.sends(client, vip(0), ACK), Ok(seen));
                // What is open stays as it is, whatever is wished for others.
                node.records.masquerade(!node.records.masquerades.get());
                node.now += 20 * SECOND;
            }
            // Whoever asks the pod itself is left alone.
            let direct = Trip { src: end(200, 1, 40_000), dst: backend(0) };
            assert_eq!(node.leaves(direct, SYN, true), direct);
        }
    }
}

#[test]
fn a_late_request_leaves_the_flow_to_the_next_backend_alone() {
    let client = end(200, 2, 40_000);
    let mut node = Node::new(1, Proto::UDP);
    node.tables.word = Some(ViewWord::random(1, 1));
    let request = Trip { src: client, dst: vip(0) };
    let first = node.arrives(request, 0).unwrap();
    node.tables.gone.borrow_mut().push(1);
    node.tables.word = Some(ViewWord::random(3, 1));
    let second = node.sends(client, vip(0), 0).unwrap();
    assert_eq!((first.dst, second.dst), (backend(1), backend(3)));
    let key = FlowKey::new(Part::Forward, client, vip(0), Proto::UDP);
    let before = node.records.get(&key);
    // The first datagram leaves only now, with a source of its own.
    let late = node.exits((first, true), 0, false);
    assert!(late.src != second.src && late.src.addr == node_addr());
    assert_eq!(node.records.get(&key), before);
    for seen in [late, second] {
        assert_eq!(node.answers(seen, 0), Trip { src: vip(0), dst: client });
    }
}

#[test]
fn a_late_reply_leaves_the_flow_to_the_next_backend_alone() {
    let (gateway, neighbour) = ([1, 2, 3], [4, 5, 6]);
    let client = end(1, 2, 40_000);
    let mut node = Node::new(1, Proto::UDP);
    node.mac.set(gateway);
    let request = Trip { src: client, dst: vip(0) };
    let first = node.arrives(request, 0).unwrap();
    node.tables.gone.borrow_mut().push(0);
    node.tables.word = Some(ViewWord::random(2, 1));
    let second = node.arrives(request, 0).unwrap();
    assert_eq!((first.dst, second.dst), (backend(0), backend(2)));
    // The answer of the first is switched by the bridge, and comes to the client all the same.
    node.mac.set(neighbour);
    assert_eq!(node.leaves(Trip { src: first.dst, dst: client }, 0, true).src, vip(0));
    node.mac.set(gateway);
    assert_eq!(node.arrives(request, 0), Ok(second));
    assert_eq!(node.switched.get(), NO_MAC, "not to the first");
}

#[test]
fn when_all_ports_are_taken_a_flow_is_turned_away() {
    let mut node = Node::new(1, Proto::SCTP);
    let client = end(200, 0, 40_000);
    assert_eq!(
        node.sends(client, vip(0), 0),
        Err(Action::Drop(SERVICE, DropReason::SctpPort)),
        "80 is not 8080"
    );
    node.proto = Proto::UDP;
    node.sends(client, vip(0), 0).unwrap();
    // The second frontend needs another port of the client, and all are in use.
    let taken = Whole {
        client: end(200, 0, 1),
        inside: Port::new(0),
        vip: vip(1),
        backend: backend(0),
        snat: End::NONE,
        proto: Proto::UDP,
        held: crate::lb::Held { service: SERVICE, backend: 1, generation: 3 },
        flags: 0,
    };
    for port in PORTS.first..PORTS.first + PORTS.count {
        let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
        let taken = Whole { inside: Port::new(port), ..taken };
        taken.key(Part::Reply, &mut key);
        taken.record(Part::Reply, node.now, &mut flow);
        node.records.put(&key, &flow);
    }
    assert_eq!(node.sends(client, vip(1), 0), Err(Action::Drop(SERVICE, DropReason::NoPort)));
    node.now += 31 * SECOND;
    assert!(node.sends(client, vip(1), 0).is_ok(), "those that are over are taken");
}

/// An association of SCTP that is open, with a backend. No frontend of these tables has the port of one, so that none can begin.
fn associate(node: &Node, client: End, index: u8) {
    let whole = Whole {
        client,
        inside: client.port,
        vip: vip(0),
        backend: backend(index),
        snat: End::NONE,
        proto: Proto::SCTP,
        held: crate::lb::Held { service: SERVICE, backend: u32::from(index) + 1, generation: 3 },
        flags: Flow::FROM_AFAR | Flow::SETTLED,
    };
    let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
    for part in [Part::Forward, Part::Reply] {
        whole.key(part, &mut key);
        whole.record(part, node.now, &mut flow);
        assert!(node.records.put(&key, &flow));
    }
}

#[test]
fn a_client_of_sctp_keeps_its_port_towards_another_node_and_is_answered() {
    let node = Node::new(2, Proto::SCTP);
    let client = end(200, 0, 40_000);
    associate(&node, client, 1);
    let seen = node.exits((Trip { src: client, dst: backend(1) }, true), 0, false);
    assert_eq!(seen, Trip { src: End::new(node_addr(), client.port), dst: backend(1) });
    assert_eq!(node.answers(seen, 0), Trip { src: vip(0), dst: client });
}

#[test]
fn a_pod_that_meets_itself_sees_another_sender() {
    let node = Node::new(1, Proto::TCP);
    let pod = End::new(backend(0).addr, Port::new(40_000));
    let inside = node.arrives(Trip { src: pod, dst: vip(0) }, SYN).unwrap();
    assert_eq!(inside, Trip { src: pod, dst: backend(0) });
    let seen = node.leaves(inside, SYN, true);
    assert_eq!((seen.src.addr, seen.dst), (node_addr(), backend(0)));
    let reply = node.arrives(Trip { src: seen.dst, dst: seen.src }, SYN | ACK).unwrap();
    assert_eq!(node.leaves(reply, SYN | ACK, true), Trip { src: vip(0), dst: pod });
}

#[test]
fn a_client_comes_back_to_its_backend_where_the_service_asks_for_it() {
    let mut node = Node::new(3, Proto::TCP);
    node.tables.affinity = 10;
    let first = node.sends(end(200, 0, 1), vip(0), SYN).unwrap().dst;
    for port in 2..40 {
        assert_eq!(node.sends(end(200, 0, port), vip(u8::from(port % 2 == 0)), SYN).unwrap().dst, first);
    }
    let others = (1..40).map(|host| node.sends(end(200, host, 1), vip(0), SYN).unwrap().dst);
    assert!(others.collect::<std::collections::BTreeSet<_>>().len() == 3);
}

#[test]
fn a_flow_whose_replies_a_bridge_switches_is_switched_too() {
    let (gateway, neighbour) = ([1, 2, 3], [4, 5, 6]);
    let (client, pod) = (end(1, 2, 40_000), backend(0));
    let seen = Trip { src: client, dst: pod };
    for is_pods in [true, false] {
        let node = Node::new(1, Proto::TCP);
        node.mac.set(gateway);
        assert_eq!(node.arrives(Trip { src: client, dst: vip(0) }, SYN), Ok(seen));
        assert_eq!(node.switched.get(), NO_MAC);
        // As the stack sends it: from the address that the request went to.
        let reply = Trip { src: pod, dst: client };
        assert_eq!(node.leaves(reply, SYN | ACK, is_pods).src, vip(0));
        node.arrives(Trip { src: client, dst: vip(0) }, ACK).unwrap();
        assert_eq!(node.switched.get(), NO_MAC, "nothing was switched");
        // As the bridge hands it on; towards a router it means nothing.
        node.mac.set(neighbour);
        assert_eq!(node.leaves(reply, ACK, is_pods).src, vip(0));
        node.mac.set(gateway);
        node.arrives(Trip { src: client, dst: vip(0) }, ACK).unwrap();
        assert_eq!(node.switched.get(), if is_pods { neighbour } else { NO_MAC });
    }
}

#[test]
fn a_forged_reset_costs_no_open_connection() {
    let mut node = Node::new(1, Proto::TCP);
    let request = Trip { src: end(1, 2, 40_000), dst: vip(0) };
    let seen = node.arrives(request, SYN).unwrap();
    node.leaves(Trip { src: seen.dst, dst: seen.src }, SYN | ACK, true);
    node.arrives(request, ACK).unwrap();
    assert_eq!(node.arrives(request, RST), Ok(seen), "whoever gets it judges it");
    // The connection pauses, and goes on as if nothing had been.
    node.now += 60 * SECOND;
    assert_eq!(node.arrives(request, ACK), Ok(seen));
    node.now += 100_000 * SECOND;
    assert_eq!(node.arrives(request, ACK), Ok(seen));
    // A real one is the last packet.
    assert_eq!(node.arrives(request, RST | ACK), Ok(seen));
    node.now += 121 * SECOND;
    assert_eq!(node.arrives(request, ACK), Err(Action::Pass));
}

#[test]
fn a_reset_by_either_side_ends_every_record() {
    for is_client in [true, false] {
        let mut node = Node::new(1, Proto::TCP);
        let request = Trip { src: end(1, 2, 40_000), dst: vip(0) };
        let seen = node.arrives(request, SYN).unwrap();
        let reply = Trip { src: seen.dst, dst: seen.src };
        node.leaves(reply, SYN | ACK, true);
        node.arrives(request, ACK).unwrap();
        if is_client {
            node.arrives(request, RST).unwrap();
        } else {
            node.leaves(reply, RST, true);
        }
        node.now += 121 * SECOND;
        let timeouts = node.records.timeouts();
        let alive = |key: &FlowKey| {
            let flow = node.records.get(key).unwrap();
            is_alive(&flow, Proto::TCP, &timeouts, node.now)
        };
        assert_eq!(node.records.keys().iter().filter(|key| alive(key)).count(), 0, "{is_client}");
    }
}
