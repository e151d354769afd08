//! `cargo xtask`: everything a user or CI runs in this repository.

mod ebpf;
mod record;
mod test;
mod toolchain;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::tree::Tree;

/// Set-up, build, test, bench and demo of Shunt.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF objects, and put the shipped one where the agent embeds it from.
    Ebpf {
        /// Change nothing: compare the committed object with its sources and with a fresh build.
        #[arg(long)]
        check: bool,
    },
    /// Run the test tiers; no name means all.
    Test {
        /// Tiers to run.
        tiers: Vec<test::Tier>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let tree = Tree::find()?;
    match command {
        Command::Ebpf { check: false } => ebpf::build(&tree),
        Command::Ebpf { check: true } => {
            match ebpf::check(&tree)? {
                ebpf::Check::Same => println!("the committed eBPF object is what its sources build"),
                ebpf::Check::NotCompared(reason) => println!("bytes not compared: {reason}"),
            }
            Ok(())
        }
        Command::Test { tiers } => test::run(&tiers),
    }
}
