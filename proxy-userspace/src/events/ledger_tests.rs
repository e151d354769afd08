//! Each test tells the ledger what was seen, and looks at what it would write, and when.

use super::*;
use crate::events::notes::Reason;
use crate::source::api::Kind;

const fn secs(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn now(moment: Moment) -> Now {
    let wall = Timestamp::from_second(1_700_000_000 + i64::try_from(moment.as_secs()).unwrap()).unwrap();
    Now { moment, wall }
}

fn note(name: &str, text: &str) -> Note {
    let subject = Subject { kind: Kind::Service, namespace: "shop".into(), name: name.into() };
    Note { subject, reason: Reason::InvalidField, text: text.to_owned() }
}

fn see(ledger: &mut Ledger, name: &str, at: Moment) {
    ledger.observe(note(name, "no"), now(at), Duration::ZERO);
}

/// The write that is due at `at`.
#[track_caller]
fn due(ledger: &mut Ledger, at: Moment) -> Write {
    match ledger.next(at) {
        Next::Write(write) => write,
        other => panic!("{other:?}"),
    }
}

/// Carries out all that is due at `at`; the names of their objects.
fn drain(ledger: &mut Ledger, at: Moment) -> Vec<String> {
    let mut names = Vec::new();
    while let Next::Write(write) = ledger.next(at) {
        names.push(write.note.subject.name.to_string());
        ledger.ended(&write, Ended::Written("e".to_owned()), at);
    }
    names
}

#[test]
fn ten_thousand_bad_services_are_not_ten_thousand_events() {
    let mut ledger = Ledger::new(Limits::default());
    for index in 0..10_000 {
        see(&mut ledger, &format!("s-{index}"), secs(0));
    }
    assert_eq!(drain(&mut ledger, secs(0)).len(), 25);
    assert_eq!(ledger.next(secs(0)), Next::At(secs(12)));
    let later: usize = (1..=3600).map(|second| drain(&mut ledger, secs(second)).len()).sum();
    assert_eq!(later, 75, "a hundred may wait, the rest was dropped");
    assert_eq!(ledger.dropped(), 9_900);
    assert!(ledger.entries.len() <= 100 && ledger.waiting.is_empty());
    assert_eq!(ledger.next(secs(3600)), Next::Nothing);
}

#[test]
fn one_object_does_not_take_it_all() {
    let mut ledger = Ledger::new(Limits::default());
    for index in 0..50 {
        ledger.observe(note("bad", &format!("{index}")), now(secs(0)), Duration::ZERO);
    }
    see(&mut ledger, "other", secs(0));
    assert_eq!(drain(&mut ledger, secs(0)), ["bad", "bad", "bad", "bad", "bad", "other"]);
    ledger.observe(note("bad", "again"), now(secs(1)), Duration::ZERO);
    assert_eq!(ledger.next(secs(1)), Next::At(secs(60)), "one a minute from then on");
    assert_eq!(drain(&mut ledger, secs(60)), ["bad"]);
}

#[test]
fn what_comes_again_counts_up_the_event_after_a_while() {
    let mut ledger = Ledger::new(Limits::default());
    see(&mut ledger, "web", secs(0));
    let write = due(&mut ledger, secs(0));
    assert_eq!((write.count, &write.event), (1, &None));
    ledger.ended(&write, Ended::Written("web.1".to_owned()), secs(0));
    assert_eq!(ledger.next(secs(1)), Next::Nothing);
    for second in 1..=4 {
        see(&mut ledger, "web", secs(second));
    }
    assert_eq!(ledger.next(secs(5)), Next::At(secs(300)));
    let write = due(&mut ledger, secs(300));
    assert_eq!((write.count, write.event.as_deref()), (5, Some("web.1")));
    assert_eq!((write.first, write.last), (now(secs(0)).wall, now(secs(4)).wall));
    ledger.ended(&write, Ended::Written("web.1".to_owned()), secs(300));
    assert_eq!(ledger.next(secs(9999)), Next::Nothing);
}

#[test]
fn what_came_again_before_it_was_told_is_told_twice_at_most() {
    let mut ledger = Ledger::new(Limits::default());
    ledger.observe(note("web", "no"), now(secs(0)), secs(7));
    see(&mut ledger, "web", secs(1));
    assert_eq!(ledger.next(secs(1)), Next::At(secs(7)), "what all agents find is spread");
    let write = due(&mut ledger, secs(7));
    ledger.ended(&write, Ended::Written("web.1".to_owned()), secs(7));
    let write = due(&mut ledger, secs(307));
    assert_eq!((write.count, write.event.as_deref()), (2, Some("web.1")));
}

#[test]
fn an_event_that_expired_is_made_anew() {
    let mut ledger = Ledger::new(Limits::default());
    see(&mut ledger, "web", secs(0));
    let write = due(&mut ledger, secs(0));
    ledger.ended(&write, Ended::Written("web.1".to_owned()), secs(0));
    see(&mut ledger, "web", secs(4000));
    let write = due(&mut ledger, secs(4000));
    ledger.ended(&write, Ended::Expired, secs(4000));
    let write = due(&mut ledger, secs(4000));
    assert_eq!((write.count, write.event, write.first), (1, None, now(secs(4000)).wall));
}

#[test]
fn what_another_has_told_is_not_counted_up() {
    let mut ledger = Ledger::new(Limits::default());
    see(&mut ledger, "web", secs(0));
    let write = due(&mut ledger, secs(0));
    ledger.ended(&write, Ended::Told, secs(0));
    see(&mut ledger, "web", secs(10));
    let write = due(&mut ledger, secs(300));
    assert_eq!(write.event, None, "its Event may have expired: it is made, or found to be there");
}

#[test]
fn a_failed_write_is_tried_ever_later_and_then_dropped() {
    let mut ledger = Ledger::new(Limits::default());
    see(&mut ledger, "web", secs(0));
    let mut at = secs(0);
    for wait in [1, 2, 4, 8] {
        let write = due(&mut ledger, at);
        ledger.ended(&write, Ended::Later, at);
        // The bound on one object comes on top.
        let Next::At(next) = ledger.next(at) else { panic!("nothing waits") };
        assert!(next >= at + secs(wait), "{next:?}");
        at = next;
    }
    let write = due(&mut ledger, at);
    ledger.ended(&write, Ended::Later, at);
    assert_eq!((ledger.next(secs(9999)), ledger.dropped()), (Next::Nothing, 1));
    assert!(ledger.entries.is_empty(), "if it comes again, it is tried again");
}

#[test]
fn a_missing_right_lets_go_of_all_and_pauses() {
    let mut ledger = Ledger::new(Limits::default());
    for name in ["a", "b", "c"] {
        see(&mut ledger, name, secs(0));
    }
    let write = due(&mut ledger, secs(0));
    ledger.ended(&write, Ended::Denied, secs(0));
    assert_eq!((ledger.next(secs(1)), ledger.dropped()), (Next::Nothing, 3));
    see(&mut ledger, "late", secs(10));
    assert_eq!(ledger.next(secs(10)), Next::At(secs(300)));
    assert_eq!(drain(&mut ledger, secs(300)), ["late"]);
}

#[test]
fn memory_is_bounded() {
    let limits =
        Limits { all: Rate { burst: 1_000_000, every: Duration::ZERO }, known: 50, ..Limits::default() };
    let mut ledger = Ledger::new(limits);
    for index in 0..1000 {
        see(&mut ledger, &format!("s-{index}"), secs(index));
        drain(&mut ledger, secs(index));
    }
    assert!(ledger.entries.len() <= 50, "{}", ledger.entries.len());
    assert!(ledger.objects.len() <= 61, "{}", ledger.objects.len());
}
