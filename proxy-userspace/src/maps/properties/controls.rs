//! Control runs: the properties can fail, and the watch of the fake store can see.

use super::cases::{cluster_ip_frontends, port};
use super::world::{RULES, World};
use crate::maps::StoreError;
use crate::maps::apply::StoreOrder;
use crate::plan::diff::Changes;
use crate::plan::ops::MapOp;
use crate::plan::quarantine::QUARANTINE;
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::OwnerTag;

fn endpoints(endpoints: &[Option<u8>]) -> Changes {
    Changes { upsert: vec![port(1, cluster_ip_frontends(1), endpoints)], ..Changes::default() }
}

/// A world whose one service port has gone through two endpoints and needs a row for the third, with two rows in all.
fn needs_a_used_row(quarantine: u64, skips_grace: bool) -> World {
    let limits = Limits { rows: 2, ..RULES.limits };
    let mut world = World::new(Rules { limits, quarantine, ..RULES });
    world.skips_grace = skips_grace;
    world.sync(endpoints(&[Some(7)])).unwrap();
    world.sync(endpoints(&[None, Some(7)])).unwrap();
    world
}

fn third(world: &mut World) -> Result<usize, StoreError> {
    let planned = world.sync(endpoints(&[None, None, Some(7)])).map_err(|error| error.source)?;
    Ok(planned.refused.len())
}

#[test]
fn without_quarantine_a_row_is_reused_too_early() {
    let reused = third(&mut needs_a_used_row(0, false)).unwrap_err();
    assert!(matches!(reused, StoreError::ReusedTooEarly { map: "BACKENDS", .. }), "{reused}");
    let mut patient = needs_a_used_row(QUARANTINE, false);
    assert_eq!(third(&mut patient).unwrap(), 1);
    patient.store.memory.advance(QUARANTINE);
    assert_eq!(third(&mut patient).unwrap(), 0);
    patient.check_converged();
}

#[test]
fn without_a_grace_period_a_row_is_reused_too_early() {
    let mut world = needs_a_used_row(QUARANTINE, true);
    world.store.memory.advance(QUARANTINE);
    let reused = third(&mut world).unwrap_err();
    assert!(matches!(reused, StoreError::ReusedTooEarly { map: "BACKENDS", .. }), "{reused}");
}

#[test]
fn without_a_grace_period_a_hash_element_is_reused_too_early() {
    let mut world = World::new(RULES);
    world.skips_grace = true;
    world.sync(endpoints(&[Some(7)])).unwrap();
    world.sync(Changes { remove: vec![OwnerTag(1)], ..Changes::default() }).unwrap();
    let reused = world.sync(endpoints(&[Some(7)])).unwrap_err().source;
    assert!(matches!(reused, StoreError::ReusedTooEarly { map: "FRONTENDS", .. }), "{reused}");
}

#[test]
fn with_the_counts_of_another_a_cell_is_refused() {
    let mut world = World::new(Rules { limits: Limits { cells: 1, ..RULES.limits }, ..RULES });
    world.sync(endpoints(&[Some(7)])).unwrap();
    world.sync(Changes { remove: vec![OwnerTag(1)], ..Changes::default() }).unwrap();
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
        world.sync(Changes { remove: vec![OwnerTag(1)], ..Changes::default() }).unwrap();
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
