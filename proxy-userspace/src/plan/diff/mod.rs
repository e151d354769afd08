//! The writer's plan: ordered [`MapOp`]s that bring the maps from what they hold to what is desired.
//!
//! [`Planner::plan`] compares, [`Planner::settle`] mirrors each op that a store has executed. A batch that was aborted
//! is planned anew from there; what is not yet in the maps is kept until it is. Nothing here reads a clock.

mod admit;
mod batch;
mod frontends;
mod node;
mod owned;
mod port;
mod sources;
mod stock;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use proxy_common::frontend::FrontendKey;
use proxy_common::names;
use proxy_common::source::SourceKey;

use self::batch::Batch;
use self::frontends::settle_frontends;
use self::node::NodeChanges;
use self::owned::{OwnedChanges, Room};
use self::port::free_rows;
use self::stock::{Full, Stock};
use super::actual::Actual;
use super::claims::{Claims, Conflict, Touched};
use super::ops::{MapOp, WordTable};
use super::quarantine::{Millis, Resource};
use super::rules::{Limits, Rules};
use super::tables::{DesiredNode, DesiredPort, OwnerTag};

/// Frontends that are copied to another hash in the time of a grace period.
const COPIED_IN_A_GRACE: usize = 8192;

/// What changed since the last plan.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Service ports that came or changed.
    pub upsert: Vec<DesiredPort>,
    /// Service ports that went; one that is in `upsert` too has not.
    pub remove: Vec<OwnerTag>,
    /// The node's own tables, if they changed.
    pub node: Option<DesiredNode>,
    /// Frontends that this and the plans right after it will need in all; a hint, so that the hash grows once.
    pub expected_frontends: usize,
    /// Every source has listed: what was found at start and nobody has upserted since goes.
    pub prune: bool,
}

/// Something that found no room. A service port that was served before goes on with what there is room for; a new one is
/// not there at all. It is tried again in each later plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Label of the service port, or a description of the node's address or range.
    pub label: Arc<str>,
    /// The table that is full.
    pub table: &'static str,
}

impl Refused {
    /// The service port, if it is one: labels of service ports have no spaces, and descriptions do.
    pub fn service(&self) -> Option<&str> {
        Some(&*self.label).filter(|label| !label.contains(' '))
    }
}

/// The outcome of a plan.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// What to write, in this order.
    pub ops: Vec<MapOp>,
    /// What found no room.
    pub refused: Vec<Refused>,
    /// Frontends touched by this plan that more than one service port claims.
    pub conflicts: Vec<Conflict>,
}

/// Ids and space that nobody uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Cells.
    pub cells: u32,
    /// Rows.
    pub rows: u32,
    /// Slots of the chunks there are.
    pub slots: u64,
    /// Blocks of owned VIPs.
    pub blocks: u32,
}

/// The maps contradict themselves, so that nothing can be adopted from them: no writer of this schema leaves such a thing
/// behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two cells have one owner.
    #[error("cell {service} has the owner of another cell")]
    Owner {
        /// One of them.
        service: u32,
    },
    /// Slots that do not exist, or that another cell has.
    #[error("cell {service} has slots of another cell, or outside the table")]
    Slots {
        /// The cell.
        service: u32,
    },
    /// A block of owned VIPs that does not exist, or that two entries name.
    #[error("block {block} of owned VIPs is named twice, or lies outside the table")]
    Block {
        /// The block.
        block: u32,
    },
}

/// What is on its way into the maps.
#[derive(Clone, Debug, Default)]
struct InFlight {
    ports: Vec<DesiredPort>,
    dead: Vec<OwnerTag>,
    touched: Touched,
}

/// Keeps the mirror of the maps and plans how they change.
#[derive(Clone, Debug)]
pub struct Planner {
    rules: Rules,
    actual: Actual,
    claims: Claims,
    stock: Stock,
    /// Service ports that found no room, and those of an aborted batch.
    waiting: HashMap<OwnerTag, DesiredPort>,
    in_flight: InFlight,
    node: Option<DesiredNode>,
    node_in_sync: bool,
    /// Some of the node's addresses or ranges found no room.
    node_refused: bool,
    strays: Vec<u32>,
    /// Ranges of clients found at start with cells that nobody owned.
    stray_sources: Vec<SourceKey>,
    /// Owned VIPs whose block found no room.
    vips_refused: Touched,
}

impl Planner {
    /// A planner for the maps that `actual` mirrors; `strays` are what [`Actual::index`] returned.
    ///
    /// Nothing found in the maps is changed until somebody wants it changed, or [`Changes::prune`] says that nobody
    /// wants it: a restart with nothing changed plans nothing.
    pub fn adopt(actual: Actual, strays: Vec<u32>, rules: Rules) -> Result<Self, Contradiction> {
        Ok(Self {
            rules,
            stock: Stock::adopt(&actual, rules)?,
            claims: Claims::adopt(&actual),
            stray_sources: sources::strays(&actual),
            actual,
            waiting: HashMap::new(),
            in_flight: InFlight::default(),
            node: None,
            node_in_sync: true,
            node_refused: false,
            strays,
            vips_refused: Touched::new(),
        })
    }

    /// Plans `changes` and whatever earlier plans have left over. `now` never goes back.
    ///
    /// The ops are for one run, in order; each that was executed goes to [`Planner::settle`], and then the run's end to
    /// [`Planner::finish`] or [`Planner::fail`]. A listing of a large cluster takes less memory in slices of a few
    /// thousand service ports, a run each; [`Changes::prune`] comes with or after the last.
    pub fn plan(&mut self, changes: Changes, now: Millis) -> Planned {
        self.stock.begin(&self.actual, now);
        let mut planned = Planned::default();
        let mut batch = Batch { moves_in_place: self.moves_in_place(), ..Batch::default() };
        let expected = changes.expected_frontends;
        let (dead, mut touched) = self.take_in(changes);
        self.admit_all(&mut batch, &mut touched, &mut planned.refused);
        planned.conflicts = settle_frontends(&self.actual, &self.claims, &mut batch, &mut touched);
        self.settle_vips(&mut batch, &touched, &mut planned.refused);
        self.diff_node(&mut batch, &mut planned.refused);
        batch.dead.extend(dead.iter().filter_map(|tag| self.actual.cell_of(*tag)));
        batch.dead.sort_unstable();
        let strays = self.strays.iter().copied().filter(|id| self.actual.row(*id).state().is_serving());
        free_rows(&self.actual, &mut batch.ports, strays);
        let strays = sources::drop_strays(&self.actual, &batch.new_cells, &self.stray_sources);
        batch.ports.extend(strays);
        self.make_room(&mut batch, expected);
        planned.ops = batch.into_ops(&self.actual);
        self.in_flight.dead = dead;
        self.in_flight.touched = touched;
        if planned.ops.is_empty() {
            self.finish(now);
        }
        planned
    }

    /// Mirrors an op that the store has executed.
    pub fn settle(&mut self, op: &MapOp) {
        match op {
            MapOp::Grace => {
                self.actual.apply(op);
                self.stock.note_grace();
            }
            MapOp::StoreHead { service, .. } => {
                let before = self.actual.extents(*service);
                self.actual.apply(op);
                for extent in before {
                    if self.actual.extents(*service).all(|kept| kept != extent) {
                        self.stock.rest(Resource::Extent(extent));
                    }
                }
            }
            MapOp::StoreState { id, state, .. } => {
                let was_serving = self.actual.row(*id).state().is_serving();
                self.actual.apply(op);
                if was_serving && !state.is_serving() {
                    self.stock.rest(Resource::Row(*id));
                }
            }
            MapOp::StoreOwner { service, tag } => {
                self.actual.apply(op);
                if tag.0 == 0 {
                    self.stock.rest(Resource::Cell(*service));
                }
            }
            MapOp::DeleteFrontends(keys) => {
                let blocks = keys.iter().filter(|key| key.is_owned_vip());
                for block in blocks.filter_map(|key| self.actual.frontend(key)) {
                    self.stock.rest(Resource::Block(block.service));
                }
                self.actual.apply(op);
            }
            _ => self.actual.apply(op),
        }
    }

    /// Every op of the last plan was executed by `now`.
    pub fn finish(&mut self, now: Millis) {
        self.stock.stamp(now);
        self.in_flight = InFlight::default();
        self.stock.confirm();
        self.strays = Vec::new();
        self.stray_sources = Vec::new();
        self.node_in_sync = !self.node_refused;
    }

    /// The last plan was aborted at `op` by `now`. The next plan has what remains; a table that could not grow counts as
    /// full for a while, so that it holds up only those who need more of it.
    pub fn fail(&mut self, op: &MapOp, now: Millis) {
        self.stock.stamp(now);
        match op {
            MapOp::GrowChunk(table) => self.stock.block_growth(table.name()),
            MapOp::GrowFrontends(_) | MapOp::MoveFrontends(_) => self.stock.block_growth(names::FRONTENDS),
            _ => {}
        }
    }

    /// The mirror.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }

    /// Whether everything that was asked for is in the maps.
    pub fn is_in_sync(&self) -> bool {
        self.waiting.is_empty()
            && self.vips_refused.is_empty()
            && self.in_flight.ports.is_empty()
            && self.in_flight.dead.is_empty()
            && self.in_flight.touched.is_empty()
            && self.node_in_sync
    }

    /// Every frontend that more than one service port claims now, sorted.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for key in self.claims.contested() {
            let holder = self.actual.frontend(key).map(|value| self.actual.owner(value.service));
            if let Some((winner, _)) = self.claims.winner(key, holder.filter(|tag| tag.0 != 0)) {
                self.claims.report_losers(key, winner, &mut conflicts);
            }
        }
        conflicts.sort_unstable();
        conflicts
    }

    /// What is free, without what rests.
    pub fn free(&self) -> Free {
        self.stock.free()
    }

    /// What rests.
    pub fn resting(&self) -> Free {
        self.stock.resting().fold(Free::default(), |mut sum, resource| {
            match resource {
                Resource::Cell(_) => sum.cells += 1,
                Resource::Row(_) => sum.rows += 1,
                Resource::Extent(extent) => sum.slots += u64::from(extent.words) * 2,
                Resource::Block(_) => sum.blocks += 1,
            }
            sum
        })
    }

    fn settle_vips(&mut self, batch: &mut Batch, touched: &[FrontendKey], refused: &mut Vec<Refused>) {
        let taken = self.actual.frontends().len() + batch.frontends.inserts.len();
        let entries = (self.frontend_limit() as usize).saturating_sub(taken);
        let room = Room { stock: &mut self.stock, entries };
        let (changes, without_room) = OwnedChanges::diff(&self.actual, room, &self.claims, touched);
        refused.extend(without_room.iter().map(|(key, Full(table))| Refused {
            label: format!("refusal of unknown ports of {}", key.addr).into(),
            table,
        }));
        self.vips_refused = without_room.into_iter().map(|(key, _)| key).collect();
        batch.owned = changes;
    }

    fn diff_node(&mut self, batch: &mut Batch, refused: &mut Vec<Refused>) {
        let Some(node) = self.node.as_ref().filter(|_| !self.node_in_sync) else { return };
        let Limits { node_addrs, cidrs, .. } = self.rules.limits;
        let (changes, without_room) = NodeChanges::diff(&self.actual, node, (node_addrs, cidrs));
        self.node_refused = !without_room.is_empty();
        refused.extend(
            without_room.into_iter().map(|(what, Full(table))| Refused { label: what.into(), table }),
        );
        batch.node = changes;
    }

    /// How many frontends are moved one by one. To move them at once costs memory for a copy, which there may be none for.
    fn moves_in_place(&self) -> usize {
        if self.stock.is_blocked(names::FRONTENDS) {
            return usize::MAX;
        }
        self.rules.moves_in_place as usize + self.actual.frontends().len() / COPIED_IN_A_GRACE
    }

    fn make_room(&self, batch: &mut Batch, expected: usize) {
        if self.stock.owes_grace() {
            batch.room.push(MapOp::Grace);
        }
        batch.room.extend(self.stock.growth().iter().map(|table: &WordTable| MapOp::GrowChunk(*table)));
        let inserts = batch.frontends.inserts.len() + batch.owned.inserts.len();
        let limit = self.frontend_limit() as usize;
        let needed = (self.actual.frontends().len() + inserts).max(expected.min(limit));
        let capacity = self.actual.frontend_capacity();
        if needed > capacity as usize {
            let doubled = needed.next_power_of_two().max(capacity as usize * 2);
            batch.room.push(MapOp::GrowFrontends(doubled.min(limit) as u32));
        }
    }
}
