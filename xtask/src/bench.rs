//! `cargo xtask bench`: builds the bench program as it would be shipped, and runs it. What it measures is in `tests`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tree::Tree;

/// Runs the bench program with `arguments`.
pub(crate) fn run(tree: &Tree, arguments: &[OsString]) -> Result<()> {
    let build = ["build", "--release", "--package", "tests", "--bin", "bench"];
    run_to_end(Command::new(env!("CARGO")).args(build))?;
    run_to_end(Command::new(tree.target.join("release/bench")).args(arguments))
}

fn run_to_end(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!("{} ended with {status}", program.display());
    }
    Ok(())
}
