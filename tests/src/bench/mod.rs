//! The benches: what a connect costs, and what many services cost. They report and never gate.
//!
//! Traffic stays inside scratch namespaces, and the hooks are on a scratch cgroup that holds this process alone.

mod connect;
mod datagrams;
mod estimate;
mod hooks;
mod machine;
mod packet;
mod pairs;
mod runs;
mod scale;
mod site;
mod sync;
mod table;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Shunt on this machine; what is missed or not resolved is said, and the exit code is 0.
#[derive(Parser)]
#[command(name = "bench")]
pub struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Cost of a hook run, and of a connect to a ClusterIP against one to its backends.
    Connect(connect::ConnectArguments),
    /// Cost of a hook run for UDP, and of a datagram to a ClusterIP against one that no hook sees.
    Datagrams(datagrams::DatagramArguments),
    /// Requests and streams through a NodePort from outside, against plain routing and beside a real kube-proxy.
    Packet(packet::PacketArguments),
    /// Start, updates and memory of an agent that follows an API server, beside a real kube-proxy.
    Sync(sync::SyncArguments),
    /// Time and memory of many services, from model objects to real maps.
    Scale(scale::ScaleArguments),
    /// One run of `scale` in a process of its own; prints its sample as JSON.
    #[command(hide = true)]
    ScaleOnce(scale::Size),
}

/// Runs one bench and prints its table.
pub fn run(arguments: BenchArguments) -> Result<()> {
    match arguments.command {
        BenchCommand::Connect(arguments) => connect::run(&arguments),
        BenchCommand::Datagrams(arguments) => datagrams::run(&arguments),
        BenchCommand::Packet(arguments) => packet::run(&arguments),
        BenchCommand::Scale(arguments) => scale::run(&arguments),
        BenchCommand::Sync(arguments) => sync::run(&arguments),
        BenchCommand::ScaleOnce(size) => scale::run_once(size),
    }
}
