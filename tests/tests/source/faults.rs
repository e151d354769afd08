//! What faults of a server do, and what they do not do.

use std::time::{Duration, Instant};

use serde_json::json;
use shunt::model::Listing;
use shunt::source::kube::Bounds;
use tests::apiserver::{ApiServer, NODES, SERVICES, SLICES};

use crate::rig::{LISTINGS, NODE, Rig, anonymous, bounds, server, service, short_bounds, slice};

#[test]
fn one_undecodable_object_stops_nobody() {
    let server = server();
    let mut bad = service("bad", "10.96.0.30");
    bad["spec"]["ports"] = json!([{ "port": { "is": "no number" } }]);
    server.put(SERVICES, bad.clone());
    for streams in [true, false] {
        server.behave(|manners| manners.streams_lists = streams);
        let mut rig = Rig::listed(&server);
        assert!(rig.has_service("web") && !rig.has_service("bad"));
        let warned: Vec<String> = rig.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert!(warned[0].starts_with("Service default/bad: spec.ports[0].port: "), "{warned:?}");
        // On the watch too, and what was known of the object stands.
        let mut worse = service("web", "10.96.0.10");
        worse["spec"]["clusterIPs"] = json!(7);
        server.put(SERVICES, worse);
        server.put(SERVICES, service("after", "10.96.0.31"));
        rig.until("the object after it is seen", |rig| rig.has_service("after"));
        assert_eq!(rig.warnings.len(), 2);
        assert_eq!(rig.warnings[1].object, "Service default/web");
        assert_eq!(rig.service_ip("web"), Some([10, 96, 0, 10].into()));
        // And in a relist.
        server.compact();
        server.cut();
        rig.until("there was a relist", |rig| rig.watch(Listing::Services).listings == 2);
        rig.until("it warned again", |rig| rig.warnings.len() == 4);
        assert!(rig.has_service("web") && rig.has_service("after"));
        server.put(SERVICES, service("web", "10.96.0.10"));
        server.delete(SERVICES, "default", "after");
    }
}

#[test]
fn a_silent_server_is_noticed_within_the_bound_and_comes_back() {
    let server = server();
    let mut rig = Rig::follow(anonymous(&[&server]), short_bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());
    rig.until("it is followed", |rig| rig.watch(Listing::Services).watching_since.is_some());
    server.behave(|manners| manners.is_silent = true);
    let since = Instant::now();
    rig.until("the silence is noticed", |rig| rig.watch(Listing::Services).lost_since.is_some());
    let took = since.elapsed();
    // The bound, and time for a busy machine.
    assert!(took + Duration::from_millis(100) >= short_bounds().silence, "{took:?}");
    assert!(took < short_bounds().silence + Duration::from_secs(3), "{took:?}");
    let error = rig.watch(Listing::Services).last_error.unwrap();
    assert_eq!(error, "watch services: nothing came for 500ms");
    // What is known stands meanwhile.
    assert!(rig.has_service("web"));
    server.put(SERVICES, service("late", "10.96.0.12"));
    server.behave(|manners| manners.is_silent = false);
    rig.until("it is followed again", |rig| rig.has_service("late"));
    assert_eq!(rig.watch(Listing::Services).listings, 1);
}

/// The watches of a server that sends bookmarks, or does not, while one of them says nothing.
fn quiet_services(bookmark_every: Duration) -> (Rig, ApiServer, ApiServer) {
    let first = server();
    let second = first.beside().unwrap();
    first.behave(|manners| manners.bookmark_every = bookmark_every);
    let mut rig =
        Rig::follow(anonymous(&[&first, &second]), Bounds { answer: bounds().answer, ..short_bounds() });
    rig.until("everything is listed", |rig| rig.state.is_listed());
    // Time for a bookmark on each watch, where there are any.
    let asked = first.asked().len();
    first.cut();
    rig.until("each watch has been resumed", |_| first.asked().len() >= asked + LISTINGS.len());
    rig.for_a_while(bookmark_every.min(Duration::from_millis(50)) * 4);
    first.behave(|manners| manners.quiet.push(SERVICES.to_owned()));
    (rig, first, second)
}

#[test]
fn one_silent_watch_is_opened_again_and_its_server_is_not_left() {
    let (mut rig, first, _second) = quiet_services(Duration::from_millis(50));
    rig.until("the silence is noticed", |rig| rig.watch(Listing::Services).lost_since.is_some());
    assert_eq!(rig.watch(Listing::Services).last_error.unwrap(), "watch services: nothing came for 500ms");
    rig.for_a_while(short_bounds().silence);
    let servers: Vec<String> = LISTINGS.iter().map(|listing| rig.watch(*listing).server).collect();
    assert!(servers.iter().all(|server| *server == format!("{}/", first.url())), "{servers:?}");
    let faults: Vec<u64> = LISTINGS[1..].iter().map(|listing| rig.watch(*listing).faults).collect();
    assert_eq!(faults, [0, 0, 0], "the others are not concerned");
    first.behave(|manners| manners.quiet.clear());
    first.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("it is followed again", |rig| rig.has_service("late"));
    assert_eq!(rig.watch(Listing::Services).listings, 1);
}

#[test]
fn a_server_without_bookmarks_has_no_faults() {
    let (mut rig, first, _second) = quiet_services(Duration::from_hours(1));
    let before = first.asked().len();
    rig.for_a_while(short_bounds().silence * 5);
    for listing in LISTINGS {
        let watch = rig.watch(listing);
        assert_eq!((watch.faults, watch.listings, watch.lost_since), (0, 1, None), "{listing:?}: {watch:?}");
        assert!(watch.watching_since.is_some() && watch.server == format!("{}/", first.url()), "{watch:?}");
    }
    let asked = first.asked().len() - before;
    assert!((2 * LISTINGS.len()..=6 * LISTINGS.len()).contains(&asked), "{asked} requests");
    first.behave(|manners| manners.quiet.clear());
    first.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("a change is seen", |rig| rig.has_service("late"));
}

#[test]
fn a_watch_that_was_granted_is_followed_only_once_it_brings_something() {
    let server = server();
    let mut rig = Rig::listed(&server);
    server.behave(|manners| {
        manners.denied.push(SERVICES.to_owned());
        manners.quiet.push(SERVICES.to_owned());
    });
    server.cut();
    rig.until("it is lost", |rig| rig.watch(Listing::Services).lost_since.is_some());
    let faults = rig.watch(Listing::Services).faults;
    server.behave(|manners| manners.denied.clear());
    let granted = || server.asked().iter().filter(|asked| asked.path == SERVICES).count();
    let before = granted();
    rig.until("it is granted", |_| granted() > before);
    rig.for_a_while(Duration::from_millis(300));
    let watch = rig.watch(Listing::Services);
    assert!(watch.watching_since.is_none() && watch.lost_since.is_some(), "{watch:?}");
    assert!(watch.faults <= faults + 1, "one may have been under way: {watch:?}");
    server.behave(|manners| manners.quiet.clear());
    rig.until("it brings a bookmark", |rig| rig.watch(Listing::Services).watching_since.is_some());
}

#[test]
fn watches_that_end_after_a_bookmark_are_not_opened_again_and_again() {
    let server = server();
    let slow = Bounds { backoff: (Duration::from_millis(400), Duration::from_secs(10)), ..bounds() };
    let mut rig = Rig::follow(anonymous(&[&server]), slow);
    rig.until("everything is listed", |rig| rig.state.is_listed());
    server.behave(|manners| manners.ending.push(SERVICES.to_owned()));
    let services = || server.asked().iter().filter(|asked| asked.path == SERVICES).count();
    let before = services();
    server.cut();
    rig.for_a_while(Duration::from_secs(3));
    let asked = services() - before;
    // The waits are halved at most: 200, 400 and 800 milliseconds fit, and 1600 no more.
    assert!((2..=5).contains(&asked), "{asked} requests in three seconds");
    let error = rig.watch(Listing::Services).last_error.unwrap();
    assert_eq!(error, "watch services: the server ended the watch as soon as it had begun");
    server.behave(|manners| manners.ending.clear());
    server.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("it is followed again", |rig| rig.has_service("late"));
}

#[test]
fn watches_that_end_after_a_change_are_opened_again_once_a_second() {
    let server = server();
    let mut rig = Rig::listed(&server);
    let services = || server.asked().iter().filter(|asked| asked.path == SERVICES).count();
    let (before, since) = (services(), Instant::now());
    for index in 0..100_u8 {
        server.put(SERVICES, service("web", &format!("10.96.1.{index}")));
        server.cut();
        rig.for_a_while(Duration::from_millis(20));
    }
    let asked = services() - before;
    let most = usize::try_from(since.elapsed().as_secs()).unwrap() + 2;
    assert!((2..=most).contains(&asked), "{asked} requests in {:?}", since.elapsed());
    rig.until("the last change is seen", |rig| rig.service_ip("web") == Some([10, 96, 1, 99].into()));
}

#[test]
fn a_server_that_is_back_is_not_waited_for_once_more_before_all_is_listed_anew() {
    let server = server();
    let (soon, longest) = (Duration::from_millis(200), Duration::from_secs(2));
    let bounds = Bounds { answer: soon, silence: soon, backoff: (soon / 10, longest), ..bounds() };
    let mut rig = Rig::follow(anonymous(&[&server]), bounds);
    rig.until("everything is listed", |rig| rig.state.is_listed());
    server.behave(|manners| manners.is_silent = true);
    server.cut();
    // By then the next wait is one of the longest.
    rig.until("the waits have grown", |rig| rig.watch(Listing::Services).faults >= 7);
    server.delete(SERVICES, "default", "web");
    server.compact();
    server.behave(|manners| manners.is_silent = false);
    let says = |rig: &Rig, word| rig.watch(Listing::Services).last_error.is_some_and(|it| it.contains(word));
    rig.until("it is told that its place is lost", |rig| says(rig, "410"));
    let back = Instant::now();
    rig.until("there was a relist", |rig| rig.watch(Listing::Services).listings == 2);
    assert!(back.elapsed() < longest / 4, "{:?}", back.elapsed());
    rig.until("the deletion is seen", |rig| !rig.has_service("web"));
}

#[test]
fn a_server_that_is_silent_from_the_start_holds_nobody_for_ever() {
    let server = server();
    server.behave(|manners| manners.is_silent = true);
    let mut rig = Rig::follow(anonymous(&[&server]), short_bounds());
    rig.until("it was given up twice", |rig| rig.watch(Listing::EndpointSlices).faults >= 2);
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    server.behave(|manners| manners.is_silent = false);
    rig.until("everything is listed", |rig| rig.state.is_listed());
}

#[test]
fn all_watches_move_when_their_server_is_dead() {
    let first = server();
    let second = first.beside().unwrap();
    let patient = Bounds { silence: Duration::from_mins(1), ..bounds() };
    let mut rig = Rig::follow(anonymous(&[&first, &second]), patient);
    rig.until("everything is listed", |rig| rig.state.is_listed());
    let listings = [Listing::Services, Listing::EndpointSlices, Listing::Node, Listing::ServiceCidrs];
    let at = |rig: &Rig, url: &str| listings.iter().all(|one| rig.watch(*one).server == format!("{url}/"));
    assert!(at(&rig, &first.url()));
    drop(first);
    second.put(SERVICES, service("late", "10.96.0.12"));
    second.put(SLICES, slice("web", &["10.0.0.3"]));
    rig.until("all have moved", |rig| at(rig, &second.url()));
    rig.until("changes are seen", |rig| rig.has_service("late"));
    // They went on where they stopped.
    assert!(listings.iter().all(|listing| rig.watch(*listing).listings == 1));
}

#[test]
fn a_dead_address_at_the_start_is_passed_over() {
    let (dead, alive) = (server(), server());
    let access = anonymous(&[&dead, &alive]);
    drop(dead);
    let mut rig = Rig::follow(access, bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());
    assert_eq!(rig.watch(Listing::Services).server, format!("{}/", alive.url()));
}

#[test]
fn a_missing_right_is_named_and_tried_again() {
    let server = server();
    server.behave(|manners| manners.denied.push(SERVICES.to_owned()));
    let mut rig = Rig::follow(anonymous(&[&server]), bounds());
    rig.until("all else is listed", |rig| rig.state.unlisted().eq([Listing::Services]));
    rig.until("it was tried again", |rig| rig.watch(Listing::Services).faults >= 2);
    let error = rig.watch(Listing::Services).last_error.unwrap();
    assert_eq!(
        error,
        "list services: answered 403 Forbidden: services is forbidden: User \"test\" cannot list resource \"services\""
    );
    server.behave(|manners| manners.denied.clear());
    rig.until("everything is listed", |rig| rig.state.is_listed());
}

#[test]
fn neither_node_nor_service_cidrs_need_a_right() {
    let server = server();
    let denied = [tests::apiserver::NODES, tests::apiserver::SERVICE_CIDRS].map(str::to_owned);
    server.behave(|manners| manners.denied.extend(denied));
    let mut rig = Rig::follow(anonymous(&[&server]), bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());
    assert!(rig.watch(Listing::Node).last_error.unwrap().starts_with("list nodes: answered 403 "));
    server.behave(|manners| manners.denied.clear());
    rig.until("the right has come", |rig| rig.state.node().zone.is_some() && rig.state.cidrs().count() == 1);
}

/// Runs the source until its thread is known to have ended; false if that does not come.
fn has_ended(rig: &mut Rig) -> bool {
    let limit = Duration::from_secs(5);
    let Rig { kube, runtime, .. } = rig;
    runtime.block_on(async { tokio::time::timeout(limit, kube.ended()).await.is_ok() })
}

#[test]
fn a_thread_that_panics_is_noticed() {
    let server = server();
    server.delete(NODES, "", NODE);
    // No clock counts that far, which only the wait for an absent Node finds out.
    let overflow = Bounds { node: Duration::MAX, ..bounds() };
    let mut rig = Rig::follow(anonymous(&[&server]), overflow);
    assert!(has_ended(&mut rig));
    // The control: without the panic it goes on.
    let mut rig = Rig::listed(&server);
    assert!(!has_ended(&mut rig));
}

#[test]
fn a_source_that_is_dropped_ends() {
    let server = server();
    let Rig { kube, .. } = Rig::listed(&server);
    drop(kube);
    let before = server.asked().len();
    server.cut();
    server.put(SERVICES, service("late", "10.96.0.12"));
    // A follower would ask again within its backoff.
    std::thread::sleep(bounds().backoff.1 * 3);
    assert_eq!(server.asked().len(), before);
}
