//! The agent with what only tests may change: another object, another layout version, a wrong order of stores.
//!
//! It runs the shipped agent's own code with the shipped options; see [`shunt::agent::Variant`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use shunt::agent::Variant;
use shunt::cli::AgentArgs;
use shunt::cmd::{self, Exit};
use shunt::datapath::load::read_object;
use shunt::datapath::packet::devices::Means;
use shunt::maps::apply::StoreOrder;
use shunt::plan::rules::Limits;
use shunt::source::kube::Bounds;

/// An agent that differs from the shipped one.
#[derive(Parser)]
struct Arguments {
    /// eBPF object to load in place of the embedded one.
    #[arg(long)]
    object: Option<PathBuf>,
    /// The same for the object of the programs at devices.
    #[arg(long)]
    packet_object: Option<PathBuf>,
    /// Attach programs to devices by filters, as where the kernel has no tcx.
    #[arg(long)]
    filters: bool,
    /// Layout version that names the pin directory.
    #[arg(long)]
    schema: Option<u32>,
    /// Run each batch last op first.
    #[arg(long)]
    reversed: bool,
    /// Wait for an absent Node for longer than a clock can count: the thread that follows the API server panics.
    #[arg(long)]
    overflow: bool,
    /// Room for so many service ports and no more.
    #[arg(long)]
    cells: Option<u32>,
    /// Compare everything with the maps once in so many milliseconds.
    #[arg(long)]
    compare_every: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// As `shunt agent`.
    Agent(AgentArgs),
}

fn main() -> ExitCode {
    let exit = run(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("variant: {error:#}");
        Exit::of(&error)
    });
    exit.into()
}

fn run(arguments: Arguments) -> Result<Exit> {
    let Command::Agent(agent) = arguments.command;
    let order = if arguments.reversed { StoreOrder::Reversed } else { StoreOrder::Planned };
    let object = arguments.object.as_deref().map(read_object).transpose()?;
    let packet_object = arguments.packet_object.as_deref().map(read_object).transpose()?;
    let means = arguments.filters.then_some(Means::Filters);
    let node = if arguments.overflow { Duration::MAX } else { Bounds::default().node };
    let bounds = Bounds { node, ..Bounds::default() };
    let limits = arguments.cells.map(|cells| Limits { cells, ..Limits::LAYOUT });
    let compare_every = arguments.compare_every.map(Duration::from_millis);
    cmd::agent::run_variant(
        agent,
        &Variant {
            object,
            packet_object,
            means,
            schema: arguments.schema,
            order,
            bounds,
            limits,
            compare_every,
        },
    )
}
