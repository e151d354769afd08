//! `bench connect`: the cost of a hook run, then ClusterIP against direct.

use anyhow::Result;
use clap::Args;

use super::hooks;
use super::machine;
use super::pairs;
use super::runs;
use super::site::Site;
use super::table::Report;

/// How long to measure.
#[derive(Args)]
pub(super) struct ConnectArguments {
    /// Rounds over all kinds of hook run.
    #[arg(long, default_value_t = 7)]
    pub(super) rounds: u32,
    /// Runs of each kind in a round.
    #[arg(long, default_value_t = 100_000)]
    pub(super) runs: u32,
    /// Pairs of each comparison.
    #[arg(long, default_value_t = 3_000)]
    pub(super) pairs: u32,
    /// Connects of each half of a pair.
    #[arg(long, default_value_t = 300)]
    pub(super) connects: u32,
}

pub(super) fn run(arguments: &ConnectArguments) -> Result<()> {
    machine::print();
    let site = Site::new()?;
    let mut report = Report::new();
    site.inside(|| hooks::measure(&site, arguments, &mut report))?;
    println!(
        "\nNanoseconds a hook run, as BPF_ENABLE_STATS counts them: program, entry and one read of the clock."
    );
    println!("Each figure is the median over rounds of the median over batches of {} runs.\n", runs::BATCH);
    report.print();

    let mut report = Report::new();
    let before = site.program_facts()?;
    site.inside(|| pairs::measure(&site, arguments, &mut report))?;
    println!(
        "\nRate of ClusterIP : rate of direct, {} connects a half, closed by reset; nobody accepts meanwhile.",
        arguments.connects
    );
    if machine::are_stats_always_on() || before != site.program_facts()? {
        println!("beware: run-time statistics of programs were on, which slows what is hooked");
    }
    println!();
    report.print();
    Ok(())
}
