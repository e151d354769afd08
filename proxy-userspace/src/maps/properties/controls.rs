//! Control runs: the properties can fail, and the watch of the fake store can see.

use proxy_common::frontend::FrontendKey;
use proxy_common::lb::Lookup;

use super::cases::{cluster_ip, cluster_ip_frontends, port};
use super::world::{RULES, World};
use crate::maps::apply::StoreOrder;
use crate::maps::{Hashes, MapStore, StoreError, WordTable, Words};
use crate::plan::diff::Changes;
use crate::plan::ops::{MapOp, block_word};
use crate::plan::quarantine::QUARANTINE;
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::OwnerTag;

fn endpoints(endpoints: &[Option<u8>]) -> Changes {
    Changes { upsert: vec![port(1, cluster_ip_frontends(1), endpoints)], ..Changes::default() }
}

fn removed(tag: u64) -> Changes {
    Changes { remove: vec![OwnerTag(tag)], ..Changes::default() }
}

/// A table so small that what was freed in it must be used again.
struct Used {
    map: &'static str,
    limits: Limits,
    /// Uses the table up, and frees something.
    before: [Changes; 2],
    /// Needs what was freed.
    then: Changes,
}

impl Used {
    fn all() -> [Self; 4] {
        let limits = RULES.limits;
        let next =
            Changes { upsert: vec![port(2, cluster_ip_frontends(2), &[Some(7)])], ..Changes::default() };
        let replaced = [endpoints(&[Some(7)]), endpoints(&[None, Some(7)])];
        let gone = [endpoints(&[Some(7)]), removed(1)];
        let third = endpoints(&[None, None, Some(7)]);
        let used = |map, limits, before, then| Self { map, limits, before, then };
        [
            used("BACKENDS", Limits { rows: 2, ..limits }, replaced.clone(), third.clone()),
            used("SLOTS", Limits { slots: 4, ..limits }, replaced, third),
            used("SERVICES", Limits { cells: 1, ..limits }, gone.clone(), next.clone()),
            used("OWNED", Limits { blocks: 1, ..limits }, gone, next),
        ]
    }

    /// A world in which something was freed just now.
    fn world(&self, quarantine: u64, skips_grace: bool) -> World {
        let mut world = World::new(Rules { limits: self.limits, quarantine, ..RULES });
        world.skips_grace = skips_grace;
        self.before.iter().for_each(|changes| drop(world.sync(changes.clone()).unwrap()));
        world
    }

    /// How many the table has no room for.
    fn go_on(&self, world: &mut World) -> Result<usize, StoreError> {
        let planned = world.sync(self.then.clone()).map_err(|error| error.source)?;
        Ok(planned.refused.len())
    }
}

#[track_caller]
fn assert_too_early(breach: &StoreError, expected: &str) {
    assert!(
        matches!(breach, StoreError::ReusedTooEarly { map, .. } if *map == expected),
        "{expected}: {breach}"
    );
}

#[test]
fn without_quarantine_everything_is_reused_too_early() {
    for used in Used::all() {
        let breach = used.go_on(&mut used.world(0, false)).unwrap_err();
        assert_too_early(&breach, used.map);
        let mut patient = used.world(QUARANTINE, false);
        assert_eq!(used.go_on(&mut patient).unwrap(), 1, "{}: there is no room yet", used.map);
        patient.store.memory.advance(QUARANTINE);
        assert_eq!(used.go_on(&mut patient).unwrap(), 0, "{}", used.map);
        patient.check_converged();
    }
}

#[test]
fn without_a_grace_period_everything_is_reused_too_early() {
    for used in Used::all() {
        let mut world = used.world(QUARANTINE, true);
        world.store.memory.advance(QUARANTINE);
        let breach = used.go_on(&mut world).unwrap_err();
        // The entry that named a block went with the ports of its VIPs, and an element is taken before the block is.
        assert_too_early(&breach, if used.map == "OWNED" { "FRONTENDS" } else { used.map });
    }
}

#[test]
fn without_a_grace_period_a_block_is_reused_too_early() {
    let mut world = World::new(RULES);
    world.sync(endpoints(&[Some(7)])).unwrap();
    let (first, block) = world.planner.actual().blocks().next().unwrap();
    let memory = &mut world.store.memory;
    memory.delete_frontends(&[FrontendKey::owned_block(first)]).unwrap();
    memory.advance(QUARANTINE);
    let mut store = || memory.store(WordTable::Owned, block_word(block, 0), 0);
    assert_too_early(&store().unwrap_err(), "OWNED");
    memory.grace().unwrap();
    memory.store(WordTable::Owned, block_word(block, 0), 0).unwrap();
}

/// Both service ports go, and others take over their frontends.
fn moved() -> Changes {
    let heirs = [1, 2].map(|vip| port(vip + 2, cluster_ip_frontends(vip), &[Some(7)]));
    Changes { upsert: heirs.into(), remove: vec![OwnerTag(1), OwnerTag(2)], ..Changes::default() }
}

#[test]
fn without_a_grace_period_a_reader_of_the_hash_before_a_move_is_refused() {
    for (skips_grace, violates) in [(true, true), (false, false)] {
        let mut world = World::new(RULES);
        let ports = [1, 2].map(|vip| port(vip, cluster_ip_frontends(vip), &[Some(7)]));
        world.sync(Changes { upsert: ports.into(), ..Changes::default() }).unwrap();
        world.skips_grace = skips_grace;
        let planned = world.sync(moved()).unwrap();
        let moves = planned.ops.iter().filter(|op| matches!(op, MapOp::MoveFrontends(_))).count();
        assert_eq!((moves, world.store.readers.violations.is_empty()), (1, !violates));
    }
}

#[test]
fn what_is_not_there_cannot_be_moved() {
    let mut world = World::new(RULES);
    world.sync(endpoints(&[Some(7)])).unwrap();
    let memory = &mut world.store.memory;
    let value = memory.frontend(&cluster_ip(1)).unwrap();
    memory.move_frontends(&[(cluster_ip(1), value)]).unwrap();
    let refused = memory.move_frontends(&[(cluster_ip(1), value), (cluster_ip(2), value)]).unwrap_err();
    assert!(matches!(refused, StoreError::Missing { map: "FRONTENDS", .. }), "{refused}");
}

#[test]
fn without_a_grace_period_a_hash_element_is_reused_too_early() {
    let mut world = World::new(RULES);
    world.skips_grace = true;
    world.sync(endpoints(&[Some(7)])).unwrap();
    world.sync(removed(1)).unwrap();
    let reused = world.sync(endpoints(&[Some(7)])).unwrap_err().source;
    assert_too_early(&reused, "FRONTENDS");
}

#[test]
fn with_the_counts_of_another_a_cell_is_refused() {
    let mut world = World::new(Rules { limits: Limits { cells: 1, ..RULES.limits }, ..RULES });
    world.sync(endpoints(&[Some(7)])).unwrap();
    world.sync(removed(1)).unwrap();
    world.rest();
    let next = Changes { upsert: vec![port(2, cluster_ip_frontends(2), &[Some(7)])], ..Changes::default() };
    let planned = world.planner.plan(next, world.store.memory.now());
    let is_clearing = |op: &&MapOp| matches!(op, MapOp::ClearCounters { .. });
    assert_eq!(planned.ops.iter().filter(is_clearing).count(), 1);
    let kept: Vec<MapOp> = planned.ops.iter().filter(|op| !is_clearing(op)).cloned().collect();
    let refused = world.clone().run(&kept).unwrap_err().source;
    assert!(matches!(refused, StoreError::NotCleared { map: "COUNTERS", .. }), "{refused}");
    world.run(&planned.ops).unwrap();
}

#[test]
fn without_a_grace_period_a_reader_held_up_is_refused() {
    for (skips_grace, violates) in [(true, true), (false, false)] {
        let mut world = World::new(RULES);
        world.skips_grace = skips_grace;
        world.sync(endpoints(&[Some(7)])).unwrap();
        world.sync(removed(1)).unwrap();
        assert_eq!(!world.store.readers.violations.is_empty(), violates);
    }
}

#[test]
fn in_reverse_order_readers_meet_neither_whole() {
    let changed = endpoints(&[None, Some(7), Some(1)]);
    let mut world = World::new(RULES);
    world.sync(endpoints(&[Some(7), Some(7)])).unwrap();
    let mut planned = world.clone();
    planned.sync(changed.clone()).unwrap();
    assert_eq!(planned.store.readers.violations, Vec::<String>::new());
    world.order = StoreOrder::Reversed;
    let mut watched = world.clone();
    let breach = watched.sync(changed.clone()).unwrap_err().source;
    assert!(matches!(breach, StoreError::ReusedTooEarly { .. }), "{breach}");
    world.store.memory.ignore_breaches();
    world.sync(changed).unwrap();
    assert_ne!(world.store.readers.violations, Vec::<String>::new());
}
