//! Full tables: the new is refused whole and named, the old stays right, and room is used once there is some.

use proptest::prelude::*;
use proxy_common::lb::{Lookup, Origin};
use proxy_common::node::NodeAddrFlags;

use super::cases::{PORTS, addr, any_steps, cluster_ip, cluster_ip_frontends, config, endpoint, port};
use super::readers::{Outcome, outcomes};
use super::world::{RULES, World};
use crate::maps::memory::Faults;
use crate::plan::diff::{Changes, Planned};
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::{DesiredNode, DesiredPort, OwnerTag};

/// Two endpoints, in all views.
const TWO: [Option<u8>; 2] = [Some(7), Some(7)];

fn vip_port(tag: u64, endpoints: &[Option<u8>]) -> DesiredPort {
    port(tag, cluster_ip_frontends(tag), endpoints)
}

fn upsert(upsert: Vec<DesiredPort>) -> Changes {
    Changes { upsert, ..Changes::default() }
}

fn world(limits: Limits) -> World {
    World::new(Rules { limits, ..RULES })
}

fn refused(planned: &Planned) -> Vec<(&str, &str)> {
    planned.refused.iter().map(|refused| (&*refused.label, refused.table)).collect()
}

#[test]
fn a_full_table_refuses_the_new_whole_and_keeps_the_old() {
    for (table, limits) in [
        ("SERVICES", Limits { cells: 2, ..RULES.limits }),
        ("BACKENDS", Limits { rows: 5, ..RULES.limits }),
        ("SLOTS", Limits { slots: 4, ..RULES.limits }),
        ("FRONTENDS", Limits { frontends: 4, ..RULES.limits }),
    ] {
        let mut world = world(limits);
        world.sync(upsert(vec![vip_port(1, &TWO), vip_port(2, &TWO)])).unwrap();
        let before = world.text();
        let planned = world.sync(upsert(vec![vip_port(3, &TWO)])).unwrap();
        assert_eq!(refused(&planned), [("default/web3:http/tcp", table)]);
        assert_eq!(world.text(), before, "{table}");
        assert_eq!(world.store.memory.frontend(&cluster_ip(3)), None);
        let again = world.sync(Changes::default()).unwrap();
        assert_eq!((refused(&again).len(), again.ops.len()), (1, 0), "{table}");

        let removal = Changes { remove: vec![OwnerTag(1)], ..Changes::default() };
        world.sync(removal).unwrap();
        world.rest();
        world.check_converged();
        assert_eq!(world.ports.len(), 2);
        assert!(world.store.memory.frontend(&cluster_ip(3)).is_some(), "{table}");
        assert_eq!(world.store.readers.violations, Vec::<String>::new());
    }
}

#[test]
fn a_block_without_room_is_named_and_holds_up_no_service() {
    for (table, limits) in [
        ("OWNED", Limits { blocks: 1, ..RULES.limits }),
        ("FRONTENDS", Limits { frontends: 3, ..RULES.limits }),
    ] {
        let mut world = world(limits);
        // The VIPs lie in different blocks.
        let planned = world.sync(upsert(vec![vip_port(1, &TWO), vip_port(2, &TWO)])).unwrap();
        assert_eq!(refused(&planned), [("refusal of unknown ports of 10.96.1.1", table)]);
        assert!(world.store.memory.frontend(&cluster_ip(1)).is_some(), "the port itself is served");
        assert!(!world.planner.is_in_sync());
        world.sync(Changes { remove: vec![OwnerTag(2)], ..Changes::default() }).unwrap();
        world.rest();
        world.check_converged();
    }
}

/// A batch that dies after the owner, then growth that fails: the port is refused with a cell that says nothing yet.
#[test]
fn a_refused_port_whose_cell_has_just_an_owner_gets_no_frontend() {
    let mut refusals = 0;
    for first in 0..16 {
        for second in 0..6 {
            let mut world = world(RULES.limits);
            world.store.memory.faults = Faults::fail_after(first);
            let _ = world.sync(upsert(vec![vip_port(1, &[])]));
            world.store.memory.faults = Faults::fail_after(second);
            let _ = world.sync(upsert(vec![vip_port(1, &TWO)]));
            world.store.memory.faults = Faults::default();
            refusals += world.sync(Changes::default()).unwrap().refused.len();
            assert_eq!(
                world.store.readers.violations,
                Vec::<String>::new(),
                "faults at {first} and {second}"
            );
            world.store.memory.advance(20_000);
            world.sync(Changes::default()).unwrap();
            world.check_converged();
        }
    }
    assert!(refusals > 0, "no growth failed");
}

#[test]
fn a_change_without_room_goes_as_far_as_there_is_room() {
    let mut world = world(Limits { rows: 3, ..RULES.limits });
    world.sync(upsert(vec![vip_port(1, &TWO)])).unwrap();
    let grown = vip_port(1, &[None, Some(7), Some(7), Some(7)]);
    let planned = world.sync(upsert(vec![grown.clone(), vip_port(2, &[Some(7)])])).unwrap();
    let [one, two] = ["default/web1:http/tcp", "default/web2:http/tcp"];
    assert_eq!(refused(&planned), [(one, "BACKENDS"), (two, "BACKENDS")], "the old one goes before the new");
    assert_eq!(served(&world, 1), [2, 3], "the first is gone, and of two new ones one finds a row");
    assert_eq!(world.sync(Changes::default()).unwrap().ops, [], "there is no more room");
    world.sync(Changes { remove: vec![OwnerTag(2)], ..Changes::default() }).unwrap();
    world.rest();
    assert_eq!(served(&world, 1), [2, 3, 4]);
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

/// All endpoints of a service port are replaced, and there is no row for the new ones before the old ones have rested.
#[test]
fn a_port_whose_endpoints_are_all_gone_refuses_until_there_is_room() {
    let mut world = world(Limits { rows: 2, ..RULES.limits });
    world.sync(upsert(vec![vip_port(1, &TWO)])).unwrap();
    world.sync(upsert(vec![vip_port(1, &[None, None, Some(7)])])).unwrap();
    assert_eq!(served(&world, 1), Vec::<u8>::new());
    world.rest();
    assert_eq!(served(&world, 1), [3]);
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

#[test]
fn a_frontend_that_moves_to_where_no_room_is_leaves_where_it_was() {
    let mut world = world(Limits { frontends: 2, ..RULES.limits });
    let at = |vip: u64, endpoints: &[Option<u8>]| port(1, cluster_ip_frontends(vip), endpoints);
    world.sync(upsert(vec![at(1, &TWO)])).unwrap();
    let moved = at(2, &[None, Some(7), Some(7)]);
    assert_eq!(refused(&world.sync(upsert(vec![moved])).unwrap()), [("default/web1:http/tcp", "FRONTENDS")]);
    assert_eq!(world.store.memory.frontend(&cluster_ip(1)), None);
    assert_eq!(refused(&world.sync(Changes::default()).unwrap()), []);
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

/// Its claims went in a batch that died before its frontend did: it is served as long as the maps lead to it.
#[test]
fn a_served_port_that_comes_back_before_it_has_gone_is_served_on_without_room() {
    let mut world = world(Limits { rows: 2, ..RULES.limits });
    world.sync(upsert(vec![vip_port(1, &TWO)])).unwrap();
    world.store.memory.faults = Faults::fail_after(0);
    world.sync(Changes { remove: vec![OwnerTag(1)], ..Changes::default() }).unwrap_err();
    let grown = vip_port(1, &[None, Some(7), Some(7)]);
    let planned = world.sync(upsert(vec![grown])).unwrap();
    assert_eq!(refused(&planned), [("default/web1:http/tcp", "BACKENDS")]);
    assert_eq!(served(&world, 1), [2]);
    world.rest();
    assert_eq!(served(&world, 1), [2, 3]);
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

/// The same of one whose frontend moves.
#[test]
fn a_served_port_whose_move_died_moves_without_room_for_the_rest() {
    let mut world = world(Limits { rows: 2, ..RULES.limits });
    let at = |vip: u64, endpoints: &[Option<u8>]| port(1, cluster_ip_frontends(vip), endpoints);
    world.sync(upsert(vec![at(1, &TWO)])).unwrap();
    world.store.memory.faults = Faults::fail_after(0);
    world.sync(upsert(vec![at(2, &TWO)])).unwrap_err();
    let planned = world.sync(upsert(vec![at(2, &[None, Some(7), Some(7)])])).unwrap();
    assert_eq!(refused(&planned), [("default/web1:http/tcp", "BACKENDS")]);
    assert_eq!((served(&world, 1), served(&world, 2)), (vec![], vec![2]));
    world.rest();
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

/// Indices of the endpoints that the cluster IP of a service port leads to.
fn served(world: &World, tag: u64) -> Vec<u8> {
    let met = outcomes(&world.store.memory, &cluster_ip(tag), Origin::Pod);
    let leads_to = |index: &u8| {
        let (addr, port) = endpoint(*index);
        met.contains(&Outcome::To(addr, port))
    };
    (1..=6).filter(leads_to).collect()
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (1..6_u32, 1..16_u32, 1..12_u32, 1..10_u32, 1..4_u32, 0..6_u32).prop_map(
        |(cells, rows, slots, frontends, blocks, sources)| Limits {
            cells,
            rows,
            slots: slots * 2,
            frontends,
            blocks,
            sources,
            ..RULES.limits
        },
    )
}

proptest! {
    #![proptest_config(config())]

    /// What is gone leaves at once: the world checks that of each batch with refusals.
    #[test]
    fn full_tables_hold_what_is_wanted_and_take_it_once_there_is_room(
        steps in any_steps(8),
        limits in any_limits(),
        may_lack_slots in any::<bool>(),
    ) {
        let slots = if may_lack_slots { limits.slots } else { RULES.limits.slots };
        let mut world = world(Limits { slots, ..limits });
        world.may_lack_slots = may_lack_slots;
        for (changes, pause) in steps {
            world.store.memory.advance(pause);
            world.sync(changes).unwrap();
            prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        }
        // A view that changes needs slots beside those it has; a port that has them all keeps its views for good.
        if may_lack_slots {
            world.sync(Changes { remove: vec![OwnerTag(1)], ..Changes::default() }).unwrap();
            world.rest();
        }
        // Every service port but one goes, and that one needs little.
        let remove = (2..=PORTS).map(OwnerTag).collect();
        world.sync(Changes { remove, upsert: vec![vip_port(1, &[Some(7)])], ..Changes::default() }).unwrap();
        world.rest();
        world.rest();
        prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        if limits.frontends > 1 {
            world.check_converged();
        }
    }

    /// As above, and batches end early: a service port is kept by what the maps say of it, not by what it was to become.
    #[test]
    fn full_tables_keep_what_is_served_where_batches_end_early(
        steps in any_steps(8),
        limits in any_limits(),
        seed in any::<u64>(),
    ) {
        let mut world = world(limits);
        world.may_lack_slots = true;
        for (index, (changes, pause)) in (0..).zip(steps) {
            world.store.memory.advance(pause);
            world.store.memory.faults = Faults::share(10, seed ^ index);
            // The next step takes up what this one has left.
            let _ = world.sync(changes);
            prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        }
        world.store.memory.faults = Faults::default();
        world.store.memory.advance(20_000);
        world.sync(Changes { remove: (1..=PORTS).map(OwnerTag).collect(), ..Changes::default() }).unwrap();
        world.rest();
        world.sync(upsert(vec![vip_port(1, &[Some(7)])])).unwrap();
        world.rest();
        prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        if limits.frontends > 1 {
            world.check_converged();
        }
    }
}

#[test]
fn a_view_larger_than_a_chunk_is_refused() {
    let mut world = world(Limits { slots: 1 << 20, rows: 1 << 18, ..RULES.limits });
    world.store.is_looking = false;
    let mut large = vip_port(1, &[Some(7)]);
    let backend = large.backends[0];
    large.backends = (0..=proxy_common::names::CHUNK_SLOTS)
        .map(|index| {
            let [a, b, c, _] = backend.addr.words();
            let addr = proxy_common::addr::Addr::from_words([a, b, c, index]);
            crate::plan::tables::DesiredBackend { addr, ..backend }
        })
        .collect();
    assert_eq!(refused(&world.planner.plan(upsert(vec![large]), 0)), [("default/web1:http/tcp", "SLOTS")]);
}

#[test]
fn growth_that_fails_holds_up_only_who_needs_it() {
    let mut world = world(RULES.limits);
    world.sync(Changes::default()).unwrap();
    world.store.memory.faults = Faults::fail_after(0);
    world.sync(upsert(vec![vip_port(1, &TWO)])).unwrap_err();
    let planned = world.sync(upsert(vec![vip_port(2, &[])])).unwrap();
    assert_eq!(refused(&planned).len(), 2, "both need a first chunk of cells");
    world.store.memory.advance(10_000);
    assert_eq!(refused(&world.sync(Changes::default()).unwrap()), []);
    world.check_converged();
}

#[test]
fn a_frontend_hash_that_cannot_grow_refuses_the_new() {
    let mut world = world(RULES.limits);
    world.sync(upsert(vec![vip_port(1, &TWO), vip_port(2, &TWO)])).unwrap();
    world.store.memory.faults = Faults::fail_after(0);
    world.sync(upsert(vec![vip_port(3, &TWO)])).unwrap_err();
    let changed = vip_port(1, &[Some(7)]);
    let planned = world.sync(upsert(vec![changed])).unwrap();
    assert_eq!(refused(&planned), [("default/web3:http/tcp", "FRONTENDS")]);
    world.store.memory.advance(10_000);
    assert_eq!(refused(&world.sync(Changes::default()).unwrap()), []);
    world.check_converged();
    assert_eq!(world.store.readers.violations, Vec::<String>::new());
}

#[test]
fn a_node_address_without_room_is_named_and_comes_later() {
    let mut world = world(Limits { node_addrs: 1, ..RULES.limits });
    let flags = NodeAddrFlags::LOCAL;
    let node = |hosts: &[&str]| {
        let addresses = hosts.iter().map(|host| (addr(host), flags)).collect();
        Changes { node: Some(DesiredNode { addresses, ..DesiredNode::default() }), ..Changes::default() }
    };
    world.sync(node(&["192.0.2.1"])).unwrap();
    let planned = world.sync(node(&["192.0.2.2"])).unwrap();
    assert_eq!(refused(&planned), [("node address 192.0.2.2", "NODE_ADDRS")]);
    assert_eq!(refused(&world.sync(Changes::default()).unwrap()), []);
    world.check_converged();
}
