//! The ranges of clients of service ports, compared with the maps.

use foldhash::HashMap;
use proxy_common::names;
use proxy_common::node::CidrKey;
use proxy_common::source::SourceKey;

use super::Planner;
use super::batch::{Batch, PortOps};
use super::stock::Full;
use crate::plan::actual::Actual;
use crate::plan::ops::MapOp;
use crate::plan::tables::{DesiredPort, OwnerTag};

/// Adds what brings the ranges of a cell to `wanted`, which is sorted. A cell that is new to its port loses what it may
/// still have before it is given away.
pub(super) fn diff_sources(
    actual: &Actual,
    ops: &mut PortOps,
    (service, is_new): (u32, bool),
    wanted: &[CidrKey],
) {
    let key = |range| SourceKey::new(service, range);
    let present = actual.sources().get(&service);
    let has = |range: &CidrKey| !is_new && present.is_some_and(|ranges| ranges.contains(range));
    let absent = wanted.iter().filter(|range| !has(range));
    ops.sources.extend(absent.map(|range| MapOp::InsertSource(key(*range))));
    let is_gone = |range: &CidrKey| is_new || wanted.binary_search(range).is_err();
    let gone = actual.sources_of(service).filter(is_gone).map(|range| MapOp::DeleteSource(key(range)));
    if is_new {
        ops.owner.extend(gone);
    } else {
        ops.sources_gone.extend(gone);
    }
}

/// What takes away ranges that were found with a cell that nobody owned then, where nobody has it now either.
pub(super) fn drop_strays<'a>(
    actual: &'a Actual,
    new_cells: &HashMap<OwnerTag, u32>,
    strays: &'a [SourceKey],
) -> impl Iterator<Item = MapOp> + use<'a> {
    let taken: Vec<u32> = if strays.is_empty() { Vec::new() } else { new_cells.values().copied().collect() };
    let is_nobodys = move |key: &&SourceKey| {
        let SourceKey { service, .. } = **key;
        let is_there = actual.sources().get(&service).is_some_and(|ranges| ranges.contains(&key.range()));
        is_there && actual.owner(service).0 == 0 && !taken.contains(&service)
    };
    strays.iter().filter(is_nobodys).map(|key| MapOp::DeleteSource(*key))
}

/// Ranges of cells that nobody owns.
pub(super) fn strays(actual: &Actual) -> Vec<SourceKey> {
    let nobodys = actual.sources().iter().filter(|(service, _)| actual.owner(**service).0 == 0);
    nobodys
        .flat_map(|(service, ranges)| ranges.iter().map(|range| SourceKey::new(*service, *range)))
        .collect()
}

impl Planner {
    /// Whether all ranges of a port find room; those that leave give it only later.
    pub(super) fn check_source_room(&self, batch: &Batch, port: &DesiredPort) -> Result<(), Full> {
        if port.sources.is_empty() {
            return Ok(());
        }
        let absent = port.sources.iter().filter(|range| !self.has_source(port.tag, range)).count();
        if absent > 0 && absent > self.source_room(batch) { Err(Full(names::SOURCES)) } else { Ok(()) }
    }

    /// Leaves out of a served port's ranges those that find no room. Their clients are turned away meanwhile; to let all
    /// in would be worse.
    pub(super) fn keep_sources_in_room(&self, batch: &Batch, port: &mut DesiredPort) {
        let mut room = self.source_room(batch);
        let mut kept = std::mem::take(&mut port.sources).into_vec();
        kept.retain(|range| {
            let is_present = self.has_source(port.tag, range);
            let is_kept = is_present || room > 0;
            room -= usize::from(is_kept && !is_present);
            is_kept
        });
        port.sources = kept.into();
    }

    fn has_source(&self, tag: OwnerTag, range: &CidrKey) -> bool {
        let cell = self.actual.cell_of(tag);
        cell.and_then(|cell| self.actual.sources().get(&cell)).is_some_and(|ranges| ranges.contains(range))
    }

    fn source_room(&self, batch: &Batch) -> usize {
        let taken = self.actual.source_count() + batch.sources_taken;
        (self.rules.limits.sources as usize).saturating_sub(taken)
    }
}
