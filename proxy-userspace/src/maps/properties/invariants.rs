//! What holds for any sequence of changes: whole views at every instant, convergence, restarts, faults.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proxy_common::frontend::{FrontendKind, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};

use super::cases::{addr, any_steps, cluster_ip, cluster_ip_frontends, config, frontend, node_addr, port};
use super::sources::sources;
use super::world::{RULES, World};
use crate::maps::memory::Faults;
use crate::plan::diff::Changes;
use crate::plan::ops::MapOp;
use crate::plan::rules::Rules;
use crate::plan::tables::{DesiredFrontend, DesiredNode, DesiredPort, OwnerTag};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_reader_meets_an_old_whole_or_a_new_whole(steps in any_steps(8)) {
        let mut world = World::new(RULES);
        for (changes, pause) in steps {
            world.store.memory.advance(pause);
            let planned = world.sync(changes).unwrap();
            prop_assert!(planned.refused.is_empty());
            prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
            world.check_converged();
        }
        world.rest();
        world.check_no_leak(RULES.limits);
    }

    #[test]
    fn a_kill_after_any_effect_is_survived(steps in any_steps(5), at in any::<prop::sample::Index>()) {
        let mut world = World::new(RULES);
        for (changes, pause) in steps {
            world.store.memory.advance(pause);
            let effects = effects_of(&world, &changes);
            world.store.memory.faults = Faults::die_after(at.index(effects + 1) as u64);
            let outcome = world.sync(changes);
            prop_assert!(outcome.is_ok() || effects > 0);
            world.restart(RULES);
            let idle = world.planner.plan(Changes::default(), world.store.memory.now());
            // Before anything has listed, all that may happen is what nobody can notice.
            let is_harmless = |op: &MapOp| matches!(op, MapOp::Grace | MapOp::GrowChunk(_) | MapOp::StoreFilter { .. });
            prop_assert!(idle.ops.iter().all(is_harmless));
            world.sync(world.listing()).unwrap();
            prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
            world.check_converged();
        }
        world.rest();
        world.check_no_leak(RULES.limits);
    }

    #[test]
    fn a_restart_with_nothing_changed_writes_nothing(steps in any_steps(5)) {
        let mut world = World::new(RULES);
        for (changes, _) in steps {
            world.sync(changes).unwrap();
        }
        let before = world.store.memory.clone();
        world.restart(RULES);
        let planned = world.sync(world.listing()).unwrap();
        prop_assert_eq!(planned.ops, vec![]);
        prop_assert_eq!(world.store.memory.steps(), before.steps());
        prop_assert!(world.store.memory.holds_the_same(&before));
        world.rest();
        world.check_no_leak(RULES.limits);
    }
}

#[test]
fn faults_are_outlived() {
    let injected = Cell::new(0);
    let outlives = |(steps, seed): (Vec<(Changes, u64)>, u64)| {
        let mut world = World::new(RULES);
        // Growth that failed counts as a full table for a while.
        world.may_lack_slots = true;
        for (index, (changes, pause)) in (0..).zip(steps) {
            world.store.memory.advance(pause);
            world.store.memory.faults = Faults::share(10, seed ^ index);
            let mut outcome = world.sync(changes);
            for _ in 0..3 {
                world.store.memory.advance(50);
                if outcome.is_err() {
                    outcome = world.sync(Changes::default());
                }
            }
            injected.set(injected.get() + world.store.memory.faults.injected());
            prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        }
        world.store.memory.faults = Faults::default();
        world.store.memory.advance(20_000);
        let planned = world.sync(Changes::default()).unwrap();
        prop_assert!(planned.refused.is_empty());
        prop_assert_eq!(&world.store.readers.violations, &Vec::<String>::new());
        world.check_converged();
        world.rest();
        world.check_no_leak(RULES.limits);
        Ok(())
    };
    let config = ProptestConfig { source_file: Some(file!()), ..config() };
    TestRunner::new(config).run(&(any_steps(6), any::<u64>()), outlives).unwrap();
    assert!(injected.get() > 100, "{} faults in all", injected.get());
}

/// A scenario with everything in it: joins, leaves, moved frontends, a port that goes, the node's own tables.
fn scenario() -> (Changes, Changes) {
    let load_balancers = [50, 51].map(|vip| DesiredFrontend {
        flags: FrontendValue::CHECK_SOURCE,
        ..frontend(cluster_ip(vip), FrontendKind::LoadBalancer)
    });
    let with = |tag: u64, shared: bool, endpoints: &[Option<u8>]| {
        let mut frontends = cluster_ip_frontends(tag);
        frontends.extend(load_balancers.into_iter().filter(|_| shared));
        let own = [format!("203.0.113.{tag}/32")];
        let sources = if shared { sources(&["203.0.113.128/25", &own[0]]) } else { Box::default() };
        DesiredPort { sources, ..port(tag, frontends, endpoints) }
    };
    let node = |cidrs: &[u32]| DesiredNode {
        addresses: vec![(node_addr(), NodeAddrFlags::NODE_PORT)],
        service_cidrs: cidrs
            .iter()
            .map(|len| CidrKey { prefix_len: 96 + len, addr: addr("10.96.0.0") })
            .collect(),
    };
    let first = Changes {
        upsert: vec![
            with(1, true, &[Some(7), Some(1), Some(6)]),
            with(2, false, &[Some(7)]),
            with(3, false, &[Some(7)]),
        ],
        node: Some(node(&[])),
        ..Changes::default()
    };
    let second = Changes {
        upsert: vec![
            with(1, false, &[Some(3), None, Some(7), Some(7)]),
            with(2, true, &[None, Some(7)]),
            with(4, false, &[Some(5)]),
        ],
        remove: vec![OwnerTag(3)],
        node: Some(node(&[24])),
        ..Changes::default()
    };
    (first, second)
}

#[test]
fn a_kill_or_a_fault_at_each_effect_in_turn_is_survived() {
    // Two frontends move to another cell: one by one, or at once.
    for (moves_in_place, moves) in [(2, 0), (1, 1)] {
        let (first, second) = scenario();
        let mut before = World::new(Rules { moves_in_place, ..RULES });
        before.sync(first).unwrap();
        let planned = before.clone().sync(second.clone()).unwrap();
        let at_once = planned.ops.iter().filter(|op| matches!(op, MapOp::MoveFrontends(_))).count();
        assert_eq!(at_once, moves);
        check_each_effect(&before, &second);
    }
}

fn check_each_effect(before: &World, second: &Changes) {
    let effects = effects_of(before, second) as u64;
    assert!(effects > 40, "only {effects} effects");
    for at in 0..effects {
        for is_fatal in [true, false] {
            let mut world = before.clone();
            world.store.memory.faults = if is_fatal { Faults::die_after(at) } else { Faults::fail_after(at) };
            world.sync(second.clone()).unwrap_err();
            if is_fatal {
                world.restart(RULES);
                world.sync(world.listing()).unwrap();
            } else {
                // A table that could not grow is tried again after a while.
                world.store.memory.advance(10_000);
                world.sync(Changes::default()).unwrap();
            }
            assert_eq!(world.store.readers.violations, Vec::<String>::new(), "at effect {at}");
            world.check_converged();
            world.rest();
            world.check_no_leak(RULES.limits);
        }
    }
}

/// How many effects a run of `changes` would have.
fn effects_of(world: &World, changes: &Changes) -> usize {
    let mut trial = world.clone();
    trial.store.is_looking = false;
    let before = trial.store.memory.steps();
    trial.sync(changes.clone()).unwrap();
    (trial.store.memory.steps() - before) as usize
}
