//! The peer program of the tests and of the demo; see `tests::peer`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

fn main() -> Result<ExitCode> {
    tests::peer::run(tests::peer::PeerArguments::parse()).map(ExitCode::from)
}
