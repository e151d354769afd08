//! `shunt verify`: what the source says, put through the agent's own way into tables, beside what the maps hold.
//!
//! It asks the source itself and not the agent, and reads the pinned maps. A change on its way shows as a difference
//! for a moment, so only one that stays is told.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Exit, open_store, print};
use crate::agent::follow::Source;
use crate::agent::sync::{Sync, SyncOptions};
use crate::cli::VerifyArgs;
use crate::config::{AgentConfig, Surroundings};
use crate::maps::apply::StoreOrder;
use crate::maps::compare::{Claimants, Difference, compare};
use crate::maps::nowhere::Nowhere;
use crate::maps::{adopt, render};
use crate::model::Listing;
use crate::plan::rules::Rules;
use crate::plan::tables::OwnerTag;
use crate::source::Batch;
use crate::source::kube::Bounds;
use crate::status::listing_name;

/// Between two looks at the maps while they differ.
const PAUSE: Duration = Duration::from_millis(100);

/// Compares, and tells what differs.
pub fn run(args: VerifyArgs) -> anyhow::Result<Exit> {
    let config = AgentConfig::resolve(args.agent, &Surroundings::of_this_process())?.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let differences = runtime.block_on(verify(&config, Duration::from_secs(args.within)))?;
    let rows: Vec<Row> = differences.into_iter().map(Row::from).collect();
    print(args.output.output, &rows, |rows| table(rows))?;
    Ok(if rows.is_empty() { Exit::Done } else { Exit::Found })
}

async fn verify(config: &AgentConfig, within: Duration) -> anyhow::Result<Vec<Difference>> {
    let (sender, mut batches) = mpsc::channel(1024);
    let _source = Source::follow(config, Bounds::default(), sender).context(Exit::Unreached)?;
    let mut wanted = Wanted::new(config)?;
    let deadline = Instant::now() + within;
    while !wanted.sync.is_ready() {
        match timeout_at(deadline, batches.recv()).await {
            Ok(Some(batch)) => wanted.take(batch),
            _ => return Err(wanted.unlisted()).context(Exit::Unreached),
        }
    }
    loop {
        while let Ok(batch) = batches.try_recv() {
            wanted.take(batch);
        }
        let differences = wanted.compare(&config.pin_dir)?;
        if differences.is_empty() || Instant::now() >= deadline {
            return Ok(differences);
        }
        let pause = deadline.min(Instant::now() + PAUSE);
        if let Ok(Some(batch)) = timeout_at(pause, batches.recv()).await {
            wanted.take(batch);
        }
    }
}

/// The tables that the source leads to.
struct Wanted {
    sync: Sync<Nowhere>,
    labels: HashMap<OwnerTag, Arc<str>>,
}

impl Wanted {
    fn new(config: &AgentConfig) -> anyhow::Result<Self> {
        let options = SyncOptions {
            node_name: config.node_name.clone(),
            node_ports: config.nodeport_addresses.clone(),
            serve_local_vips: config.serve_local_vips,
            expected: Listing::ALL.to_vec(),
            rules: Rules::for_shards(1),
            order: StoreOrder::Planned,
        };
        Ok(Self { sync: Sync::adopt(Nowhere, options)?, labels: HashMap::new() })
    }

    fn take(&mut self, batch: Batch) {
        for warning in &batch.warnings {
            eprintln!("shunt: skipped: {warning}");
        }
        self.sync.take(batch.events);
        let outcome = self.sync.sync(|| 0);
        self.labels.extend(outcome.named);
    }

    fn unlisted(&self) -> anyhow::Error {
        let names: Vec<&str> = self.sync.state().unlisted().map(listing_name).collect();
        anyhow::anyhow!("the source has not listed {} in time", names.join(", "))
    }

    fn compare(&self, pin_dir: &Path) -> anyhow::Result<Vec<Difference>> {
        let held = adopt::adopt(&open_store(pin_dir)?)?.actual;
        let label = |tag: OwnerTag| self.labels.get(&tag).map(ToString::to_string);
        let planner = self.sync.planner();
        let (wanted, held) = (render::text(planner.actual(), &label), render::text(&held, &label));
        let mut claimants = Claimants::new();
        for conflict in planner.conflicts() {
            let names = claimants.entry(format!("frontend {}", conflict.key)).or_default();
            names.extend([conflict.winner, conflict.loser].map(|name| name.to_string()));
        }
        Ok(compare(&wanted, &held, &claimants))
    }
}

/// An entry that differs.
#[derive(Debug, serde::Serialize)]
struct Row {
    entry: String,
    source: Vec<String>,
    maps: Vec<String>,
}

impl From<Difference> for Row {
    fn from(difference: Difference) -> Self {
        let Difference { entry, first, second } = difference;
        Self { entry, source: first, maps: second }
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "the maps hold what the source says\n".to_owned();
    }
    let mut text =
        format!("{} entries differ (-: what the source says, +: what the maps hold)\n", rows.len());
    for Row { source, maps, .. } in rows {
        let only = |lines: &[String], others: &[String], sign: char| {
            let lines = lines.iter().filter(|line| !others.contains(line));
            lines.map(|line| format!("{sign} {line}\n")).collect::<Vec<_>>().concat()
        };
        let heading = source.first().filter(|line| maps.first() == Some(line));
        text.extend(heading.map(|line| format!("  {line}\n")));
        text += &only(source, maps, '-');
        text += &only(maps, source, '+');
    }
    text
}
