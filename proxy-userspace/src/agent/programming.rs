//! How long changes of endpoints take from the cluster into the maps: from the moment that a slice names as its cause
//! to the end of the batch that put it into force (kube-proxy's network_programming_duration_seconds; SIG Scalability's
//! definition of the network programming latency). It is handed its clock, and does no I/O.

use std::time::Duration;

use crate::model::{EndpointSlice, Family, ObjectName};

/// Milliseconds since 1970.
pub type WallMillis = i64;

/// A slice that changed, for a reason that the API dates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caused {
    service: ObjectName,
    family: Family,
    at: WallMillis,
}

/// What one change took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// The family of the slice.
    pub family: Family,
    /// How long.
    pub duration: Duration,
}

/// Changes that wait at most; those that come when so many do are not measured.
const WAITING: usize = 10_000;

/// The changes that are not in the maps yet.
#[derive(Clone, Debug)]
pub struct Programming {
    started_at: WallMillis,
    waiting: Vec<Caused>,
}

impl Caused {
    fn by(slice: &EndpointSlice) -> Option<Self> {
        let service = || ObjectName::new(slice.name.namespace(), &slice.service);
        slice.triggered_at.map(|at| Self { service: service(), family: slice.family, at })
    }
}

impl Programming {
    /// Starts to measure. What was caused before this moment is not the agent's delay.
    pub const fn new(started_at: WallMillis) -> Self {
        Self { started_at, waiting: Vec::new() }
    }

    /// Slices came or changed. Deletions are not measured: the annotation that went with the slice dates the change
    /// before.
    pub fn changed<'a>(&mut self, slices: impl IntoIterator<Item = &'a EndpointSlice>) {
        let started_at = self.started_at;
        let recent = slices.into_iter().filter(|slice| slice.triggered_at.is_some_and(|at| at > started_at));
        let room = WAITING.saturating_sub(self.waiting.len());
        self.waiting.extend(recent.filter_map(Caused::by).take(room));
    }

    /// A batch has ended well, with everything in force but Services that `is_held`; those go on waiting.
    pub fn ended(&mut self, now: WallMillis, is_held: impl Fn(&ObjectName) -> bool) -> Vec<Took> {
        let (held, done): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|slice| is_held(&slice.service));
        self.waiting = held;
        // Clocks of two machines: a cause in the future took no time.
        let since = |at: WallMillis| Duration::from_millis(now.saturating_sub(at).max(0).unsigned_abs());
        done.into_iter().map(|slice| Took { family: slice.family, duration: since(slice.at) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: WallMillis = 1_700_000_000_000;

    fn slice(service: &str, family: Family, triggered_at: Option<WallMillis>) -> EndpointSlice {
        EndpointSlice {
            name: ObjectName::new("default", &format!("{service}-1")),
            service: service.into(),
            family,
            endpoints: Vec::new(),
            ports: Vec::new(),
            triggered_at,
        }
    }

    fn caused(service: &str, after_start: i64) -> EndpointSlice {
        slice(service, Family::V4, Some(START + after_start))
    }

    fn millis(took: &[Took]) -> Vec<u128> {
        took.iter().map(|took| took.duration.as_millis()).collect()
    }

    #[test]
    fn a_change_takes_from_its_cause_to_the_end_of_its_batch() {
        let mut programming = Programming::new(START);
        let slice = slice("web", Family::V6, Some(START + 500));
        programming.changed([&slice]);
        let took = programming.ended(START + 1_750, |_| false);
        assert_eq!(took, [Took { family: Family::V6, duration: Duration::from_millis(1_250) }]);
        assert_eq!(programming.ended(START + 9_000, |_| false), [], "each change counts once");
    }

    #[test]
    fn what_was_caused_before_the_start_or_is_not_dated_does_not_count() {
        let mut programming = Programming::new(START);
        programming.changed([&caused("a", -1), &caused("b", 0), &slice("web", Family::V4, None)]);
        assert_eq!(programming.ended(START + 10, |_| false), []);
        programming.changed([&caused("web", 1)]);
        assert_eq!(millis(&programming.ended(START + 10, |_| false)), [9]);
    }

    #[test]
    fn several_changes_of_one_service_count_each_until_the_batch_that_holds_it() {
        let mut programming = Programming::new(START);
        programming.changed([&caused("web", 100), &caused("api", 300), &caused("web", 200)]);
        let web = ObjectName::new("default", "web");
        assert_eq!(millis(&programming.ended(START + 400, |service| *service == web)), [100]);
        assert_eq!(millis(&programming.ended(START + 500, |_| false)), [400, 300]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut programming = Programming::new(START);
        for _ in 0..3 {
            programming.changed(&vec![caused("web", 1); WAITING / 2]);
        }
        assert_eq!(programming.ended(START + 10, |_| true).len(), 0);
        assert_eq!(programming.ended(START + 10, |_| false).len(), WAITING);
    }

    #[test]
    fn a_cause_in_the_future_took_no_time() {
        let mut programming = Programming::new(START);
        programming.changed([&caused("web", 1_000)]);
        assert_eq!(millis(&programming.ended(START + 400, |_| false)), [0]);
    }
}
