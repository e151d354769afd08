//! What the loop and the HTTP endpoints count for `/metrics` and nobody else reads.

use std::time::Duration;

use jiff::Timestamp;

use super::histogram::Histogram;
use crate::maps::fill::HashCounts;

/// Counted since the start, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Batches that ended early.
    pub failed_batches: u64,
    /// How long batches took, in seconds.
    pub sync_seconds: Histogram,
    /// How long changes of endpoints took from their cause into the maps, in seconds: IPv4 and IPv6.
    pub programming_seconds: [Histogram; 2],
    /// When a batch last ended well.
    pub last_applied: Option<Timestamp>,
    /// When a change was last taken in.
    pub last_queued: Option<Timestamp>,
    /// Changes of Services and of EndpointSlices.
    pub changes: Changes,
    /// What the mirror of the maps counts, so that nobody else has to walk hashes; now.
    pub counted: HashCounts,
    /// Answers by endpoint: `/healthz` and `/livez`, of each those that were healthy and those that were not.
    pub answers: [[u64; 2]; 2],
    /// What the sweep of flows has found.
    pub flows: Flows,
}

/// Flows of the packet path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flows {
    /// Records that were removed, since the start.
    pub removed: u64,
    /// Flows whose client has answered; when last swept.
    pub settled: u64,
    /// Flows that are opening; when last swept.
    pub opening: u64,
    /// Seconds that the last sweep took.
    pub sweep_seconds: f64,
}

/// Changes of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of Services, since the start.
    pub services: u64,
    /// Of EndpointSlices, since the start.
    pub slices: u64,
    /// Of Services, since the last batch that ended well.
    pub services_pending: u64,
    /// Of EndpointSlices, since the last batch that ended well.
    pub slices_pending: u64,
}

/// An endpoint whose answers are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            failed_batches: 0,
            sync_seconds: Histogram::new(doubling(0.001, 15)),
            programming_seconds: [(); 2].map(|()| Histogram::new(programming_bounds())),
            last_applied: None,
            last_queued: None,
            changes: Changes::default(),
            counted: HashCounts::default(),
            answers: [[0; 2]; 2],
            flows: Flows::default(),
        }
    }
}

impl Measures {
    /// An endpoint has answered.
    pub fn answered(&mut self, probe: Probe, is_healthy: bool) {
        self.answers[probe as usize][usize::from(!is_healthy)] += 1;
    }

    /// A batch took this long.
    pub(super) fn batch(&mut self, took: Duration, has_failed: bool) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.failed_batches += u64::from(has_failed);
    }
}

fn doubling(first: f64, count: i32) -> Vec<f64> {
    (0..count).map(|power| first * 2_f64.powi(power)).collect()
}

/// kube-proxy's own bounds, so that quantiles over both are comparable: 0.25 s to 5 min.
fn programming_bounds() -> Vec<f64> {
    let steps = |range: std::ops::RangeInclusive<u32>, step: usize| range.step_by(step).map(f64::from);
    [0.25, 0.5]
        .into_iter()
        .chain(steps(1..=59, 1))
        .chain(steps(60..=115, 5))
        .chain(steps(120..=300, 30))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_kube_proxy() {
        let bounds = programming_bounds();
        assert_eq!((bounds.len(), bounds[0], bounds[2], bounds[79]), (80, 0.25, 1.0, 300.0));
        assert!(bounds.is_sorted_by(|a, b| a < b));
        let sync = doubling(0.001, 15);
        assert_eq!((sync.len(), sync[0], sync[14]), (15, 0.001, 16.384));
    }

    #[test]
    fn answers_are_counted_by_endpoint_and_outcome() {
        let mut measures = Measures::default();
        measures.answered(Probe::Healthz, true);
        measures.answered(Probe::Livez, false);
        measures.answered(Probe::Livez, false);
        assert_eq!(measures.answers, [[1, 0], [0, 2]]);
    }
}
