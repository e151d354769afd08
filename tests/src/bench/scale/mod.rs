//! `bench scale`: time and memory of many services, from model objects through the agent's own way into real maps.

mod manifests;
pub(super) mod memory;
mod native;
mod objects;
mod once;
mod stamped;

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use fastrand::Rng;

use self::once::Sample;
use super::estimate::{Estimate, Goal, float};
use super::machine;
use super::table::{Figure, Report};

const FILLED: Goal = Goal::AtMost(2_000.0);
const MAPS: Goal = Goal::AtMost(60.0);
const CHANGED: Goal = Goal::AtMost(1_000.0);

/// What to measure, and how often.
#[derive(Args)]
pub(super) struct ScaleArguments {
    /// Services; without it, 10 000 and 100 000.
    #[arg(long)]
    services: Option<u32>,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Fills of each size, each in a process of its own.
    #[arg(long, default_value_t = 3)]
    fills: u32,
}

/// The size of a cluster.
#[derive(Args, Clone, Copy)]
pub(super) struct Size {
    #[arg(long)]
    services: u32,
    #[arg(long)]
    endpoints: u32,
}

pub(super) fn run(arguments: &ScaleArguments) -> Result<()> {
    machine::print();
    let sizes = arguments.services.map_or_else(|| vec![10_000, 100_000], |services| vec![services]);
    for services in sizes {
        let size = Size { services, endpoints: arguments.endpoints };
        println!(
            "\n{} services x {} endpoints, {} fills of empty maps\n",
            services, size.endpoints, arguments.fills
        );
        let samples = (0..arguments.fills).map(|_| spawn(size)).collect::<Result<Vec<_>>>()?;
        let mut report = Report::new();
        add_figures(&samples, &mut report)?;
        report.print();
    }
    Ok(())
}

/// Measures once and prints the sample.
pub(super) fn run_once(size: Size) -> Result<()> {
    let sample = once::sample(size)?;
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, &sample)?;
    writeln!(out).context("print the sample")
}

fn spawn(size: Size) -> Result<Sample> {
    let program = std::env::current_exe().context("path of the running program")?;
    let mut command = Command::new(program);
    command.args(["scale-once", "--services", &size.services.to_string()]);
    command.args(["--endpoints", &size.endpoints.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("start a run")?;
    ensure!(output.status.success(), "a run ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("read a run's sample")
}

/// A line of the table: name, unit, goal, its figure in a sample, and a note.
type Line<'a> = (&'a str, &'a str, Goal, &'a dyn Fn(&Sample) -> f64, String);

fn add_figures(samples: &[Sample], report: &mut Report) -> Result<()> {
    let first = samples.first().context("no fills")?;
    let mut lines: Vec<Line<'_>> = Vec::new();
    if let Some((_, megabytes)) = first.manifests {
        let note = format!("{megabytes:.1} MB of YAML; not in the fill");
        lines.push(("manifests to model objects", "ms", Goal::None, &|sample| read_time(sample), note));
    }
    add_fill(first, &mut lines);
    add_picks_and_changes(first, &mut lines);
    let mut random = Rng::with_seed(4);
    for (name, unit, goal, figure, note) in lines {
        let values: Vec<f64> = samples.iter().map(figure).collect();
        let estimate = Estimate::bootstrap(&values, &mut random).context("no fills")?;
        report.add(&Figure { name, unit, estimate, goal, note });
    }
    Ok(())
}

fn read_time(sample: &Sample) -> f64 {
    sample.manifests.map_or(f64::NAN, |(milliseconds, _)| milliseconds)
}

fn add_fill(first: &Sample, lines: &mut Vec<Line<'_>>) {
    let maps: Vec<String> = first
        .map_bytes
        .iter()
        .filter(|(_, bytes)| **bytes >= 100_000)
        .map(|(name, bytes)| format!("{name} {:.1}", float(*bytes) / 1e6))
        .collect();
    let note = |text: &str| text.to_owned();
    lines.extend::<[Line<'_>; 7]>([
        ("state takes the objects", "ms", Goal::None, &|sample| sample.fill.take, note("")),
        (
            "sync, until the first write",
            "ms",
            Goal::None,
            &|sample| sample.fill.first,
            note("one slice is planned"),
        ),
        ("sync, the rest", "ms", Goal::None, &|sample| sample.fill.rest, note("plan and apply in slices")),
        ("filled", "ms", FILLED, &|sample| sample.fill.total(), note("the three together")),
        (
            "RssAnon of the state",
            "MB",
            Goal::None,
            &|sample| sample.fill.grown(0, 1),
            note("objects, less an empty agent"),
        ),
        (
            "RssAnon once filled",
            "MB",
            Goal::None,
            &|sample| sample.fill.grown(0, 2),
            note("and the mirror of the maps"),
        ),
        ("maps", "MB", MAPS, &Sample::map_megabytes, format!("memlock of each: {}", maps.join(", "))),
    ]);
}

fn add_picks_and_changes(first: &Sample, lines: &mut Vec<Line<'_>>) {
    let changes = &first.changes.count;
    let note = |text: &str| text.to_owned();
    lines.extend::<[Line<'_>; 7]>([
        (
            "decision in user space",
            "ns",
            Goal::None,
            &|sample| sample.decide,
            note("lb::translate, random services"),
        ),
        (
            "connect4, record exists",
            "ns",
            Goal::None,
            &|sample| sample.picks.again,
            note("kernel, random services"),
        ),
        (
            "connect4 with getpeername record",
            "ns",
            Goal::None,
            &|sample| sample.picks.with_record,
            note("likewise"),
        ),
        (
            "change to head store, p50",
            "us",
            CHANGED,
            &|sample| sample.changes.head[0],
            format!("{changes} changes"),
        ),
        ("change to head store, p99", "us", CHANGED, &|sample| sample.changes.head[1], note("")),
        ("change to head store, greatest", "us", Goal::None, &|sample| sample.changes.head[2], note("")),
        ("change to end of batch, p99", "us", Goal::None, &|sample| sample.changes.batch[1], note("")),
    ]);
}

impl once::Fill {
    fn total(&self) -> f64 {
        self.take + self.first + self.rest
    }

    /// Megabytes that RssAnon grew by between two of its readings.
    fn grown(&self, from: usize, to: usize) -> f64 {
        float(self.anonymous[to].saturating_sub(self.anonymous[from])) / 1e6
    }
}
