//! The writer: runs ordered ops on a store and tells the mirror about each that was executed.

use foldhash::HashMap;

use super::{MapStore, StoreError};
use crate::plan::ops::MapOp;

/// In which order a batch is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StoreOrder {
    /// As planned.
    #[default]
    Planned,
    /// Last op first: a hook for control runs, which must fail. Nothing but a test asks for it.
    Reversed,
}

/// How much a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Ops.
    pub ops: u64,
    /// Words stored through the mapping.
    pub stores: u64,
}

impl std::ops::AddAssign for Executed {
    fn add_assign(&mut self, other: Self) {
        self.ops += other.ops;
        self.stores += other.stores;
    }
}

/// A run was aborted; what it had done is in the mirror, and the next plan has the rest.
#[derive(Debug, thiserror::Error)]
#[error("write op {at}")]
pub struct ApplyError {
    /// What was done before.
    pub done: Executed,
    /// Index of the op that failed.
    pub at: usize,
    /// The op may have been done in part and the store could not be read back: the mirror is to be adopted anew.
    pub unsure: bool,
    /// Why.
    pub source: StoreError,
}

/// Runs `ops` in order and calls `mirror` with each that was executed; stops at the first that fails.
pub fn run(
    store: &mut impl MapStore,
    ops: &[MapOp],
    mut mirror: impl FnMut(&MapOp),
    order: StoreOrder,
) -> Result<Executed, ApplyError> {
    let mut done = Executed::default();
    for step in 0..ops.len() {
        let at = match order {
            StoreOrder::Planned => step,
            StoreOrder::Reversed => ops.len() - 1 - step,
        };
        let op = &ops[at];
        match execute(store, op, &mut done.stores) {
            Ok(()) => {
                done.ops += 1;
                mirror(op);
            }
            Err(source) => {
                let part = part_done(store, op);
                if let Ok(Some(part)) = &part {
                    mirror(part);
                }
                return Err(ApplyError { done, at, unsure: part.is_err(), source });
            }
        }
    }
    Ok(done)
}

fn execute(store: &mut impl MapStore, op: &MapOp, stores: &mut u64) -> Result<(), StoreError> {
    match op {
        MapOp::Grace => store.grace(),
        MapOp::GrowChunk(table) => store.grow(*table),
        MapOp::GrowFrontends(capacity) => store.grow_frontends(*capacity),
        MapOp::InsertFrontends(entries) => store.insert_frontends(entries),
        MapOp::ReplaceFrontend(key, value) => store.insert_frontends(&[(*key, *value)]),
        MapOp::MoveFrontends(entries) => store.move_frontends(entries),
        MapOp::DeleteFrontends(keys) => store.delete_frontends(keys),
        MapOp::InsertNodeAddr(addr, flags) | MapOp::ReplaceNodeAddr(addr, flags) => {
            store.insert_node_addr(*addr, *flags)
        }
        MapOp::DeleteNodeAddr(addr) => store.delete_node_addr(*addr),
        MapOp::InsertCidr(key) => store.insert_cidr(*key),
        MapOp::DeleteCidr(key) => store.delete_cidr(*key),
        MapOp::InsertSource(key) => store.insert_source(*key),
        MapOp::DeleteSource(key) => store.delete_source(*key),
        MapOp::StoreFilter { .. }
        | MapOp::StoreOwned { .. }
        | MapOp::ClearCounters { .. }
        | MapOp::StoreOwner { .. }
        | MapOp::StoreRow { .. }
        | MapOp::StoreSlots { .. }
        | MapOp::StoreHalf { .. }
        | MapOp::StoreHead { .. }
        | MapOp::StoreState { .. } => op.for_each_word(|table, word, value| {
            store.store(table, word, value)?;
            *stores += 1;
            Ok(())
        }),
    }
}

/// The part of a failed op that was executed all the same, as an op of its own: the kernel takes many entries in one
/// call and may stop between two.
fn part_done(store: &impl MapStore, op: &MapOp) -> Result<Option<MapOp>, StoreError> {
    match op {
        MapOp::InsertFrontends(entries) if entries.len() > 1 => {
            let present: HashMap<_, _> = store.frontends()?.into_iter().collect();
            let done = entries.iter().filter(|(key, value)| present.get(key) == Some(value)).copied();
            Ok(Some(MapOp::InsertFrontends(done.collect())))
        }
        MapOp::DeleteFrontends(keys) if keys.len() > 1 => {
            let present: HashMap<_, _> = store.frontends()?.into_iter().collect();
            let done = keys.iter().filter(|key| !present.contains_key(key)).copied();
            Ok(Some(MapOp::DeleteFrontends(done.collect())))
        }
        _ => Ok(None),
    }
}
