//! Listing, following, and listing again.

use std::time::Duration;

use serde_json::json;
use shunt::model::{Event, Listing, ObjectName};
use shunt::source::kube::Bounds;
use tests::apiserver::{ApiServer, NODES, SERVICE_CIDRS, SERVICES, SLICES};

use crate::rig::{NODE, Rig, anonymous, bounds, server, service, short_bounds, slice};

fn listings_of_services(server: &ApiServer) -> usize {
    server.asked().iter().filter(|asked| asked.path == SERVICES && asked.is_listing()).count()
}

#[test]
fn a_server_is_listed_in_one_stream_and_followed() {
    let server = server();
    let mut rig = Rig::listed(&server);
    assert_eq!(rig.service_ip("web"), Some([10, 96, 0, 10].into()));
    let slices: Vec<_> = rig.state.slices(&ObjectName::new("default", "web")).cloned().collect();
    assert_eq!((slices.len(), slices[0].endpoints.len()), (1, 2));
    assert_eq!(rig.state.node().zone.as_deref(), Some("z"));
    assert_eq!(rig.state.cidrs().count(), 1);
    assert!(server.asked().iter().all(|asked| asked.query.contains("watch=true")), "{:?}", server.asked());

    server.put(SERVICES, service("web", "10.96.0.11"));
    server.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("changes are seen", |rig| {
        rig.service_ip("web") == Some([10, 96, 0, 11].into()) && rig.has_service("late")
    });
    server.delete(SERVICES, "default", "late");
    server.delete(SLICES, "default", "web-1");
    rig.until("deletions are seen", |rig| {
        !rig.has_service("late") && rig.state.slices(&ObjectName::new("default", "web")).next().is_none()
    });
    assert!(rig.warnings.is_empty(), "{:?}", rig.warnings);
    let watch = rig.watch(Listing::Services);
    assert!(watch.watching_since.is_some() && watch.lost_since.is_none(), "{watch:?}");
    let url = format!("http://{}/", watch.peer.unwrap());
    assert_eq!((watch.listings, watch.faults, watch.server), (1, 0, url), "the peer is that of the URL");
}

#[test]
fn objects_of_others_are_not_even_sent() {
    let server = server();
    let mut other = service("other", "10.96.0.20");
    other["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "other" });
    server.put(SERVICES, other);
    let mut nowhere = service("nowhere", "None");
    nowhere["metadata"]["annotations"] = json!({ "sent": "never" });
    server.put(SERVICES, nowhere);
    let mut headless = slice("web", &["10.0.0.9"]);
    headless["metadata"]["name"] = "headless-1".into();
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    server.put(SLICES, headless);
    let rig = Rig::follow(anonymous(&[&server]), bounds());
    let rig = rig.until_listed();
    // Not even as something that is not for this node, which would be a deletion.
    assert!(!rig.has_service("other") && !rig.has_service("nowhere"));
    assert!(rig.has_no_deletion(), "{:?}", rig.events);
    assert_eq!(rig.state.slices(&ObjectName::new("default", "web")).count(), 1);
    assert_eq!(&*rig.state.node().name, NODE);
}

#[test]
fn a_server_without_streaming_lists_is_listed_in_pages() {
    let server = server();
    server.behave(|manners| manners.streams_lists = false);
    for index in 0..600 {
        server.put(
            SERVICES,
            service(&format!("s-{index}"), &format!("10.97.{}.{}", index / 250, index % 250 + 1)),
        );
    }
    let mut rig = Rig::listed(&server);
    assert_eq!(rig.state.service_names().count(), 601);
    let asked = server.asked();
    let pages = asked.iter().filter(|asked| asked.path == SERVICES && !asked.query.contains("watch=true"));
    // 250 at first, and more since they turned out to be small.
    assert_eq!(pages.count(), 2);
    server.put(SERVICES, service("late", "10.96.0.12"));
    rig.until("a change is seen", |rig| rig.has_service("late"));
    assert_eq!(rig.watch(Listing::Services).faults, 0);
}

/// `limit` of each page of slices that was asked for.
fn page_limits(server: &ApiServer) -> Vec<u32> {
    let asked = server.asked();
    let pages = asked.iter().filter(|asked| asked.path == SLICES && !asked.query.contains("watch=true"));
    let limit = |query: &str| query.split('&').find_map(|pair| pair.strip_prefix("limit=")?.parse().ok());
    pages.filter_map(|asked| limit(&asked.query)).collect()
}

fn serve_slices(count: u32, endpoints: u8) -> ApiServer {
    let server = server();
    server.behave(|manners| manners.streams_lists = false);
    let addresses: Vec<String> = (0..endpoints).map(|index| format!("10.1.0.{index}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for index in 0..count {
        server.put(SLICES, slice(&format!("s-{index}"), &addresses));
    }
    server
}

#[test]
fn pages_of_slices_start_small_and_grow_with_what_fits() {
    let server = serve_slices(200, 1);
    let rig = Rig::listed(&server);
    assert_eq!(rig.watch(Listing::EndpointSlices).faults, 0);
    assert_eq!(page_limits(&server), [25, 100, 400]);
}

#[test]
fn a_page_that_is_too_large_is_asked_for_again_in_parts() {
    let server = serve_slices(40, 100);
    // A slice has some five kilobytes here.
    let mut rig = Rig::follow(anonymous(&[&server]), Bounds { page_bytes: 40_000, ..bounds() });
    rig.until("everything is listed", |rig| rig.state.is_listed());
    assert_eq!((rig.watch(Listing::EndpointSlices).faults, &page_limits(&server)[..2]), (0, &[25, 6][..]));
    for index in 0..40 {
        assert_eq!(
            rig.state.slices(&ObjectName::new("default", &format!("s-{index}"))).count(),
            1,
            "{index}"
        );
    }
}

#[test]
fn a_single_object_that_is_too_large_is_a_fault_that_says_so() {
    let server = serve_slices(1, 100);
    let mut rig = Rig::follow(anonymous(&[&server]), Bounds { page_bytes: 1000, ..bounds() });
    rig.until("it is named", |rig| rig.watch(Listing::EndpointSlices).faults > 0);
    let error = rig.watch(Listing::EndpointSlices).last_error.unwrap();
    assert_eq!(error, "list endpointslices: more than 1000 bytes at once");
}

fn is_left_when_it_drips(streams: bool, wanted: &str) {
    let server = server();
    let next = server.beside().unwrap();
    server.behave(|manners| {
        manners.streams_lists = streams;
        manners.dripping.push(SERVICES.to_owned());
    });
    let soon = Duration::from_millis(300);
    let mut rig = Rig::follow(anonymous(&[&server, &next]), Bounds { page: soon, listing: soon, ..bounds() });
    rig.until("the fault is named", |rig| rig.watch(Listing::Services).last_error.as_deref() == Some(wanted));
    rig.until("the next server is asked", |rig| {
        rig.watch(Listing::Services).server == format!("{}/", next.url())
    });
    server.behave(|manners| manners.dripping.clear());
    rig.until("everything is listed", |rig| rig.state.is_listed());
}

#[test]
fn a_page_that_drips_is_given_up() {
    is_left_when_it_drips(false, "list services: not complete within 300ms");
}

#[test]
fn a_streamed_listing_that_drips_is_given_up() {
    is_left_when_it_drips(true, "list services: not complete within 300ms");
}

#[test]
fn a_broken_watch_goes_on_where_it_stopped() {
    let server = server();
    let mut rig = Rig::listed(&server);
    let before = listings_of_services(&server);
    server.cut();
    server.put(SERVICES, service("late", "10.96.0.12"));
    server.delete(SERVICES, "default", "web");
    rig.until("changes are seen", |rig| rig.has_service("late") && !rig.has_service("web"));
    assert_eq!(listings_of_services(&server), before);
}

fn relists(expires_by_status: bool) {
    let server = server();
    server.behave(|manners| manners.expires_by_status = expires_by_status);
    server.put(SERVICES, service("kept", "10.96.0.13"));
    let mut rig = Rig::follow(anonymous(&[&server]), short_bounds());
    rig.until("everything is listed", |rig| rig.state.is_listed());
    rig.events.clear();
    // Nothing can be seen of what follows but by a listing.
    server.behave(|manners| manners.is_silent = true);
    server.delete(SLICES, "default", "web-1");
    server.delete(SERVICES, "default", "web");
    server.put(SERVICES, service("late", "10.96.0.14"));
    server.compact();
    server.cut();
    server.behave(|manners| manners.is_silent = false);
    rig.until("the world is as it is", |rig| {
        let slices = rig.state.slices(&ObjectName::new("default", "web")).count();
        rig.has_service("late") && rig.has_service("kept") && !rig.has_service("web") && slices == 0
    });
    assert_eq!(rig.watch(Listing::Services).listings, 2);
    assert!(rig.has_no_deletion(), "{:?}", rig.events);
    let at = |event: &Event| rig.events.iter().position(|other| other == event).unwrap();
    assert!(at(&Event::ListStarted(Listing::Services)) < at(&Event::ListEnded(Listing::Services)));
}

#[test]
fn an_expired_version_is_listed_again_after_an_event() {
    relists(false);
}

#[test]
fn an_expired_version_is_listed_again_after_a_status() {
    relists(true);
}

#[test]
fn a_server_without_service_cidrs_has_none() {
    let server = server();
    server.behave(|manners| manners.absent.push(SERVICE_CIDRS.to_owned()));
    let mut rig = Rig::listed(&server);
    assert_eq!(rig.state.cidrs().count(), 0);
    let watch = rig.watch(Listing::ServiceCidrs);
    assert!(watch.absent.is_some() && watch.faults == 0, "{watch:?}");
    server.behave(|manners| manners.absent.clear());
    rig.until("the API has come", |rig| rig.state.cidrs().count() == 1);
    rig.until("it is followed", |rig| rig.watch(Listing::ServiceCidrs).absent.is_none());
}

#[test]
fn a_node_that_does_not_exist_yet_is_waited_for_within_a_bound() {
    let server = server();
    server.delete(NODES, "", NODE);
    let mut rig = Rig::follow(anonymous(&[&server]), bounds());
    rig.until("everything is listed without the Node", |rig| rig.state.is_listed());
    assert_eq!(rig.warnings.len(), 1, "{:?}", rig.warnings);
    assert!(rig.warnings[0].to_string().starts_with("Node node-1: not found"), "{}", rig.warnings[0]);
    assert_eq!(rig.state.node().zone, None);
    let node = json!({ "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": "z" } } });
    server.put(NODES, node);
    rig.until("the Node is known", |rig| rig.state.node().zone.is_some());
}

#[test]
fn a_node_that_comes_in_time_is_not_complained_about() {
    let server = server();
    server.delete(NODES, "", NODE);
    let patient = Bounds { node: Duration::from_mins(1), ..bounds() };
    let mut rig = Rig::follow(anonymous(&[&server]), patient);
    rig.until("all but the Node is listed", |rig| rig.state.unlisted().eq([Listing::Node]));
    rig.until("the Node was looked for", |rig| rig.watch(Listing::Node).listings == 1);
    assert!(!rig.state.is_listed());
    server.put(NODES, json!({ "metadata": { "name": NODE } }));
    rig.until("everything is listed", |rig| rig.state.is_listed());
    assert!(rig.warnings.is_empty(), "{:?}", rig.warnings);
}
