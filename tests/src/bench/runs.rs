//! Program runs counted and timed by the kernel, between two readings.

use std::io;

use anyhow::{Context, Result, ensure};
use shunt::datapath::hooks::{GUARD, HOOKS};
use shunt::sys::bpf::{self, ProgramFacts};

use super::estimate::{float, take_median};
use crate::hand::Rig;

/// Runs between two readings of the counters. Short, so that a batch in which the thread was preempted inside a
/// program stays one outlier of many; and few enough for the listeners' queues.
pub(super) const BATCH: u32 = 1_000;

/// Time and runs of one program over some stretch.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) nanoseconds: u64,
    pub(super) runs: u64,
}

/// The costs of some batches.
#[derive(Default)]
pub(super) struct Batches {
    each: Vec<f64>,
    pub(super) total: Cost,
}

/// Does `work` a batch of times; the program of `hook` must have run once each time. Statistics must be on.
pub(super) fn count(rig: &Rig, hook: &str, mut work: impl FnMut() -> io::Result<()>) -> Result<Cost> {
    let before = facts(rig, hook)?;
    for _ in 0..BATCH {
        work()?;
    }
    let after = facts(rig, hook)?;
    let cost = Cost {
        nanoseconds: after.run_time_ns - before.run_time_ns,
        runs: after.run_count - before.run_count,
    };
    ensure!(cost.runs == u64::from(BATCH), "{hook} ran {} times in {BATCH} calls", cost.runs);
    Ok(cost)
}

impl Batches {
    /// Adds one.
    pub(super) fn add(&mut self, cost: Cost) {
        self.each.push(float(cost.nanoseconds) / float(cost.runs));
        self.total.nanoseconds += cost.nanoseconds;
        self.total.runs += cost.runs;
    }

    /// The median over the batches of the nanoseconds a run.
    pub(super) fn typical(mut self) -> Result<f64> {
        take_median(&mut self.each).context("no runs")
    }
}

fn facts(rig: &Rig, hook: &str) -> Result<ProgramFacts> {
    let hook = HOOKS
        .iter()
        .chain([&GUARD])
        .find(|known| known.name == hook)
        .with_context(|| format!("no hook {hook}"))?;
    Ok(bpf::program_facts(rig.loaded.program(hook)?)?)
}
