//! The `shunt` command: reads the command line, runs the command, and turns its outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use shunt::cli::{Cli, Command};
use shunt::cmd::{self, Exit};

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let outcome = if cmd::kube_proxy::is_meant(words.peek()) { cmd::kube_proxy::run(words) } else { run() };
    let exit = outcome.unwrap_or_else(|error| {
        let exit = Exit::of(&error);
        if exit != Exit::Done {
            eprintln!("shunt: {error:#}");
        }
        exit
    });
    exit.into()
}

fn run() -> anyhow::Result<Exit> {
    match Cli::parse().command {
        Command::Agent(args) => cmd::agent::run(args),
        Command::Status(args) => cmd::status::run(&args),
        Command::Dump(args) => cmd::dump::run(&args),
        Command::Trace(args) => cmd::trace::run(&args),
        Command::Verify(args) => cmd::verify::run(*args),
        Command::Check(args) => cmd::check::run(&args),
        Command::Cleanup(args) => cmd::cleanup::run(&args),
        Command::Completions(args) => cmd::completions::run(&args),
    }
}
