//! `cargo xtask`: everything a user or CI runs in this repository.

mod bench;
mod clients;
mod demo;
mod ebpf;
mod peers;
mod record;
mod setup;
mod tally;
mod test;
mod toolchain;
mod tree;
mod wrapper;

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
    /// Measure on this machine: `connect` or `scale`, with `--help` for their options.
    Bench {
        /// Passed on to the bench program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Show Shunt at work: a small cluster of network namespaces on this machine, with real agents and clients.
    Demo,
    /// Build the eBPF objects, and put the shipped ones where the agent embeds them from.
    Ebpf {
        /// Change nothing: compare the committed objects with their sources and with a fresh build.
        #[arg(long)]
        check: bool,
    },
    /// Install what the commands below need, once.
    Setup {
        /// The command that is to run: `demo` needs far less than `test`.
        #[arg(long = "for", default_value = "test")]
        purpose: setup::Purpose,
    },
    /// Run the test tiers; no name means all.
    Test {
        /// Tiers to run.
        tiers: Vec<test::Tier>,
    },
}

fn main() -> ExitCode {
    let outcome =
        if wrapper::is_called() { wrapper::run().map(|()| true) } else { run(Arguments::parse().command) };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `command`; false if it has said itself what is wrong.
fn run(command: Command) -> Result<bool> {
    let tree = Tree::find()?;
    match command {
        Command::Bench { arguments } => bench::run(&tree, &arguments)?,
        Command::Demo => return demo::run(&tree),
        Command::Ebpf { check: false } => ebpf::build(&tree)?,
        Command::Ebpf { check: true } => match ebpf::check(&tree)? {
            ebpf::Check::Same => println!("the committed eBPF objects are what their sources build"),
            ebpf::Check::NotCompared(reason) => println!("bytes not compared: {reason}"),
        },
        Command::Setup { purpose } => setup::run(&tree, purpose)?,
        Command::Test { tiers } => return test::run(&tree, &tiers),
    }
    Ok(true)
}
