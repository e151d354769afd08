//! Who gets which frontend, compared with the maps.

use proxy_common::frontend::{FrontendKey, FrontendValue};

use super::batch::{Batch, FrontendChanges};
use crate::plan::actual::Actual;
use crate::plan::claims::{Claims, Conflict, Touched};

/// Settles the touched frontends; owned VIPs are for [`super::owned`].
pub(super) fn settle_frontends(
    actual: &Actual,
    claims: &Claims,
    batch: &mut Batch,
    touched: &mut Touched,
) -> Vec<Conflict> {
    touched.sort_unstable();
    touched.dedup();
    let mut conflicts = Vec::new();
    let mut changes = FrontendChanges::default();
    for key in touched.iter().filter(|key| !key.is_owned_vip()) {
        let present = actual.frontend(key);
        let holder = present.map(|value| actual.owner(value.service)).filter(|tag| tag.0 != 0);
        let wanted = claims.winner(key, holder).and_then(|(winner, claim)| {
            claims.report_losers(key, winner, &mut conflicts);
            let service = batch.new_cells.get(&winner).copied().or_else(|| actual.cell_of(winner))?;
            Some(FrontendValue::new(service, claim.kind, claim.flags))
        });
        record(&mut changes, key, (present, wanted));
    }
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
