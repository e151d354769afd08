//! Ranges of clients: who is let in through a frontend that checks the source, and what happens to those of cells that
//! change hands.

use ipnet::IpNet;
use proptest::prelude::*;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::lb::Lookup;
use proxy_common::node::CidrKey;
use proxy_common::source::SourceKey;

use super::cases::{addr, cluster_ip_frontends, frontend, port};
use super::world::{RULES, World};
use crate::maps::apply::StoreOrder;
use crate::maps::memory::Faults;
use crate::maps::render::range_text;
use crate::maps::{Hashes, StoreError};
use crate::plan::diff::{Changes, Planned};
use crate::plan::ops::MapOp;
use crate::plan::quarantine::QUARANTINE;
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::{DesiredFrontend, DesiredPort, OwnerTag};

const RANGES: [&str; 5] =
    ["203.0.113.0/24", "203.0.113.128/25", "203.0.113.7/32", "198.51.100.0/24", "198.51.100.0/25"];

/// Whoever the readers pose as.
pub(super) fn clients() -> impl Iterator<Item = Addr> {
    ["203.0.113.7", "203.0.113.200", "203.0.113.9", "198.51.100.9", "192.0.2.77"].into_iter().map(addr)
}

pub(super) fn checks_source(flags: u8) -> bool {
    flags & FrontendValue::CHECK_SOURCE != 0
}

/// Whether a version lets a client in through a frontend; `None`: it has no such frontend.
pub(super) fn lets_in(version: &DesiredPort, key: &FrontendKey, client: Addr) -> Option<bool> {
    let claim = version.frontends.iter().find(|frontend| frontend.key == *key)?;
    Some(!checks_source(claim.flags) || holds(version, client))
}

/// Whether a client is within a range of a version.
pub(super) fn holds(version: &DesiredPort, client: Addr) -> bool {
    let covers = |range: &CidrKey| range_text(range).parse::<IpNet>().unwrap().contains(&client.to_ip());
    version.sources.iter().any(covers)
}

/// Ranges as a service port wants them.
pub(super) fn sources(texts: &[&str]) -> Box<[CidrKey]> {
    let key = |text: &&str| {
        let net: IpNet = text.parse().unwrap();
        CidrKey { prefix_len: 96 + u32::from(net.prefix_len()), addr: net.network().into() }
    };
    let mut keys: Vec<CidrKey> = texts.iter().map(key).collect();
    keys.sort_unstable();
    keys.into()
}

/// Some ranges; one may lie inside another.
pub(super) fn any_sources() -> impl Strategy<Value = Box<[CidrKey]>> {
    prop::sample::subsequence(RANGES.to_vec(), 1..=RANGES.len()).prop_map(|texts| sources(&texts))
}

/// The key of the load balancer's IP of a service port.
fn balancer(tag: u64) -> FrontendKey {
    FrontendKey::new(addr(&format!("192.0.2.{tag}")), Port::new(80), Proto::TCP)
}

/// A service port with a load balancer's IP, bound by `ranges` if there are any.
fn bound(tag: u64, ranges: &[&str]) -> DesiredPort {
    let flags = if ranges.is_empty() { 0 } else { FrontendValue::CHECK_SOURCE };
    let mut frontends = cluster_ip_frontends(tag);
    frontends.push(DesiredFrontend { flags, ..frontend(balancer(tag), FrontendKind::LoadBalancer) });
    DesiredPort { sources: sources(ranges), ..port(tag, frontends, &[Some(7)]) }
}

fn upsert(ports: &[DesiredPort]) -> Changes {
    Changes { upsert: ports.to_vec(), ..Changes::default() }
}

fn removed(tag: u64) -> Changes {
    Changes { remove: vec![OwnerTag(tag)], ..Changes::default() }
}

/// Those of the clients that a service port's cell lets in.
fn let_in(world: &World, tag: u64) -> Vec<String> {
    let memory = &world.store.memory;
    let service = memory.frontend(&balancer(tag)).unwrap().service;
    clients().filter(|client| memory.is_allowed_source(service, *client)).map(|it| it.to_string()).collect()
}

fn refused(planned: &Planned) -> Vec<(&str, &str)> {
    planned.refused.iter().map(|refused| (&*refused.label, refused.table)).collect()
}

#[test]
fn ranges_join_before_others_leave_and_the_check_comes_and_goes_in_place() {
    let mut world = World::new(RULES);
    world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
    assert_eq!(let_in(&world, 1), ["203.0.113.7", "203.0.113.200", "203.0.113.9"]);
    let planned = world.sync(upsert(&[bound(1, &["203.0.113.7/32", "198.51.100.0/24"])])).unwrap();
    let kinds = planned.ops.iter().map(|op| matches!(op, MapOp::InsertSource(_))).collect::<Vec<_>>();
    assert_eq!(kinds, [true, true, false], "nothing else changes: {:?}", planned.ops);
    assert_eq!(let_in(&world, 1), ["203.0.113.7", "198.51.100.9"]);
    for (ranges, flags) in [(&[][..], 0), (&["203.0.113.7/32"][..], FrontendValue::CHECK_SOURCE)] {
        let planned = world.sync(upsert(&[bound(1, ranges)])).unwrap();
        let replaced = planned.ops.iter().filter(|op| matches!(op, MapOp::ReplaceFrontend(..))).count();
        assert_eq!(replaced, 1, "{:?}", planned.ops);
        assert_eq!(world.store.memory.frontend(&balancer(1)).unwrap().flags, flags);
        world.check_converged();
    }
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

#[test]
fn each_service_port_has_the_ranges_of_its_own() {
    let mut world = World::new(RULES);
    world.sync(upsert(&[bound(1, &["203.0.113.7/32"]), bound(2, &["198.51.100.0/24"])])).unwrap();
    assert_eq!(
        (let_in(&world, 1), let_in(&world, 2)),
        (vec!["203.0.113.7".into()], vec!["198.51.100.9".into()])
    );
    world.sync(removed(1)).unwrap();
    assert_eq!(world.store.memory.sources().unwrap().len(), 1);
    world.check_converged();
}

/// Ranges of one client each, so that a number of them is a number of rows.
#[test]
fn ranges_without_room_refuse_the_new_and_shut_out_clients_of_the_old() {
    let mut world = World::new(Rules { limits: Limits { sources: 2, ..RULES.limits }, ..RULES });
    let [a, b, c] = ["203.0.113.7/32", "203.0.113.200/32", "198.51.100.9/32"];
    world.sync(upsert(&[bound(1, &[a]), bound(2, &[a])])).unwrap();
    let before = world.text();
    let planned = world.sync(upsert(&[bound(3, &[c])])).unwrap();
    assert_eq!(refused(&planned), [("default/web3:http/tcp", "SOURCES")]);
    assert_eq!(world.text(), before, "refused whole");
    world.sync(removed(3)).unwrap();

    let planned = world.sync(upsert(&[bound(1, &[a, b, c]), bound(2, &[c])])).unwrap();
    let [one, two] = ["default/web1:http/tcp", "default/web2:http/tcp"];
    assert_eq!(refused(&planned), [(one, "SOURCES"), (two, "SOURCES")]);
    assert_eq!((let_in(&world, 1), let_in(&world, 2)), (vec!["203.0.113.7".into()], Vec::<String>::new()));
    let planned = world.sync(Changes::default()).unwrap();
    assert_eq!(refused(&planned), [(one, "SOURCES")]);
    assert_eq!(let_in(&world, 2), ["198.51.100.9"], "what left has given its room, and this one fits whole");
    assert_eq!(let_in(&world, 1), ["203.0.113.7"]);
    assert_eq!(world.sync(Changes::default()).unwrap().ops, [], "there is no more");

    world.sync(upsert(&[bound(2, &[])])).unwrap();
    assert_eq!(refused(&world.sync(Changes::default()).unwrap()), [(one, "SOURCES")]);
    assert_eq!(let_in(&world, 1).len(), 2, "in part");
    world.sync(upsert(&[bound(1, &[b, c])])).unwrap();
    world.sync(Changes::default()).unwrap();
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

#[test]
fn ranges_follow_where_the_views_find_no_slots() {
    let limits = Limits { slots: 2, ..RULES.limits };
    let mut world = World::new(Rules { limits, ..RULES });
    world.may_lack_slots = true;
    world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
    let other = DesiredPort {
        backends: port(1, Vec::new(), &[None, Some(7)]).backends,
        ..bound(1, &["198.51.100.0/24"])
    };
    let planned = world.sync(upsert(&[other])).unwrap();
    assert_eq!(refused(&planned), [("default/web1:http/tcp", "SLOTS")]);
    assert_eq!(let_in(&world, 1), ["198.51.100.9"]);
}

#[test]
fn ranges_of_a_cell_that_nobody_owns_let_nobody_in_and_go() {
    for is_given in [false, true] {
        let mut world = World::new(RULES);
        world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
        let cell = world.planner.actual().cell_of(OwnerTag(1)).unwrap();
        let strays = [cell + 1, cell + 7];
        for service in strays {
            for range in sources(&["198.51.100.0/24", "203.0.113.7/32"]) {
                world.store.memory.insert_source(SourceKey::new(service, range)).unwrap();
            }
        }
        world.restart(RULES);
        let next = bound(2, &["203.0.113.7/32"]);
        if is_given {
            world.desire(&upsert(&[next]));
        }
        let listing = world.listing();
        world.sync(listing).unwrap();
        assert_eq!(world.planner.actual().cell_of(OwnerTag(2)), is_given.then_some(cell + 1));
        world.check_converged();
        assert_eq!(world.store.readers.violations, Vec::<String>::new());
    }
}

#[test]
fn without_a_grace_period_who_was_let_in_is_turned_away_at_a_frontend_in_hand() {
    for (skips_grace, violates) in [(true, true), (false, false)] {
        for open in [upsert(&[bound(1, &[])]), removed(1)] {
            let mut world = World::new(RULES);
            world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
            world.skips_grace = skips_grace;
            world.sync(open).unwrap();
            let about_clients = |text: &String| text.contains("is open to");
            assert_eq!(world.store.readers.violations.iter().any(about_clients), violates);
        }
    }
}

/// The frontend is replaced, and the batch dies before the grace period after that, or before the ranges have gone.
#[test]
fn a_batch_that_ends_early_leaves_ranges_to_readers_with_a_frontend_in_hand() {
    for at in 0..3 {
        let mut world = World::new(RULES);
        world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
        world.store.memory.faults = Faults::fail_after(at);
        world.sync(upsert(&[bound(1, &[])])).unwrap_err();
        world.sync(Changes::default()).unwrap();
        assert_eq!(world.store.readers.violations, Vec::<String>::new(), "at effect {at}");
        world.check_converged();
    }
}

#[test]
fn in_reverse_order_somebody_is_let_in_whom_no_version_lets_in() {
    let first = upsert(&[bound(1, &["203.0.113.0/24"])]);
    let second = upsert(&[bound(1, &["203.0.113.0/25", "203.0.113.128/25"])]);
    for (order, violates) in [(StoreOrder::Planned, false), (StoreOrder::Reversed, true)] {
        let mut world = World::new(RULES);
        world.sync(first.clone()).unwrap();
        world.order = order;
        world.sync(second.clone()).unwrap();
        assert_eq!(
            !world.store.readers.violations.is_empty(),
            violates,
            "{:?}",
            world.store.readers.violations
        );
    }
}

#[test]
fn with_the_ranges_of_another_a_cell_is_refused() {
    let mut world = World::new(Rules { limits: Limits { cells: 1, ..RULES.limits }, ..RULES });
    world.sync(upsert(&[bound(1, &["203.0.113.0/24"])])).unwrap();
    world.store.is_looking = false;
    let planned = world.planner.plan(removed(1), world.store.memory.now());
    world.ports.clear();
    let kept: Vec<MapOp> =
        planned.ops.iter().filter(|op| !matches!(op, MapOp::DeleteSource(_))).cloned().collect();
    assert_eq!(planned.ops.len(), kept.len() + 1);
    world.run(&kept).unwrap();
    // The mirror is told that they went, as a planner that forgets them would have it.
    planned.ops.iter().filter(|op| !kept.contains(op)).for_each(|op| world.planner.settle(op));
    world.run(&[MapOp::Grace]).unwrap();
    world.store.memory.advance(QUARANTINE);
    let refused = world.sync(upsert(&[bound(2, &["198.51.100.0/24"])])).unwrap_err().source;
    assert!(matches!(refused, StoreError::NotCleared { map: "SOURCES", .. }), "{refused}");
}
