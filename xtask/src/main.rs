//! `cargo xtask`: everything a user or CI runs in this repository.

mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Set-up, build, test, bench and demo of Shunt.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the test tiers; no name means all.
    Test {
        /// Tiers to run.
        tiers: Vec<test::Tier>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Test { tiers } => test::run(&tiers),
    }
}
