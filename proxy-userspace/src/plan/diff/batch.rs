//! The order of a batch: what may be written before what, over all service ports at once.

use std::collections::BTreeMap;

use foldhash::HashMap;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::service::{View, ViewWord};
use proxy_common::source::SourceKey;

use super::node::{NodeChanges, count_in, count_out};
use super::owned::OwnedChanges;
use super::port::{diff_head, free_rows};
use crate::plan::actual::Actual;
use crate::plan::ops::MapOp;
use crate::plan::owned::{OwnedTrial, Tally};
use crate::plan::tables::OwnerTag;

/// Changes of the frontends, each list in the order in which a reader may see it happen.
#[derive(Debug, Default)]
pub(super) struct FrontendChanges {
    pub(super) inserts: Vec<(FrontendKey, FrontendValue)>,
    pub(super) replaces: Vec<(FrontendKey, FrontendValue)>,
    pub(super) deletes: Vec<FrontendKey>,
}

/// The ops of one service port by phase.
#[derive(Debug, Default)]
pub(super) struct PortOps {
    /// The owner of a new cell. It comes first, so that whatever is written after it belongs to a cell in use: a writer
    /// that dies halfway leaves nothing that its successor could not find.
    pub(super) owner: Vec<MapOp>,
    /// Ranges of clients that join.
    pub(super) sources: Vec<MapOp>,
    /// Ranges of clients that leave, once no reader is sent to them.
    pub(super) sources_gone: Vec<MapOp>,
    pub(super) rows: Vec<MapOp>,
    pub(super) slots: Vec<MapOp>,
    pub(super) half: Option<MapOp>,
    /// State bits that join.
    pub(super) widen: Vec<MapOp>,
    pub(super) head: Option<MapOp>,
    /// State bits that leave, and rows that are freed.
    pub(super) narrow: Vec<MapOp>,
}

impl PortOps {
    /// What nothing names yet comes first, then the head, then state that only the old head needed.
    fn into_ops(self) -> impl Iterator<Item = MapOp> {
        let new = self.owner.into_iter().chain(self.sources).chain(self.rows).chain(self.slots);
        new.chain(self.half).chain(self.widen).chain(self.head).chain(self.narrow)
    }
}

/// The ops of one batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Grace periods owed, chunks and hashes that grow.
    pub(super) room: Vec<MapOp>,
    /// All of each service port, one after the other: what of it is in the maps stays there if a later op fails, however
    /// long the batch.
    pub(super) ports: Vec<MapOp>,
    pub(super) frontends: FrontendChanges,
    /// How many frontends are replaced one by one; more are moved at once.
    pub(super) moves_in_place: usize,
    pub(super) owned: OwnedChanges,
    pub(super) node: NodeChanges,
    /// Ranges of clients that join, of all service ports.
    pub(super) sources_taken: usize,
    /// Ranges of clients that leave service ports that stay.
    pub(super) sources_gone: Vec<MapOp>,
    /// Cells of service ports that are gone.
    pub(super) dead: Vec<u32>,
    /// Cells given to service ports in this batch.
    pub(super) new_cells: HashMap<OwnerTag, u32>,
}

impl Batch {
    /// Adds a service port.
    pub(super) fn add(&mut self, mut port: PortOps) {
        self.sources_taken += port.sources.len();
        self.sources_gone.append(&mut port.sources_gone);
        self.ports.extend(port.into_ops());
    }

    /// All ops in order.
    ///
    /// Frontends come when all they lead to is in force, and go before it is taken away. A reader may hold what it read for as long
    /// as it runs, so a grace period lies between the last frontend that went, or that checks the source no longer, and the
    /// cells and ranges of clients it led to, and between a hash element that was freed and the next one that is taken. A replaced frontend frees one and takes one, so many
    /// of them move in a copy of the hash.
    pub(super) fn into_ops(mut self, actual: &Actual) -> Vec<MapOp> {
        let (filter_sets, filter_clears) = self.filter_changes(actual);
        let mut sequence = Sequence { ops: std::mem::take(&mut self.room), unsettled: false, frees: false };
        sequence.unsettled = actual.is_unsettled() && sequence.ops.first() != Some(&MapOp::Grace);
        sequence.ops.extend(self.ports);
        sequence.ops.extend(filter_sets);
        let FrontendChanges { inserts, replaces, mut deletes } = self.frontends;
        if !inserts.is_empty() {
            sequence.push(MapOp::InsertFrontends(inserts));
        }
        sequence.ops.extend(self.owned.sets);
        if !self.owned.inserts.is_empty() {
            sequence.push(MapOp::InsertFrontends(self.owned.inserts));
        }
        self.node.inserts.into_iter().for_each(|op| sequence.push(op));
        if replaces.len() > self.moves_in_place {
            sequence.push(MapOp::MoveFrontends(replaces));
        } else {
            for (key, value) in replaces {
                sequence.push(MapOp::ReplaceFrontend(key, value));
            }
        }
        self.node.replaces.into_iter().for_each(|op| sequence.push(op));
        self.node.deletes.into_iter().for_each(|op| sequence.push(op));
        sequence.ops.extend(self.owned.clears);
        deletes.splice(0..0, self.owned.deletes);
        if !deletes.is_empty() {
            sequence.push(MapOp::DeleteFrontends(deletes));
        }
        if sequence.frees
            || !(self.dead.is_empty() && filter_clears.is_empty() && self.sources_gone.is_empty())
        {
            sequence.settle();
        }
        sequence.ops.extend(self.sources_gone);
        sequence.ops.extend(take_down(actual, &self.dead));
        sequence.ops.extend(filter_clears);
        sequence.ops
    }

    /// Bits to set before anything is inserted, and bits to clear once everything has been deleted.
    fn filter_changes(&self, actual: &Actual) -> (Vec<MapOp>, Vec<MapOp>) {
        let mut after = OwnedTrial::new(actual.owned());
        for (key, _) in self.frontends.inserts.iter().chain(&self.owned.inserts) {
            after.add_frontend(key);
        }
        self.node.inserts.iter().for_each(|op| count_in(&mut after, op));
        let now = actual.filter_words();
        let store = |words: &BTreeMap<u32, u64>, index: u32, value: u64| {
            let before = words.get(&index).copied().unwrap_or_else(|| actual.filter_word(index));
            (before != value).then_some((index, value))
        };
        let unchanged = BTreeMap::new();
        let set = |index| store(&unchanged, index, actual.filter_word(index) | after.word(index));
        let sets: BTreeMap<u32, u64> = after.candidates(now).into_iter().filter_map(set).collect();
        for key in self.frontends.deletes.iter().chain(&self.owned.deletes) {
            after.remove_frontend(key);
        }
        self.node.deletes.iter().for_each(|op| count_out(&mut after, op));
        let clear = |index| store(&sets, index, after.word(index));
        let mut candidates = after.candidates(now);
        candidates.extend(sets.keys());
        candidates.sort_unstable();
        candidates.dedup();
        let clears: Vec<(u32, u64)> = candidates.into_iter().filter_map(clear).collect();
        let ops = |stores: Vec<(u32, u64)>| {
            stores.into_iter().map(|(word, value)| MapOp::StoreFilter { word, value }).collect()
        };
        (ops(sets.into_iter().collect()), ops(clears))
    }
}

/// What empties the cells of service ports that are gone: no reader can reach them any more.
fn take_down(actual: &Actual, dead: &[u32]) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for service in dead.iter().copied() {
        let mut down = PortOps::default();
        let reject = ([ViewWord::REJECT; View::COUNT], 0);
        diff_head(actual, &mut down, service, reject);
        free_rows(actual, &mut down.narrow, actual.rows_of(service));
        ops.extend(down.into_ops());
        ops.extend(
            actual.sources_of(service).map(|range| MapOp::DeleteSource(SourceKey::new(service, range))),
        );
        ops.push(MapOp::StoreOwner { service, tag: OwnerTag(0) });
    }
    ops
}

/// Ops in order, with a grace period between the last hash element freed and the next one taken.
struct Sequence {
    ops: Vec<MapOp>,
    unsettled: bool,
    /// Whether any op of this batch frees an element.
    frees: bool,
}

impl Sequence {
    fn push(&mut self, op: MapOp) {
        if op.takes_element() {
            self.settle();
        }
        if op.frees_element() {
            self.unsettled = true;
            self.frees = true;
        }
        self.ops.push(op);
    }

    fn settle(&mut self) {
        if self.unsettled {
            self.ops.push(MapOp::Grace);
            self.unsettled = false;
        }
    }
}
