//! What one service port needs: rows, extents, views and head, as compared with its cell.

use std::borrow::Cow;

use proxy_common::backend::{Backend, BackendState};
use proxy_common::service::{Head, View, ViewKind, ViewWord};

use super::batch::PortOps;
use super::sources::diff_sources;
use super::stock::{Full, Stock};
use crate::plan::actual::Actual;
use crate::plan::ops::MapOp;
use crate::plan::tables::{DesiredBackend, DesiredPort, DesiredView};

/// What brings a service port's cell to `port`, with the cell if it is a new one; nothing where it is there already.
///
/// Slots are in the order of their rows' addresses and ports, so that equal sets are equal extents. If something cannot
/// be given out, the caller rolls the stock back.
pub(super) fn diff_port(
    actual: &Actual,
    stock: &mut Stock,
    port: &DesiredPort,
) -> Result<(PortOps, Option<u32>), Full> {
    let (service, is_new) = match actual.cell_of(port.tag) {
        Some(service) => (service, false),
        None => (stock.take_cell()?, true),
    };
    let backends = sorted(&port.backends);
    let rows = Rows::place(actual, stock, service, &backends)?;
    let mut ops = PortOps::default();
    let views = lay_out(port, &backends, &rows.ids, |list| {
        if let Some(word) = actual.views(service).into_iter().find(|word| holds(actual, *word, list)) {
            return Ok(word.plain());
        }
        let extent = stock.take_extent(service, list.len())?;
        ops.slots.push(MapOp::StoreSlots { base: extent.base(), ids: list.into() });
        Ok(ViewWord::random(extent.base(), list.len() as u32))
    })?;
    diff_sources(actual, &mut ops, (service, is_new), &port.sources);
    if is_new {
        ops.owner.extend(stock.counted(service).map(|shards| MapOp::ClearCounters { service, shards }));
        ops.owner.push(MapOp::StoreOwner { service, tag: port.tag });
    }
    rows.diff(actual, &mut ops, service, &backends);
    diff_head(actual, &mut ops, service, (views, port.affinity_seconds));
    Ok((ops, is_new.then_some(service)))
}

/// Adds the half and the head that switch a cell to `views` and `affinity_seconds`, if they are not in force.
pub(super) fn diff_head(
    actual: &Actual,
    ops: &mut PortOps,
    service: u32,
    (views, affinity_seconds): ([ViewWord; View::COUNT], u32),
) {
    let before = actual.head(service);
    let affinity_seconds = affinity_seconds.min(Head::MAX_AFFINITY);
    let mut half = before.half();
    if views != actual.views(service) {
        half = half.other();
        ops.half = Some(MapOp::StoreHalf { service, half, views });
    }
    if half != before.half() || affinity_seconds != before.affinity_seconds() {
        let head = Head::new(half, affinity_seconds, before.sequence().wrapping_add(1));
        ops.head = Some(MapOp::StoreHead { service, head });
    }
}

/// Which rows the backends of a service port get.
struct Rows {
    /// The row of each backend.
    ids: Vec<u32>,
    /// Rows whose endpoint is not wanted any more.
    leaving: Vec<u32>,
}

impl Rows {
    /// Keeps the row of each backend that has one, and takes rows for the others.
    fn place(
        actual: &Actual,
        stock: &mut Stock,
        service: u32,
        backends: &[DesiredBackend],
    ) -> Result<Self, Full> {
        let mut present: Vec<u32> = actual.rows_of(service).collect();
        present.sort_unstable_by_key(|id| {
            let row = actual.row(*id);
            (row.addr, row.port, *id)
        });
        let mut present = present.into_iter().peekable();
        let mut ids = Vec::with_capacity(backends.len());
        let mut leaving = Vec::new();
        for backend in backends {
            let wanted = (backend.addr, backend.port);
            let at = |id: u32| {
                let row = actual.row(id);
                (row.addr, row.port)
            };
            while let Some(id) = present.next_if(|id| at(*id) < wanted) {
                leaving.push(id);
            }
            match present.next_if(|id| at(*id) == wanted) {
                Some(id) => ids.push(id),
                None => ids.push(stock.take_row()?),
            }
        }
        leaving.extend(present);
        Ok(Self { ids, leaving })
    }

    /// New rows, and the states of the others. Bits that join are set before the heads switch and bits that leave are
    /// cleared after: whoever follows a slot of a view finds that view's bit set, before and after the switch.
    fn diff(self, actual: &Actual, ops: &mut PortOps, service: u32, backends: &[DesiredBackend]) {
        for (id, backend) in self.ids.into_iter().zip(backends) {
            let row = actual.row(id);
            // A row without the bit would be a free one.
            let state = BackendState(backend.state.0 | BackendState::SERVING.0);
            if !row.state().is_serving() {
                // Records know generation zero as "never".
                let generation = row.generation.wrapping_add(1).max(1);
                let DesiredBackend { addr, port, .. } = *backend;
                let row = Backend { addr, state: state.0, generation, service, port, pad: 0 };
                ops.rows.push(MapOp::StoreRow { id, row });
                continue;
            }
            let both = BackendState(row.state | state.0);
            if both.0 != row.state {
                ops.widen.push(store_state(id, both, &row));
            }
            if both != state {
                ops.narrow.push(store_state(id, state, &row));
            }
        }
        free_rows(actual, &mut ops.narrow, self.leaving);
    }
}

/// Adds the ops that free `rows`.
pub(super) fn free_rows(actual: &Actual, ops: &mut Vec<MapOp>, rows: impl IntoIterator<Item = u32>) {
    ops.extend(rows.into_iter().map(|id| store_state(id, BackendState::FREE, &actual.row(id))));
}

fn store_state(id: u32, state: BackendState, row: &Backend) -> MapOp {
    MapOp::StoreState { id, state, generation: row.generation }
}

/// The view words of a service port; `place` finds or makes the extent of a list of rows. Equal lists share one.
fn lay_out(
    port: &DesiredPort,
    backends: &[DesiredBackend],
    ids: &[u32],
    mut place: impl FnMut(&[u32]) -> Result<ViewWord, Full>,
) -> Result<[ViewWord; View::COUNT], Full> {
    let mut words = [ViewWord::PASS; View::COUNT];
    let mut placed: Vec<(Vec<u32>, ViewWord)> = Vec::with_capacity(View::COUNT);
    for view in View::ALL {
        words[view as usize] = match port.views[view as usize] {
            DesiredView::Pass => ViewWord::PASS,
            DesiredView::Reject => ViewWord::REJECT,
            DesiredView::Drop => ViewWord::DROP,
            DesiredView::Random => {
                let in_view = backends.iter().zip(ids).filter(|(backend, _)| backend.state.in_view(view));
                let list: Vec<u32> = in_view.map(|(_, id)| *id).collect();
                if list.is_empty() {
                    ViewWord::REJECT
                } else if let Some((_, word)) = placed.iter().find(|(other, _)| *other == list) {
                    *word
                } else {
                    let word = place(&list)?;
                    placed.push((list, word));
                    word
                }
            }
        };
    }
    for view in View::OF_POLICY {
        let word = &mut words[view as usize];
        if port.keeps_source && word.kind() == ViewKind::Random {
            word.0 |= ViewWord::KEEPS_SOURCE;
        }
    }
    Ok(words)
}

fn holds(actual: &Actual, word: ViewWord, list: &[u32]) -> bool {
    let slots = actual.slot_ids(word);
    slots.len() == list.len() && slots.eq(list.iter().copied())
}

fn sorted(backends: &[DesiredBackend]) -> Cow<'_, [DesiredBackend]> {
    let key = |backend: &DesiredBackend| (backend.addr, backend.port);
    if backends.is_sorted_by_key(key) {
        return Cow::Borrowed(backends);
    }
    let mut backends = backends.to_vec();
    backends.sort_unstable_by_key(key);
    Cow::Owned(backends)
}
