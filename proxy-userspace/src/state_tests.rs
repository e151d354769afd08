//! The state, rule by rule.

use proptest::prelude::*;

use super::*;
use crate::model::{Endpoint, Family, TrafficPolicy};

fn name(text: &str) -> ObjectName {
    ObjectName::new("default", text)
}

fn service(text: &str, last: u8) -> Event {
    Event::ServiceApplied(Arc::new(Service {
        name: name(text),
        cluster_ips: vec![[10, 96, 0, last].into()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }))
}

fn slice(text: &str, service: &str, last: u8) -> Event {
    let endpoint = Endpoint {
        addr: [10, 0, 0, last].into(),
        node: None,
        ready: true,
        serving: true,
        terminating: false,
        hints: None,
    };
    Event::SliceApplied(Arc::new(EndpointSlice {
        name: name(text),
        service: service.into(),
        family: Family::V4,
        endpoints: vec![endpoint],
        ports: vec![],
        triggered_at: None,
    }))
}

fn cidr(text: &str, net: &str) -> Event {
    Event::ServiceCidrApplied(ServiceCidr { name: text.into(), cidrs: vec![net.parse().unwrap()] })
}

fn node(zone: &str) -> Node {
    Node { name: "a".into(), zone: Some(zone.into()), ..Node::default() }
}

fn empty() -> State {
    State::new("a", Listing::ALL)
}

fn services(names: &[&str]) -> Dirty {
    Dirty { services: names.iter().map(|text| name(text)).collect(), ..Dirty::default() }
}

fn world(state: &State) -> impl PartialEq + std::fmt::Debug {
    let services: Vec<_> = state.service_names().map(|name| state.service(name).cloned()).collect();
    let slices: Vec<_> = ["a", "b", "c"].iter().flat_map(|text| state.slices(&name(text)).cloned()).collect();
    let cidrs: Vec<_> = state.cidrs().cloned().collect();
    (services, slices, cidrs, state.node().clone(), state.addresses().to_vec(), state.entries.len())
}

#[test]
fn the_gate_opens_after_every_expected_listing() {
    let mut state = State::new("a", [Listing::Services, Listing::NodeAddresses]);
    assert!(!state.is_listed());
    state.apply(Event::ListEnded(Listing::Services));
    state.apply(Event::ListEnded(Listing::Services));
    state.apply(Event::ListStarted(Listing::NodeAddresses));
    assert_eq!(state.unlisted().collect::<Vec<_>>(), [Listing::NodeAddresses]);
    state.apply(Event::ListEnded(Listing::NodeAddresses));
    assert!(state.is_listed());
    state.apply(Event::ListStarted(Listing::Services));
    assert!(state.is_listed(), "a later listing does not close it again");
    assert!(State::new("a", []).is_listed());
}

#[test]
fn equal_objects_make_nothing_dirty() {
    let mut state = empty();
    let events = [
        (service("a", 1), services(&["a"])),
        (slice("a-1", "a", 1), services(&["a"])),
        (cidr("k", "10.96.0.0/12"), node_dirty(true)),
        (Event::NodeAddresses(vec![[10, 0, 0, 1].into()]), node_dirty(true)),
        (Event::NodeApplied(node("z")), Dirty { all: true, ..Dirty::default() }),
    ];
    for (event, dirty) in events {
        assert_eq!(state.apply(event.clone()), dirty, "{event:?}");
        assert_eq!(state.apply(event), Dirty::default());
    }
    assert_eq!(state.apply(service("a", 2)), services(&["a"]));
}

#[test]
fn slices_and_services_come_in_any_order() {
    let mut state = empty();
    assert_eq!(state.apply(slice("a-2", "a", 2)), services(&["a"]));
    assert_eq!(state.apply(slice("a-1", "a", 1)), services(&["a"]));
    assert_eq!((state.service(&name("a")), state.service_names().count()), (None, 0));
    state.apply(service("a", 1));
    let order: Vec<_> = state.slices(&name("a")).map(|slice| slice.name.clone()).collect();
    assert_eq!(order, [name("a-1"), name("a-2")]);
    assert_eq!(state.apply(Event::ServiceDeleted(name("a"))), services(&["a"]));
    assert_eq!(state.apply(Event::ServiceDeleted(name("a"))), Dirty::default());
    assert_eq!(state.slices(&name("a")).count(), 2, "they stay for the Service's return");
    for slice in ["a-1", "a-2"] {
        assert_eq!(state.apply(Event::SliceDeleted(name(slice))), services(&["a"]));
    }
    assert_eq!(state.apply(Event::SliceDeleted(name("a-1"))), Dirty::default());
    assert!(state.entries.is_empty() && state.slices.is_empty());
}

#[test]
fn a_slice_that_changes_its_service_touches_both() {
    let mut state = empty();
    state.apply(slice("x", "a", 1));
    assert_eq!(state.apply(slice("x", "b", 1)), services(&["a", "b"]));
    assert_eq!((state.slices(&name("a")).count(), state.slices(&name("b")).count()), (0, 1));
    assert_eq!(state.entries.len(), 1);
}

#[test]
fn the_node_keeps_its_name() {
    let mut state = empty();
    assert_eq!(&*state.node().name, "a");
    assert!(state.apply(Event::NodeApplied(node("z"))).all);
    let moved = Node { addresses: vec![[10, 0, 0, 1].into()], ..node("z") };
    assert_eq!(state.apply(Event::NodeApplied(moved)), node_dirty(true));
    let gone = state.apply(Event::NodeDeleted);
    assert_eq!(gone, Dirty { node: true, all: true, ..Dirty::default() });
    assert_eq!(state.node(), &Node { name: "a".into(), is_leaving: true, ..Node::default() });
}

#[test]
fn an_address_of_the_node_touches_services_with_source_ranges() {
    let mut state = empty();
    state.apply(service("open", 1));
    let Event::ServiceApplied(mut bound) = service("bound", 2) else { unreachable!() };
    Arc::make_mut(&mut bound).source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    state.apply(Event::ServiceApplied(bound));
    state.apply(Event::NodeApplied(node("zone")));
    let moved = Node { addresses: vec![[203, 0, 113, 1].into()], ..node("zone") };
    let dirty = state.apply(Event::NodeApplied(moved.clone()));
    assert_eq!(dirty, Dirty { node: true, ..services(&["bound"]) });
    let labelled = Node { pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()], ..moved };
    assert_eq!(state.apply(Event::NodeApplied(labelled)), Dirty { node: true, ..Dirty::default() });
}

#[test]
fn a_node_that_leaves_stays_served_and_one_that_was_never_there_does_not_leave() {
    let mut state = empty();
    for event in [Event::ListStarted(Listing::Node), Event::ListEnded(Listing::Node), Event::NodeDeleted] {
        assert!(state.apply(event).is_empty() && !state.node().is_leaving);
    }
    state.apply(Event::NodeApplied(node("z")));
    let leaving = Node { is_leaving: true, ..node("z") };
    assert!(state.apply(Event::NodeApplied(leaving)).is_empty(), "nothing is to be planned again");
    assert!(state.node().is_leaving);
    state.apply(Event::NodeApplied(node("z")));
    assert!(!state.node().is_leaving, "the mark was taken off");
    // A second end of the same Node changes nothing.
    for _ in 0..2 {
        state.apply(Event::NodeDeleted);
        assert!(state.node().is_leaving);
    }
}

#[test]
fn what_a_relist_does_not_name_is_gone_at_its_end() {
    let mut state = empty();
    for event in [service("a", 1), service("b", 1), slice("a-1", "a", 1), slice("b-1", "b", 1)] {
        state.apply(event);
    }
    state.apply(Event::NodeApplied(node("z")));
    state.apply(cidr("k", "10.96.0.0/12"));
    state.apply(Event::NodeAddresses(vec![[10, 0, 0, 1].into()]));
    let mut during = Dirty::default();
    for listing in Listing::ALL {
        during.merge(state.apply(Event::ListStarted(listing)));
    }
    during.merge(state.apply(service("a", 1)));
    during.merge(state.apply(slice("b-1", "b", 1)));
    assert!(during.is_empty(), "nothing goes before the end: {during:?}");
    assert_eq!(state.apply(Event::ListEnded(Listing::Services)), services(&["b"]));
    assert_eq!(state.apply(Event::ListEnded(Listing::EndpointSlices)), services(&["a"]));
    assert!(state.apply(Event::ListEnded(Listing::Node)).all);
    assert_eq!(state.apply(Event::ListEnded(Listing::ServiceCidrs)), node_dirty(true));
    assert_eq!(state.apply(Event::ListEnded(Listing::NodeAddresses)), node_dirty(true));
    assert_eq!(state.service_names().collect::<Vec<_>>(), [&name("a")]);
    assert_eq!((state.slices(&name("b")).count(), state.slices(&name("a")).count()), (1, 0));
}

#[test]
fn what_a_relist_keeps_stands_as_it_was() {
    let mut state = empty();
    for event in [service("a", 1), slice("a-1", "a", 1), Event::NodeApplied(node("z"))] {
        state.apply(event);
    }
    state.apply(cidr("k", "10.96.0.0/12"));
    let kept = [
        (Listing::Services, Event::ServiceKept(name("a"))),
        (Listing::EndpointSlices, Event::SliceKept(name("a-1"))),
        (Listing::Node, Event::NodeKept),
        (Listing::ServiceCidrs, Event::ServiceCidrKept("k".into())),
    ];
    for (listing, event) in kept {
        for event in [Event::ListStarted(listing), event, Event::ListEnded(listing)] {
            assert!(state.apply(event).is_empty(), "{listing:?}");
        }
    }
    assert!(state.service(&name("a")).is_some() && state.slices(&name("a")).count() == 1);
    assert!(state.node().zone.is_some() && state.cidrs().count() == 1);
    // What was never known does not come into being.
    assert!(state.apply(Event::ServiceKept(name("b"))).is_empty() && state.service(&name("b")).is_none());
}

#[test]
fn a_listing_that_breaks_off_deletes_nothing() {
    let mut state = empty();
    state.apply(service("a", 1));
    state.apply(Event::ListStarted(Listing::Services));
    state.apply(Event::ListStarted(Listing::Services));
    state.apply(service("a", 1));
    assert!(state.apply(Event::ListEnded(Listing::Services)).is_empty());
    assert!(state.apply(Event::ListEnded(Listing::Services)).is_empty(), "an end without a start");
    assert!(state.service(&name("a")).is_some());
}

fn any_event() -> impl Strategy<Value = Event> {
    let text = prop::sample::select(vec!["a", "b", "c"]);
    let listing = prop::sample::select(Listing::ALL.to_vec());
    prop_oneof![
        4 => (text.clone(), 0..2u8).prop_map(|(text, last)| service(text, last)),
        2 => text.clone().prop_map(|text| Event::ServiceDeleted(name(text))),
        4 => (text.clone(), text.clone(), 0..2u8).prop_map(|(it, of, last)| slice(it, of, last)),
        2 => text.prop_map(|text| Event::SliceDeleted(name(text))),
        1 => listing.clone().prop_map(Event::ListStarted),
        1 => listing.prop_map(Event::ListEnded),
    ]
}

proptest! {
    /// Whatever came before, a listing leaves what a fresh state would have; and a change is dirty if and only
    /// if something changed.
    #[test]
    fn a_listing_forgets_the_past(
        past in prop::collection::vec(any_event(), 0..40),
        present in prop::collection::vec(any_event(), 0..10),
    ) {
        let (mut old, mut fresh) = (empty(), empty());
        for event in past {
            let before = format!("{:?}", world(&old));
            let dirty = old.apply(event);
            prop_assert_eq!(dirty.is_empty(), before == format!("{:?}", world(&old)));
        }
        let is_change = |event: &Event| !matches!(event, Event::ListStarted(_) | Event::ListEnded(_));
        let present: Vec<_> = present.into_iter().filter(is_change).collect();
        for state in [&mut old, &mut fresh] {
            Listing::ALL.map(Event::ListStarted).into_iter().for_each(|event| drop(state.apply(event)));
            present.iter().cloned().for_each(|event| drop(state.apply(event)));
            Listing::ALL.map(Event::ListEnded).into_iter().for_each(|event| drop(state.apply(event)));
        }
        prop_assert!(world(&old) == world(&fresh));
    }
}
