//! What a batch has to say of itself: to the log and the status. Events are told from the same.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tracing::{error, info, warn};

use super::sync::Outcome;
use crate::plan::claims::Conflict;
use crate::plan::diff::Refused;
use crate::plan::local_vips::LeftAlone;
use crate::status::{self, LocalVip, Reporter};

/// Refusals of one batch that the log names one by one.
const NAMED: usize = 100;

/// The refusals that stand. Every plan has all of them again, and each is told once.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    standing: Vec<Refused>,
}

impl Refusals {
    /// Takes in what the last plan refused, and returns what of it the one before did not.
    pub(super) fn begun<'a>(&mut self, refused: &'a [Refused]) -> Vec<&'a Refused> {
        if refused == self.standing {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.standing, refused.to_vec());
        let before: HashSet<&Refused> = before.iter().collect();
        refused.iter().filter(|refusal| !before.contains(refusal)).collect()
    }
}

/// Tells log and status how a batch ended. `begun` are the refusals that are new, `conflicts` all there are.
pub(super) fn report(
    reporter: &Reporter,
    outcome: &Outcome,
    (begun, conflicts): (&[&Refused], &[Conflict]),
    took: Duration,
) {
    log(outcome, begun);
    for warning in &outcome.warnings {
        reporter.warn(format!("{}: {warning}", warning.label()));
    }
    reporter.rename(&outcome.named, &outcome.forgotten);
    reporter.update(|status| {
        status.refused = outcome.refused.iter().map(refusal).collect();
        status.conflicts = conflicts.iter().map(conflict).collect();
    });
    let batch = status::Batch {
        ops: outcome.executed.ops,
        stores: outcome.executed.stores,
        took,
        pending: u64::from(!outcome.is_settled && outcome.refused.is_empty()),
    };
    match &outcome.error {
        None => reporter.applied(batch),
        Some(error) => reporter.failed(batch, error),
    }
}

/// Tells log and status which cluster IPs are left alone since they are addresses of this node; `told` is what was said of
/// that before, so that each is logged once.
pub(super) fn report_left_alone(
    reporter: &Reporter,
    told: &mut BTreeSet<LeftAlone>,
    left_alone: BTreeSet<LeftAlone>,
) {
    if *told == left_alone {
        return;
    }
    for LeftAlone { address, label } in left_alone.difference(told).take(NAMED) {
        info!(service = %label, %address, "a cluster IP is an address of this node and is left alone");
    }
    for LeftAlone { address, label } in told.difference(&left_alone).take(NAMED) {
        info!(service = %label, %address, "a cluster IP is no address of this node any more");
    }
    let vips = left_alone.iter();
    let vips = vips.map(|one| LocalVip { address: one.address, service: one.label.to_string() });
    reporter.update(|status| status.local_vips = vips.collect());
    *told = left_alone;
}

fn log(outcome: &Outcome, begun: &[&Refused]) {
    for warning in &outcome.warnings {
        warn!(service = %warning.label(), %warning, "planned in part");
    }
    for refused in begun.iter().take(NAMED) {
        let table = refused.table;
        if let Some(service) = refused.service() {
            warn!(%service, %table, "refused: the map is full");
        } else {
            warn!(what = %refused.label, %table, "refused: the map is full");
        }
    }
    if let Some(more) = begun.len().checked_sub(NAMED).filter(|more| *more > 0) {
        warn!(more, "refused as well: a map is full");
    }
    for conflict in &outcome.conflicts {
        warn!(service = %conflict.loser, frontend = %conflict.key, holder = %conflict.winner, "frontend is taken");
    }
    if let Some(error) = &outcome.error {
        error!(%error, "the batch ended early and is tried again");
    }
}

fn refusal(refused: &Refused) -> status::Refusal {
    status::Refusal { service: refused.label.to_string(), table: refused.table.to_owned() }
}

fn conflict(conflict: &Conflict) -> status::Conflict {
    status::Conflict {
        service: conflict.loser.to_string(),
        frontend: conflict.key.to_string(),
        holder: conflict.winner.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Identity;

    fn refusals(names: &[&str]) -> Vec<Refused> {
        let refused = |name: &&str| Refused { label: format!("shop/{name}:http/tcp").into(), table: "SLOTS" };
        names.iter().map(refused).collect()
    }

    #[test]
    fn what_is_left_alone_is_in_the_status_while_it_is() {
        let reporter = Reporter::new(Identity::default(), &[]);
        let mut told = BTreeSet::new();
        let mut vips = |addresses: &[[u8; 4]]| {
            let left = |ip: &[u8; 4]| LeftAlone { address: (*ip).into(), label: "shop/web:80/tcp".into() };
            report_left_alone(&reporter, &mut told, addresses.iter().map(left).collect());
            let vips = reporter.snapshot().local_vips.first.into_iter();
            vips.map(|vip| format!("{} {}", vip.address, vip.service)).collect::<Vec<_>>()
        };
        assert_eq!(vips(&[[10, 96, 0, 1]]), ["10.96.0.1 shop/web:80/tcp"]);
        assert_eq!(vips(&[[10, 96, 0, 1], [10, 96, 0, 2]]).len(), 2);
        assert_eq!(vips(&[]).len(), 0);
    }

    #[test]
    fn a_refusal_that_stands_begins_once() {
        let mut standing = Refusals::default();
        let mut begun = |names: &[&str]| {
            let refused = refusals(names);
            let begun: Vec<String> =
                standing.begun(&refused).iter().map(|refusal| refusal.label.to_string()).collect();
            begun
        };
        assert_eq!(begun(&["a"]), ["shop/a:http/tcp"]);
        assert_eq!(begun(&["a", "b"]), ["shop/b:http/tcp"]);
        assert_eq!(begun(&["a", "b"]), [""; 0]);
        assert_eq!(begun(&[]), [""; 0]);
        assert_eq!(begun(&["b"]), ["shop/b:http/tcp"], "one that came back begins anew");
    }
}
