//! The agent: one loop over one closed enum of triggers. Everything with an effect happens here or below `maps` and
//! `datapath`; what the effects are is decided elsewhere.

mod start;
pub mod sync;

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::AgentConfig;
use crate::datapath::DatapathError;
use crate::datapath::probe::Missing;
use crate::maps::StoreError;
use crate::maps::apply::StoreOrder;
use crate::plan::claims::Conflict;
use crate::plan::diff::Refused;
use crate::source::manifests::Manifests;
use crate::source::node::NodeAddresses;
use crate::source::{Batch, SourceError};
use crate::status::{self, Reporter};
use start::Node;
use sync::{AdoptError, Outcome};

/// A failed batch is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Batches of events that may wait; a source that fills this waits in turn.
const BATCHES: usize = 1024;

/// What a test may change about an agent; the default is what a user runs.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// The eBPF object to load; none: the embedded one.
    pub object: Option<Vec<u8>>,
    /// The layout version that names the pin directory; none: [`proxy_common::names::SCHEMA`].
    pub schema: Option<u32>,
    /// The order of stores.
    pub order: StoreOrder,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host lacks something.
    #[error("this host lacks {}", .0.iter().map(|missing| format!("{} (for {})", missing.what, missing.needed_for)).collect::<Vec<_>>().join("; "))]
    Unfit(Vec<Missing>),
    /// The kernel refused the programs, maps or hooks.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The maps could not be opened.
    #[error("open the maps: {0}")]
    Store(#[from] StoreError),
    /// The maps could not be taken over.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// A source could not be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The system refused something else.
    #[error("{step}: {source}")]
    System {
        /// What was asked.
        step: &'static str,
        /// The answer.
        source: std::io::Error,
    },
}

/// What makes the loop turn.
enum Trigger {
    /// A source said something.
    Batch(Batch),
    /// What failed or was refused is due again.
    Retry,
    /// The process is asked to end.
    Stop(&'static str),
}

/// Runs an agent until it is asked to end. What is attached and pinned stays in force.
pub fn run(config: &AgentConfig, variant: &Variant) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { step: "start the runtime", source })?;
    runtime.block_on(run_loop(config, variant))
}

async fn run_loop(config: &AgentConfig, variant: &Variant) -> Result<(), AgentError> {
    let mut node = Node::start(config, variant)?;
    let (sender, mut batches) = mpsc::channel(BATCHES);
    let _addresses = NodeAddresses::follow(sender.clone())?;
    let _manifests = Manifests::follow(&config.manifests, &config.node_name, sender)?;
    let mut stop = Stop::new()?;
    let epoch = Instant::now();
    let mut retry_at: Option<Instant> = None;
    loop {
        let trigger = tokio::select! {
            batch = batches.recv() => batch.map_or(Trigger::Stop("every source has ended"), Trigger::Batch),
            () = sleep_until(retry_at) => Trigger::Retry,
            why = stop.asked() => Trigger::Stop(why),
        };
        match trigger {
            Trigger::Stop(why) => {
                info!(why, "ending; what is attached stays in force");
                return Ok(());
            }
            Trigger::Retry => {}
            Trigger::Batch(batch) => {
                take(&mut node, batch);
                // What has queued up meanwhile is merged: no intermediate state is worth a store.
                while let Ok(batch) = batches.try_recv() {
                    take(&mut node, batch);
                }
            }
        }
        let is_settled = write(&mut node, epoch)?;
        retry_at = (!is_settled).then(|| Instant::now() + RETRY);
    }
}

fn take(node: &mut Node, batch: Batch) {
    for warning in &batch.warnings {
        warn!(%warning, "skipped");
        node.reporter.warn(warning.to_string());
    }
    node.sync.take(batch.events);
    let state = node.sync.state();
    for listing in
        node.expected.iter().filter(|listing| !state.unlisted().any(|missing| missing == **listing))
    {
        node.reporter.listed(*listing);
    }
}

/// Writes what has changed; returns whether nothing is left to do.
fn write(node: &mut Node, epoch: Instant) -> Result<bool, AgentError> {
    if !node.sync.is_due() {
        return Ok(true);
    }
    let started = Instant::now();
    let outcome = node.sync.sync(u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX));
    report(&node.reporter, &outcome, started.elapsed());
    if node.sync.is_ready() {
        node.attach()?;
    }
    Ok(outcome.is_settled)
}

fn report(reporter: &Reporter, outcome: &Outcome, took: Duration) {
    for warning in &outcome.warnings {
        reporter.warn(warning);
    }
    let batch = status::Batch {
        ops: outcome.executed.ops,
        stores: outcome.executed.stores,
        took,
        pending: u64::from(!outcome.is_settled && outcome.refused.is_empty()),
    };
    for conflict in &outcome.conflicts {
        warn!(service = %conflict.loser, frontend = %conflict.key, holder = %conflict.winner, "frontend is taken");
    }
    reporter.rename(&outcome.named, &outcome.forgotten);
    reporter.update(|status| {
        status.refused = outcome.refused.iter().map(refusal).collect();
        status.conflicts = outcome.conflicts.iter().map(conflict).collect();
    });
    match &outcome.error {
        None => reporter.applied(batch),
        Some(error) => {
            error!(%error, "the batch ended early and is tried again");
            reporter.failed(batch, error);
        }
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, AgentError> {
        let on =
            |kind| signal(kind).map_err(|source| AgentError::System { step: "listen for signals", source });
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
