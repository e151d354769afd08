//! The handle through which the agent's loop says what it did, and its HTTP endpoints learn it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::measures::Measures;
use super::{
    AgentStatus, ClientStatus, HealthChecksStatus, Identity, Sample, SourceStatus, SyncStatus, Warning,
    Warnings, listing_name,
};
use crate::model::Listing;
use crate::plan::tables::OwnerTag;
use crate::source::kube::Connections;

/// An update that waits longer than this is a fault, unless [`Reporter::judge_after`] says otherwise: twice kube-proxy's
/// default sync period.
pub const OVERDUE: Duration = Duration::from_mins(1);

/// Warnings that are kept.
const WARNINGS_KEPT: usize = 20;

/// One batch that was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Map operations executed.
    pub ops: u64,
    /// Word stores executed.
    pub stores: u64,
    /// How long it took.
    pub took: Duration,
    /// Service ports that still wait to be written; refused ones do not count.
    pub pending: u64,
}

/// Whether the agent keeps up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether no update is overdue. An agent that has nothing to do is healthy, as is one that starts.
    pub keeps_up: bool,
    /// Whether load balancers may choose this node.
    pub node_eligible: bool,
    /// When a batch last ended.
    pub last_updated: Option<Timestamp>,
}

/// A shared, cheap handle on an agent's status.
#[derive(Clone, Debug)]
pub struct Reporter {
    kept: Arc<Mutex<Kept>>,
    /// Apart from the status, which is copied for each request.
    names: Arc<Mutex<BTreeMap<u64, Arc<str>>>>,
}

#[derive(Debug)]
struct Kept {
    status: AgentStatus,
    started: Instant,
    /// The same moment as `sync.pending_since`, by a clock that is never set: health must not depend on wall time.
    pending_since: Option<Instant>,
    overdue: Duration,
    /// Kept up to date by the source itself.
    connections: Connections,
    measures: Measures,
}

impl Reporter {
    /// The status of an agent that has just started and waits for `sources`.
    pub fn new(agent: Identity, sources: &[Listing]) -> Self {
        let sources = sources.iter().map(|&listing| listing_name(listing).to_owned());
        let status = AgentStatus {
            agent,
            started_at: Timestamp::now(),
            uptime_seconds: 0,
            ready_at: None,
            node_eligible: true,
            cgroup: None,
            hooks: Vec::new(),
            sources: sources.map(|name| SourceStatus { name, listed_at: None, connection: None }).collect(),
            sync: SyncStatus::default(),
            refused: Sample::default(),
            conflicts: Sample::default(),
            local_vips: Sample::default(),
            health_checks: HealthChecksStatus::default(),
            warnings: Warnings::default(),
            clients: ClientStatus::default(),
            packet: None,
            limitations: Vec::new(),
        };
        let connections = Connections::default();
        let kept = Kept {
            status,
            started: Instant::now(),
            pending_since: None,
            overdue: OVERDUE,
            connections,
            measures: Measures::default(),
        };
        Self { kept: Arc::new(Mutex::new(kept)), names: Arc::default() }
    }

    /// Learns the labels of service ports, and forgets those that went.
    pub fn rename(&self, labels: &[(OwnerTag, Arc<str>)], forgotten: &[OwnerTag]) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for tag in forgotten {
            names.remove(&tag.0);
        }
        names.extend(labels.iter().map(|(tag, label)| (tag.0, Arc::clone(label))));
    }

    /// Labels of service ports by owner tag in hexadecimal.
    pub fn names(&self) -> BTreeMap<String, String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().map(|(tag, label)| (format!("{tag:016x}"), label.to_string())).collect()
    }

    /// The label of a service port.
    pub fn label(&self, tag: OwnerTag) -> Option<Arc<str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&tag.0).cloned()
    }

    /// Counts something. `change` runs under the lock, so it should only count.
    pub fn measure(&self, change: impl FnOnce(&mut Measures)) {
        change(&mut self.lock().measures);
    }

    /// A copy of what has been counted.
    pub fn measures(&self) -> Measures {
        self.lock().measures.clone()
    }

    /// The watches of an API server stand like this from now on.
    pub fn connect(&self, connections: Connections) {
        self.lock().connections = connections;
    }

    /// Takes an update for a fault that waits for as long as `overdue`.
    pub fn judge_after(&self, overdue: Duration) {
        self.lock().overdue = overdue;
    }

    /// A copy of all there is to tell.
    pub fn snapshot(&self) -> AgentStatus {
        let kept = self.lock();
        let mut status = kept.status.clone();
        status.uptime_seconds = kept.started.elapsed().as_secs();
        for listing in Listing::ALL {
            if let Some(source) = status.sources.iter_mut().find(|it| it.name == listing_name(listing)) {
                source.connection = kept.connections.get(listing);
            }
        }
        status
    }

    /// Changes fields that have no method of their own here: hooks, cgroup, refusals, conflicts, local VIPs, health checks,
    /// limitations, eligibility. `change` runs under the lock, so it should only assign.
    pub fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        change(&mut self.lock().status);
    }

    /// A listing is complete. Only the first time counts.
    pub fn listed(&self, listing: Listing) {
        let mut kept = self.lock();
        let found = kept.status.sources.iter_mut().find(|source| source.name == listing_name(listing));
        if let Some(source) = found {
            source.listed_at.get_or_insert_with(Timestamp::now);
        }
    }

    /// `pending` service ports wait to be written.
    pub fn queued(&self, pending: u64) {
        let mut kept = self.lock();
        kept.measures.last_queued = Some(Timestamp::now());
        kept.set_pending(pending);
    }

    /// A batch ended well. The first one that leaves nothing to write after every source has listed makes the
    /// agent ready.
    pub fn applied(&self, batch: Batch) {
        let mut kept = self.lock();
        let now = kept.count(batch);
        kept.measures.batch(batch.took, false);
        kept.measures.last_applied = Some(now);
        kept.measures.changes.services_pending = 0;
        kept.measures.changes.slices_pending = 0;
        kept.status.sync.last_error = None;
        // Part of what had waited is written, which may be the part that waited longest. What never settles is retried with
        // errors, or refused and told apart.
        kept.pending_since = None;
        kept.status.sync.pending_since = None;
        kept.set_pending(batch.pending);
        let is_listed = kept.status.sources.iter().all(|source| source.listed_at.is_some());
        if is_listed && batch.pending == 0 {
            kept.status.ready_at.get_or_insert(now);
        }
    }

    /// A batch ended early; `batch` says how far it came.
    pub fn failed(&self, batch: Batch, error: &dyn std::fmt::Display) {
        let mut kept = self.lock();
        kept.count(batch);
        kept.measures.batch(batch.took, true);
        kept.status.sync.last_error = Some(error.to_string());
        kept.set_pending(batch.pending);
    }

    /// Something is wrong with the input or the host; `text` names the object.
    pub fn warn(&self, text: impl Into<String>) {
        let warnings = &mut self.lock().status.warnings;
        warnings.count += 1;
        if warnings.last.len() == WARNINGS_KEPT {
            warnings.last.pop_front();
        }
        warnings.last.push_back(Warning { at: Timestamp::now(), text: text.into() });
    }

    /// Whether the agent keeps up, seen at `now`.
    pub fn health(&self, now: Instant) -> Health {
        let kept = self.lock();
        // Until the first batch has ended well the agent starts, however long that takes: to kill it would not help.
        let has_started = kept.measures.last_applied.is_some();
        let is_overdue =
            has_started && kept.pending_since.is_some_and(|since| now.duration_since(since) >= kept.overdue);
        Health {
            keeps_up: !is_overdue,
            node_eligible: kept.status.node_eligible,
            last_updated: kept.status.sync.last_at,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every holder only assigns fields: after a panic in one, each field still is an old or a new value.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn set_pending(&mut self, pending: u64) {
        self.status.sync.pending = pending;
        if pending == 0 {
            self.pending_since = None;
            self.status.sync.pending_since = None;
        } else if self.pending_since.is_none() {
            self.pending_since = Some(Instant::now());
            self.status.sync.pending_since = Some(Timestamp::now());
        }
    }

    fn count(&mut self, batch: Batch) -> Timestamp {
        let now = Timestamp::now();
        let sync = &mut self.status.sync;
        sync.batches += 1;
        sync.ops += batch.ops;
        sync.stores += batch.stores;
        sync.last_at = Some(now);
        sync.last_micros = u64::try_from(batch.took.as_micros()).unwrap_or(u64::MAX);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Refusal, SAMPLE_KEPT};

    fn reporter() -> Reporter {
        Reporter::new(Identity::default(), &[Listing::Services, Listing::NodeAddresses])
    }

    #[test]
    fn ready_is_every_source_listed_and_nothing_pending() {
        let reporter = reporter();
        let reasons = || reporter.snapshot().reasons_not_ready();
        assert_eq!(reasons(), ["services not listed yet", "node-addresses not listed yet"]);
        // Batches applied before the gate opens do not count.
        reporter.applied(Batch::default());
        reporter.listed(Listing::Services);
        assert_eq!(reasons(), ["node-addresses not listed yet"]);
        reporter.listed(Listing::NodeAddresses);
        assert_eq!(reasons(), ["the maps have not been written yet"]);
        reporter.failed(Batch { pending: 2, ..Batch::default() }, &std::fmt::Error);
        assert_eq!(reasons().len(), 2);
        assert_eq!(reasons()[0], "2 service ports are not in the maps yet");
        reporter.applied(Batch { pending: 1, ..Batch::default() });
        assert_eq!(reasons(), ["1 service ports are not in the maps yet"]);
        reporter.applied(Batch::default());
        assert_eq!(reasons(), Vec::<String>::new());
        // Ready once, ready for good: what waits later is a matter of health.
        let ready_at = reporter.snapshot().ready_at;
        reporter.queued(5);
        reporter.applied(Batch::default());
        assert_eq!(reporter.snapshot().ready_at, ready_at);
    }

    #[test]
    fn an_update_that_waits_too_long_is_unhealthy() {
        let reporter = reporter();
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(reporter.health(later(3600)).keeps_up, "an agent that starts is healthy");
        reporter.queued(1);
        assert!(reporter.health(later(3600)).keeps_up, "also if its first batch does not end");
        reporter.applied(Batch::default());
        reporter.queued(1);
        assert!(reporter.health(later(50)).keeps_up);
        reporter.failed(Batch { pending: 1, ..Batch::default() }, &std::fmt::Error);
        assert!(!reporter.health(later(61)).keeps_up, "a failed batch does not start the clock anew");
        reporter.judge_after(Duration::from_secs(100));
        assert!(reporter.health(later(90)).keeps_up);
        assert!(!reporter.health(later(101)).keeps_up);
        reporter.applied(Batch::default());
        assert!(reporter.health(later(3600)).keeps_up);
    }

    #[test]
    fn counters_add_up() {
        let reporter = reporter();
        let batch = Batch { ops: 3, stores: 10, took: Duration::from_micros(250), pending: 0 };
        reporter.applied(batch);
        reporter.failed(Batch { ops: 1, stores: 2, ..batch }, &std::fmt::Error);
        let sync = reporter.snapshot().sync;
        assert_eq!((sync.batches, sync.ops, sync.stores, sync.last_micros), (2, 4, 12, 250));
        assert!(sync.last_at.is_some() && sync.last_error.is_some());
    }

    #[test]
    fn lists_stay_bounded() {
        let reporter = reporter();
        for number in 0..50 {
            reporter.warn(format!("warning {number}"));
        }
        let refusal =
            |number| Refusal { service: format!("default/s{number}:/tcp"), table: "SLOTS".to_owned() };
        reporter.update(|status| status.refused = (0..1000).map(refusal).collect());
        let status = reporter.snapshot();
        assert_eq!((status.warnings.count, status.warnings.last.len()), (50, WARNINGS_KEPT));
        assert_eq!(status.warnings.last[0].text, "warning 30");
        assert_eq!((status.refused.count, status.refused.first.len()), (1000, SAMPLE_KEPT));
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let reporter = reporter();
        reporter.listed(Listing::Services);
        reporter.warn("Service default/web: spec.clusterIPs[0]: not an address");
        reporter.applied(Batch { pending: 4, ..Batch::default() });
        let status = reporter.snapshot();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
    }
}
