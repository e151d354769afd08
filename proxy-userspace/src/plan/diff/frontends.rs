//! Who gets which frontend, compared with the maps.

use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};

use super::batch::{Batch, FrontendChanges};
use crate::plan::actual::Actual;
use crate::plan::claims::{Claims, Conflict, Touched};

/// Settles the touched frontends. The order of the lists: an owned VIP is inserted after the ports of that VIP and
/// deleted before them, or a port that is served would be refused as unknown for a moment.
pub(super) fn settle_frontends(
    actual: &Actual,
    claims: &Claims,
    batch: &mut Batch,
    touched: &mut Touched,
) -> Vec<Conflict> {
    touched.sort_unstable_by_key(|key| (key.is_owned_vip(), *key));
    touched.dedup();
    let mut conflicts = Vec::new();
    let mut changes = FrontendChanges::default();
    for key in touched.iter() {
        let present = actual.frontend(key);
        let wanted = if key.is_owned_vip() {
            claims.owns_vip(key.addr).then(|| FrontendValue::new(0, FrontendKind::OwnedVip, 0))
        } else {
            let holder = present.map(|value| actual.owner(value.service)).filter(|tag| tag.0 != 0);
            claims.winner(key, holder).and_then(|(winner, claim)| {
                claims.report_losers(key, winner, &mut conflicts);
                let service = batch.new_cells.get(&winner).copied().or_else(|| actual.cell_of(winner))?;
                Some(FrontendValue::new(service, claim.kind, claim.flags))
            })
        };
        record(&mut changes, key, (present, wanted));
    }
    changes.deletes.reverse();
    batch.frontends = changes;
    conflicts
}

fn record(
    changes: &mut FrontendChanges,
    key: &FrontendKey,
    values: (Option<FrontendValue>, Option<FrontendValue>),
) {
    match values {
        (None, Some(wanted)) => changes.inserts.push((*key, wanted)),
        (Some(present), Some(wanted)) if present != wanted => changes.replaces.push((*key, wanted)),
        (Some(_), None) => changes.deletes.push(*key),
        _ => {}
    }
}
