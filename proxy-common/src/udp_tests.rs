use super::*;
use crate::service::View;
use core::net::IpAddr;

fn at(text: &str, port: u16) -> (Addr, Port) {
    (text.parse::<IpAddr>().unwrap().into(), Port::new(port))
}

fn frontend(index: u8) -> (Addr, Port) {
    at(&format!("10.96.0.{index}"), 53)
}

fn backend(index: u8) -> (Addr, Port) {
    at(&format!("fd00::{index}"), 5353)
}

fn pair(from: u8, to: u8) -> Pair {
    let (addr, port) = backend(to);
    let pick = Pick {
        service: u32::from(from),
        kind: 1,
        flags: 0,
        view: View::Internal,
        backend: u32::from(to),
        generation: 1,
        addr,
        port,
    };
    Pair::new(frontend(from), &pick)
}

#[test]
fn a_pair_is_found_from_either_side() {
    let mut pairs = Pairs::NONE;
    assert_eq!((pairs.to(frontend(1)), pairs.from(backend(9))), (None, None));
    assert_eq!(pairs.put(&pair(1, 9), false), Placed::Quietly);
    assert_eq!(pairs.put(&pair(2, 8), false), Placed::Quietly);
    assert_eq!((pairs.to(frontend(1)), pairs.from(backend(8))), (Some(pair(1, 9)), Some(pair(2, 8))));
    assert_eq!(pairs.to((frontend(1).0, Port::new(54))), None);
    assert_eq!(pairs.connected(), None);
    // Nobody's place is nobody's frontend.
    assert_eq!(pairs.to(at("0.0.0.0", 0)), None);
    assert_eq!(Pairs::NONE.to((Addr::from_words([0; 4]), Port::new(0))), None);
}

#[test]
fn a_frontend_has_one_pair() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), false);
    assert_eq!(pairs.put(&pair(1, 8), false), Placed::Quietly);
    assert_eq!((pairs.to(frontend(1)), pairs.from(backend(9))), (Some(pair(1, 8)), None));
}

#[test]
fn the_oldest_gives_way_and_the_connected_stays() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 101), true);
    for index in 2..=9 {
        assert_eq!(pairs.put(&pair(index, 100 + index), false), Placed::Quietly);
    }
    assert_eq!(pairs.put(&pair(10, 110), false), Placed::InPlaceOfAnother);
    assert_eq!((pairs.to(frontend(2)), pairs.to(frontend(1))), (None, Some(pair(1, 101))));
    for index in 11..60 {
        assert_eq!(pairs.put(&pair(index, 100 + index), false), Placed::InPlaceOfAnother);
        assert_eq!(pairs.connected(), Some(pair(1, 101)));
        assert_eq!(pairs.to(frontend(index)), Some(pair(index, 100 + index)));
    }
    pairs.disconnect(backend(102));
    assert_eq!(
        pairs.connected(),
        Some(pair(1, 101)),
        "elsewhere, if that succeeds: then it is not asked for"
    );
    pairs.disconnect(backend(101));
    assert_eq!((pairs.connected(), pairs.to(frontend(1))), (None, Some(pair(1, 101))));
}

#[test]
fn a_socket_is_connected_through_its_last_connect() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), false);
    pairs.put(&pair(2, 8), true);
    pairs.put(&pair(1, 7), true);
    assert_eq!(pairs.connected(), Some(pair(1, 7)));
}

#[test]
fn a_frontend_that_comes_back_to_its_place_is_answered_for_again() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), false);
    pairs.put(&pair(2, 9), false);
    assert_eq!(pairs.from(backend(9)), Some(pair(2, 9)));
    // Its place is the older one.
    pairs.put(&pair(1, 9), false);
    assert_eq!(pairs.from(backend(9)), Some(pair(1, 9)));
}

#[test]
fn a_backend_of_two_frontends_answers_for_the_later_one() {
    let mut pairs = Pairs::NONE;
    for index in 1..=20 {
        assert!(!pairs.is_taken(backend(9), frontend(index)) || index > 1);
        pairs.put(&pair(index, 9), false);
        assert_eq!(pairs.from(backend(9)), Some(pair(index, 9)));
        assert!(!pairs.is_taken(backend(8), frontend(index)));
        assert!(pairs.is_taken(backend(9), frontend(99)));
    }
    let mut single = Pairs::NONE;
    single.put(&pair(1, 9), false);
    assert!(!single.is_taken(backend(9), frontend(1)), "its own");
}

#[test]
fn a_pair_that_becomes_the_peer_leaves_its_place() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), false);
    pairs.connect(frontend(1));
    assert_eq!(pairs.connected(), Some(pair(1, 9)));
    assert_eq!(pairs.places[0].row, 0);
    // A datagram on the socket, once its peer has been given up, has no second pair.
    pairs.disconnect(backend(9));
    pairs.put(&pair(1, 8), false);
    assert_eq!((pairs.from(backend(9)), pairs.to(frontend(1))), (None, Some(pair(1, 8))));
}

#[test]
fn a_pair_is_guarded_until_its_sender_is_admitted() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), true);
    assert!(!pairs.is_guarded());
    for (connects, index) in [(true, 2), (false, 3)] {
        let bound = Pair { flags: Pair::CHECK_SOURCE, ..pair(index, 10 + index) };
        pairs.put(&bound, connects);
        assert!(pairs.is_guarded());
        assert_eq!(pairs.guarded(backend(10 + index).0), Some(bound));
        pairs.admit(frontend(index));
        assert_eq!(pairs.guarded(backend(10 + index).0), None);
    }
}

#[test]
fn a_waiting_pair_is_its_own_backend_and_holds_nobody() {
    let mut pairs = Pairs::NONE;
    let waiting = Pair::waiting(frontend(1), 7);
    pairs.put(&waiting, true);
    assert!(waiting.is_waiting() && !pair(1, 9).is_waiting());
    assert_eq!(pairs.guarded(frontend(1).0), Some(waiting));
    assert_eq!((pairs.from(frontend(1)), pairs.connected()), (Some(waiting), Some(waiting)));
    pairs.put(&pair(1, 9), true);
    assert_eq!(pairs.guarded(frontend(1).0), None);
}

#[test]
fn a_suspended_socket_waits_where_it_is() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), true);
    pairs.suspend(frontend(2));
    assert_eq!(pairs.connected(), Some(pair(1, 9)), "another frontend's business");
    pairs.suspend(frontend(1));
    let waiting = pairs.guarded(backend(9).0).unwrap();
    assert!(waiting.is_waiting() && pairs.from(backend(9)) == Some(waiting));
    pairs.put(&pair(1, 8), true);
    pairs.disconnect(backend(8));
    pairs.suspend(frontend(1));
    assert_eq!(pairs.to(frontend(1)), Some(pair(1, 8)), "it has no peer");
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    let mut pairs = Pairs::NONE;
    pairs.put(&pair(1, 9), false);
    assert_eq!((pairs.from_peer(backend(9)), pairs.from(backend(9))), (None, Some(pair(1, 9))));
    pairs.put(&pair(2, 8), true);
    assert_eq!((pairs.from_peer(backend(8)), pairs.from_peer(backend(9))), (Some(pair(2, 8)), None));
    pairs.disconnect(backend(8));
    assert_eq!(pairs.from_peer(backend(8)), None);
}
