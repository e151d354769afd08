//! The agent: one loop over one closed enum of triggers. Everything with an effect happens here or below `maps` and
//! `datapath`; what the effects are is decided elsewhere.

mod bootstrap;
mod clients;
mod devices;
pub mod follow;
mod keeper;
mod loading;
pub mod pacing;
mod packet;
pub mod programming;
mod report;
mod start;
pub mod sync;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{AgentConfig, SourceConfig};
use crate::datapath::DatapathError;
use crate::datapath::packet::devices::Means;
use crate::datapath::probe::Missing;
use crate::devices::{DevicesError, Hooked};
use crate::health_checks::Failure;
use crate::maps::StoreError;
use crate::maps::apply::StoreOrder;
use crate::maps::fill::HashCounts;
use crate::model::Family;
use crate::plan::rules::Limits;
use crate::source::kube::{self, Bounds};
use crate::source::{Batch, SourceError};
use crate::sys::cgroup::CgroupError;
use devices::Devices;
use follow::Source;
use pacing::{Ended, Intervals, Pacer, Turn};
use report::{report, report_left_alone};
use start::Node;
use sync::{AdoptError, Outcome};

/// Batches of events that may wait; a source that fills this waits in turn.
const BATCHES: usize = 1024;

/// What a test may change about an agent; the default is what a user runs.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// The eBPF object of the programs at sockets to load; none: the embedded one.
    pub object: Option<Vec<u8>>,
    /// The same for the programs at devices.
    pub packet_object: Option<Vec<u8>>,
    /// How programs are attached to devices; none: as the kernel can.
    pub means: Option<Means>,
    /// The layout version that names the pin directory; none: [`proxy_common::names::SCHEMA`].
    pub schema: Option<u32>,
    /// The order of stores.
    pub order: StoreOrder,
    /// How long an API server is waited for.
    pub bounds: Bounds,
    /// How much each table may hold; none: what the layouts can.
    pub limits: Option<Limits>,
    /// How often everything is compared with the maps; none: as users have it.
    pub compare_every: Option<Duration>,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host lacks something.
    #[error("this host lacks {}", .0.iter().map(|missing| format!("{} (for {})", missing.what, missing.needed_for)).collect::<Vec<_>>().join("; "))]
    Unfit(Vec<Missing>),
    /// There is no cgroup to hook.
    #[error("no cgroup to hook")]
    Cgroup(#[from] CgroupError),
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
    /// Devices cannot be followed.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// A source can say nothing more.
    #[error("the thread of the source {0} has ended; what it would have said is missing from now on")]
    SourceEnded(&'static str),
    /// An address is taken, and the configuration says that this is the end.
    #[error("listen on {address} (bindAddressHardFail): {source}")]
    Bind {
        /// Where.
        address: std::net::SocketAddr,
        /// The answer.
        source: std::io::Error,
    },
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
    /// A turn is due: what came in a burst, failed or was refused, or the comparison of everything.
    Due,
    /// The process is asked to end.
    Stop(&'static str),
    /// A source has ended, which none does by itself.
    SourceEnded(&'static str),
    /// A socket for health checks could not be opened.
    HealthCheckFailed(Failure),
    /// These are the devices of the packet path from now on.
    Devices(Vec<Hooked>),
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
    if let SourceConfig::Api { access, patience: Some(limit) } = &config.source {
        kube::reach(access, Bounds::default(), *limit).await?;
    }
    let (sender, mut batches) = mpsc::channel(BATCHES);
    // First, on threads of its own: it lists while the verifier walks through the programs.
    let mut source = Source::follow(config, variant.bounds, sender)?;
    let mut node = Node::start(config, variant)?;
    node.connect(source.connections());
    let mut devices = Devices::follow(config)?;
    if let Some(list) = devices.first().await {
        node.packet.want(list);
    }
    let mut stop = Stop::new()?;
    let epoch = Instant::now();
    let mut pacer = Pacer::new(intervals(config, variant), epoch.elapsed());
    loop {
        let trigger = tokio::select! {
            batch = batches.recv() => batch.map_or(Trigger::SourceEnded("all"), Trigger::Batch),
            name = source.ended() => Trigger::SourceEnded(name),
            () = tokio::time::sleep_until((epoch + pacer.due()).into()) => Trigger::Due,
            why = stop.asked() => Trigger::Stop(why),
            failure = node.health_checks.failed() => Trigger::HealthCheckFailed(failure),
            list = devices.next() => list.map_or(Trigger::SourceEnded("devices"), Trigger::Devices),
        };
        match trigger {
            Trigger::Stop(why) => {
                info!(why, "ending; what is attached stays in force");
                return Ok(());
            }
            // Whoever starts the agent again has a source that is whole; the maps stay in force meanwhile.
            Trigger::SourceEnded(name) => {
                error!(source = name, "the thread of a source has ended");
                return Err(AgentError::SourceEnded(name));
            }
            Trigger::Due => {}
            Trigger::Devices(list) => node.packet.want(list),
            Trigger::HealthCheckFailed(Failure { listener, problem }) => {
                node.events.health_check_failed(&listener, &problem);
            }
            Trigger::Batch(batch) => {
                take(&mut node, batch);
                // What has queued up meanwhile is merged: no intermediate state is worth a store.
                while let Ok(batch) = batches.try_recv() {
                    take(&mut node, batch);
                }
                if node.sync.is_due() {
                    node.reporter.queued(node.sync.waiting());
                    pacer.want();
                }
            }
        }
        if let Some(turn) = pacer.start(epoch.elapsed()) {
            let how = write(&mut node, turn, epoch)?;
            pacer.ended(epoch.elapsed(), how);
        }
    }
}

fn intervals(config: &AgentConfig, variant: &Variant) -> Intervals {
    let mut intervals = Intervals::of_periods(config.pacing.min_sync_period, config.pacing.sync_period);
    intervals.max = variant.compare_every.unwrap_or(intervals.max);
    intervals
}

fn take(node: &mut Node, batch: Batch) {
    for warning in &batch.warnings {
        warn!(%warning, "skipped");
        node.reporter.warn(warning.to_string());
    }
    node.events.skipped(&batch.warnings);
    let taken = node.sync.take(batch.events);
    node.judge_bootstrap();
    node.programming.changed(taken.dated.iter().map(|slice| &**slice));
    node.reporter.measure(|measures| {
        let changes = &mut measures.changes;
        changes.services += taken.services;
        changes.services_pending += taken.services;
        changes.slices += taken.slices;
        changes.slices_pending += taken.slices;
    });
    let state = node.sync.state();
    let is_known = state.has_node() || !node.needs_node_object;
    node.reporter.update(|status| status.node_eligible = is_known && !state.node().is_leaving);
    for listing in
        node.expected.iter().filter(|listing| !state.unlisted().any(|missing| missing == **listing))
    {
        node.reporter.listed(*listing);
    }
}

/// Writes what has changed, or compares everything.
fn write(node: &mut Node, turn: Turn, epoch: Instant) -> Result<Ended, AgentError> {
    if turn == Turn::Full {
        node.sync.recheck();
        node.packet.look_again();
    }
    if !node.sync.is_due() {
        return Ok(Ended::Settled);
    }
    let started = Instant::now();
    node.clientele.prepare(node.sync.state(), &node.reporter)?;
    let outcome = node.sync.sync(|| u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX));
    let took = started.elapsed();
    if let Some(contradiction) = outcome.contradiction {
        // There is one way out, and it is the next start's: to set these maps aside and fill others.
        error!(reason = %contradiction, "ending: the maps contradict themselves; what is attached stays in force");
        return Err(AdoptError::from(contradiction).into());
    }
    // Before the report: whoever reads there that the agent is ready may send a connection at once.
    if node.sync.is_ready() {
        node.packet.count_inside(node.sync.state().node());
        node.attach()?;
    }
    if outcome.concerns_udp {
        node.clientele.udp_changed();
    }
    let planner = node.sync.planner();
    node.reporter.measure(|measures| measures.counted = HashCounts::of_mirror(planner.actual()));
    let begun = node.refusals.begun(&outcome.refused);
    report(&node.reporter, &outcome, (&begun, &planner.conflicts()), took);
    node.events.planned(&begun, &outcome.conflicts, &outcome.warnings);
    if outcome.error.is_none() {
        measure_programming(node, &outcome);
        if node.answers_health_checks {
            node.health_checks.want(node.sync.health_checks());
        }
        report_left_alone(&node.reporter, &mut node.left_alone, node.sync.left_alone().cloned().collect());
    }
    Ok(match (outcome.is_settled, outcome.executed.ops) {
        (true, _) => Ended::Settled,
        (false, 0) => Ended::Stuck,
        (false, _) => Ended::GotOn,
    })
}

/// Services of which a port was refused are not in force; their changes go on waiting.
fn measure_programming(node: &mut Node, outcome: &Outcome) {
    let refused: HashSet<&str> =
        outcome.refused.iter().filter_map(|refused| Some(refused.label.split_once(':')?.0)).collect();
    let now = Timestamp::now().as_millisecond();
    let took = node.programming.ended(now, |service| refused.contains(service.as_str()));
    node.reporter.measure(|measures| {
        for one in &took {
            measures.programming_seconds[usize::from(one.family == Family::V6)]
                .observe(one.duration.as_secs_f64());
        }
    });
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
