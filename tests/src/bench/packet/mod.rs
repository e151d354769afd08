//! `bench packet`: through a NodePort from outside, against plain routing and against a real kube-proxy, in interleaved pairs.

mod requests;
mod site;
mod streams;

use anyhow::{Context, Result};
use clap::Args;
use fastrand::Rng;

use self::site::Site;
use super::estimate::{Estimate, Goal};
use super::machine;
use super::table::{Figure, Report};
use crate::topology::Cluster;

/// What to measure.
#[derive(Args)]
pub(super) struct PacketArguments {
    /// Pairs of each comparison of requests.
    #[arg(long, default_value_t = 600)]
    pairs: u32,
    /// Requests of a half.
    #[arg(long, default_value_t = 100)]
    requests: u32,
    /// Pairs of each comparison of streams.
    #[arg(long, default_value_t = 300)]
    streams: u32,
    /// MiB of a stream.
    #[arg(long, default_value_t = 256)]
    mib: u32,
    /// Let the scheduler place clients and servers, instead of keeping all on one CPU. Where it puts them, and how long one CPU
    /// takes to wake another, is then more of each figure than the path is.
    #[arg(long)]
    spread: bool,
    /// Leave kube-proxy out, and with it the API server.
    #[arg(long)]
    alone: bool,
}

/// One line: two ways, of which the first is held against the second.
struct Comparison<'a> {
    name: &'a str,
    goal: Goal,
    /// What is done in a half of either way, and how long it took, in any unit.
    halves: [&'a mut dyn FnMut() -> Result<f64>; 2],
    pairs: u32,
    note: String,
}

pub(super) fn run(arguments: &PacketArguments) -> Result<()> {
    machine::print();
    if !arguments.spread {
        println!("on         CPU {} alone, clients and servers", machine::stay_on_one_cpu()?);
    }
    let cluster = Cluster::new(3, 1)?;
    let site = Site::new(&cluster, arguments.alone)?;
    let mut report = Report::new();
    let mut random = Rng::with_seed(3);
    requests::measure(&site, arguments, (&mut report, &mut random))?;
    streams::measure(&site, arguments, (&mut report, &mut random))?;
    report.print();
    Ok(())
}

impl Comparison<'_> {
    /// Adds the line: how fast the first way is, as a part of the second.
    fn add(self, (report, random): (&mut Report, &mut Rng)) -> Result<()> {
        let Self { name, goal, halves, pairs, note } = self;
        let mut ratios = Vec::new();
        let mut first = 0;
        for pair in 0..pairs {
            // Blocks of two pairs, A B B A or B A A B by chance: a steady drift cancels within a block.
            first = if pair % 2 == 0 { random.usize(..2) } else { 1 - first };
            let mut took = [0.0; 2];
            for index in [first, 1 - first] {
                took[index] = halves[index]()?;
            }
            ratios.push(took[1] / took[0]);
        }
        let estimate = Estimate::bootstrap(&ratios, random).context("no pairs")?;
        report.add(&Figure { name, unit: "1", estimate, goal, note });
        Ok(())
    }
}
