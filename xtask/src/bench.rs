//! `cargo xtask bench`: builds the bench program as it would be shipped, and runs it. What it measures is in `tests`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers;
use crate::toolchain;
use crate::tree::Tree;

/// Runs the bench program with `arguments`.
pub(crate) fn run(tree: &Tree, arguments: &[OsString]) -> Result<()> {
    run_to_end(toolchain::cargo().args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "bench",
        "--bin",
        "peer",
        "--bin",
        "shunt",
    ]))?;
    let mut bench = Command::new(tree.target.join("release/bench"));
    // Only `sync` needs real Kubernetes; it says so itself where there is none.
    if let Ok(directories) = peers::find(tree, &peers::KUBERNETES_PARTS) {
        bench.env(peers::DIRECTORIES, directories);
    }
    // Programs that were unpacked, and not installed, are found there.
    bench.env("PATH", toolchain::search_path(tree)?);
    run_to_end(bench.args(arguments))
}

fn run_to_end(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!("{} ended with {status}", program.display());
    }
    Ok(())
}
