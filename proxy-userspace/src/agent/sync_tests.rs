//! From events to a fake store: what of planner, store and state only shows where they are put together.

use std::cell::Cell;
use std::time::Duration;

use proxy_common::service::OWNER_WORD;

use super::*;
use crate::agent::report::{Refusals, report};
use crate::maps::memory::Memory;
use crate::maps::{Hashes, WordTable, Words};
use crate::metrics::Scraper;
use crate::metrics::family::Form;
use crate::model::{Endpoint, Family, Protocol, ServicePort, SlicePort, TrafficPolicy};
use crate::plan::ops::cell_word;
use crate::plan::rules::Limits;
use crate::status::{Identity, Reporter};

fn name(number: u8) -> ObjectName {
    ObjectName::new("default", &format!("web{number}"))
}

/// A Service with one port and a cluster IP that ends in `number`.
fn service(number: u8) -> Event {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Event::ServiceApplied(Arc::new(Service {
        name: name(number),
        cluster_ips: vec![[10, 96, 0, number].into()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![port],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }))
}

/// Its endpoints, by the last byte of their addresses.
fn slice(number: u8, endpoints: &[u8]) -> Event {
    let endpoint = |last: &u8| Endpoint {
        addr: [10, 0, number, *last].into(),
        node: None,
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    };
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: name(number),
        service: format!("web{number}").into(),
        family: Family::V4,
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        triggered_at: None,
    }))
}

/// A writer over empty maps that has heard all there is.
fn listed(limits: Limits) -> Sync<Memory> {
    let mut sync = adopted(Memory::new(64), limits);
    list(&mut sync, []);
    sync
}

fn adopted(store: Memory, limits: Limits) -> Sync<Memory> {
    Sync::adopt(store, options(limits)).unwrap()
}

fn options(limits: Limits) -> SyncOptions {
    SyncOptions {
        node_name: "node-1".to_owned(),
        node_ports: NodePortAddresses::All,
        serve_local_vips: false,
        expected: Listing::ALL.to_vec(),
        rules: Rules { limits, ..Rules::for_shards(1) },
        order: StoreOrder::Planned,
    }
}

fn list(sync: &mut Sync<Memory>, events: impl IntoIterator<Item = Event>) {
    sync.take(Listing::ALL.map(Event::ListStarted));
    sync.take(events);
    sync.take(Listing::ALL.map(Event::ListEnded));
}

/// A run that is planned at one time and whose ops are done at another.
fn sync_late(sync: &mut Sync<Memory>, planned: Millis, done: Millis) -> Outcome {
    let passed = done - sync.store().now();
    sync.store_mut().advance(passed);
    let time = Cell::new(planned);
    sync.sync(|| time.replace(done))
}

#[test]
fn what_a_long_run_frees_at_its_end_rests_from_then_on() {
    let mut sync = listed(Limits { rows: 2, ..Limits::LAYOUT });
    sync.take([service(1), slice(1, &[1, 2])]);
    assert!(sync_late(&mut sync, 0, 0).is_settled);
    sync.take([slice(1, &[2])]);
    assert!(sync_late(&mut sync, 1000, 1900).is_settled);

    // The row has rested a second since the plan, but a tenth of one since it was free.
    sync.take([slice(1, &[2, 3])]);
    let early = sync_late(&mut sync, 2000, 2000);
    assert_eq!((early.error, early.refused.len()), (None, 1));
    let later = sync_late(&mut sync, 2900, 2900);
    assert_eq!((later.error, later.is_settled), (None, true));
}

#[test]
fn a_recheck_that_finds_maps_without_sense_says_so_and_writes_nothing() {
    let mut sync = listed(Limits::LAYOUT);
    sync.take([service(1), slice(1, &[1])]);
    assert!(sync_late(&mut sync, 0, 0).is_settled);
    let (tag, cell) = sync.planner().actual().cells().next().unwrap();
    let other = cell + 5;
    sync.store_mut().ignore_breaches();
    sync.store_mut().store(WordTable::Services, cell_word(other, OWNER_WORD), tag.0).unwrap();

    sync.take([slice(1, &[1, 2])]);
    assert_eq!(sync_late(&mut sync, 1, 1).contradiction, None, "who does not look does not know");
    sync.recheck();
    for _ in 0..2 {
        let outcome = sync_late(&mut sync, 2_000, 2_000);
        let Some(Contradiction::Owner { service }) = outcome.contradiction else { panic!("{outcome:?}") };
        assert!([cell, other].contains(&service));
        assert_eq!((outcome.executed, outcome.is_settled), (Executed::default(), false));
    }
    let adopted = Sync::adopt(sync.into_store(), options(Limits::LAYOUT)).map(drop);
    assert!(matches!(adopted, Err(AdoptError::Contradiction(_))), "{adopted:?}");
}

#[test]
fn a_recheck_undoes_what_somebody_else_wrote() {
    let mut sync = listed(Limits::LAYOUT);
    sync.take([service(1), slice(1, &[1])]);
    assert!(sync_late(&mut sync, 0, 0).is_settled);
    let keys = |sync: &Sync<Memory>| {
        let mut keys: Vec<_> = sync.store().frontends().unwrap().iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    };
    let before = keys(&sync);
    assert!(!before.is_empty());
    sync.store_mut().delete_frontends(&before).unwrap();

    // The mirror does not know: nothing is due, and to be told of the same again changes nothing.
    sync.take([service(1)]);
    assert!(!sync.is_due());
    assert_eq!(sync_late(&mut sync, 1, 1).executed, Executed::default());
    assert_eq!(keys(&sync), []);

    sync.recheck();
    assert!(sync.is_due());
    let outcome = sync_late(&mut sync, 2_000, 2_000);
    assert_eq!((outcome.error, outcome.is_settled, sync.is_ready()), (None, true, true));
    assert_eq!(keys(&sync), before);

    sync.recheck();
    let again = sync_late(&mut sync, 4_000, 4_000);
    assert_eq!(again.executed, Executed::default(), "where all is right a recheck writes nothing");
}

#[test]
fn what_finds_no_room_is_in_status_and_metrics_until_there_is_some() {
    let mut sync = listed(Limits { cells: 1, ..Limits::LAYOUT });
    let reporter = Reporter::new(Identity::default(), &Listing::ALL);
    for listing in Listing::ALL {
        reporter.listed(listing);
    }
    let mut refusals = Refusals::default();
    let mut told = |sync: &mut Sync<Memory>, now| {
        let outcome = sync_late(sync, now, now);
        assert_eq!(outcome.error, None);
        let begun = refusals.begun(&outcome.refused);
        report(&reporter, &outcome, (&begun, &sync.planner().conflicts()), Duration::ZERO);
        let status = reporter.snapshot();
        assert_eq!((status.ready_at.is_some(), status.sync.pending), (true, 0));
        let first = status.refused.first.iter().map(|one| format!("{} {}", one.service, one.table));
        let text = Scraper::new(reporter.clone(), None, 0).scrape(Form::Text);
        let line = text.lines().find_map(|line| line.strip_prefix("shunt_refused_service_ports "));
        (begun.len(), first.collect::<Vec<_>>(), line.map(str::to_owned))
    };
    let refused = |begun| (begun, vec!["default/web2:http/tcp SERVICES".to_owned()], Some("1".to_owned()));
    sync.take([service(1), service(2)]);
    assert_eq!(told(&mut sync, 0), refused(1));
    assert_eq!(told(&mut sync, 1), refused(0), "it stands");
    sync.take([Event::ServiceDeleted(name(1))]);
    assert_eq!(told(&mut sync, 2), refused(0), "the cell rests");
    assert_eq!(told(&mut sync, 2_000), (0, vec![], Some("0".to_owned())));
}

/// A Service whose balancer asks for node-1's endpoints, of which there is one.
fn checked(number: u8) -> [Event; 2] {
    let (Event::ServiceApplied(service), Event::SliceApplied(slice)) = (service(number), slice(number, &[1]))
    else {
        unreachable!("that is what they make")
    };
    let (mut service, mut slice) = (Arc::unwrap_or_clone(service), Arc::unwrap_or_clone(slice));
    service.health_check_node_port = Some(31_000);
    slice.endpoints[0].node = Some("node-1".into());
    [Event::ServiceApplied(service.into()), Event::SliceApplied(slice.into())]
}

fn told_to_balancers(sync: &Sync<Memory>) -> Vec<(String, usize)> {
    sync.health_checks().into_iter().map(|(one, count)| (one.service.to_string(), count)).collect()
}

#[test]
fn a_balancer_is_told_of_endpoints_once_the_maps_hold_them() {
    let mut sync = adopted(Memory::new(64), Limits::LAYOUT);
    sync.take(checked(1));
    assert_eq!(told_to_balancers(&sync), []);
    list(&mut sync, checked(1));
    assert_eq!(told_to_balancers(&sync), []);
    assert!(sync_late(&mut sync, 0, 0).is_settled);
    assert_eq!(told_to_balancers(&sync), [("default/web1".to_owned(), 1)]);
    // What is not planned yet is not told yet, be it better or worse.
    sync.take([slice(1, &[1])]);
    assert_eq!(told_to_balancers(&sync), [("default/web1".to_owned(), 1)]);
    assert!(sync_late(&mut sync, 1, 1).is_settled);
    assert_eq!(told_to_balancers(&sync), [("default/web1".to_owned(), 0)]);
    sync.take([service(1)]);
    assert!(sync_late(&mut sync, 2, 2).is_settled);
    assert_eq!(told_to_balancers(&sync), []);
}

#[test]
fn a_balancer_is_not_sent_where_there_is_no_room_for_its_service() {
    let mut sync = listed(Limits { cells: 1, ..Limits::LAYOUT });
    sync.take(checked(1));
    assert!(sync_late(&mut sync, 0, 0).is_settled);
    sync.take(checked(2));
    assert_eq!(sync_late(&mut sync, 1, 1).refused.len(), 1);
    let [one, two] = ["default/web1", "default/web2"].map(str::to_owned);
    assert_eq!(told_to_balancers(&sync), [(one, 1), (two.clone(), 0)]);
    sync.take([Event::ServiceDeleted(name(1))]);
    sync_late(&mut sync, 2, 2);
    assert!(sync_late(&mut sync, 2_000, 2_000).is_settled);
    assert_eq!(told_to_balancers(&sync), [(two, 1)]);
}
