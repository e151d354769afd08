//! `cargo xtask demo`: set-up, build, and the demo program. What is shown is in `tests/src/bin/demo`.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::toolchain;
use crate::tree::Tree;

/// Runs the demo from nothing; false if something went otherwise than it should.
pub(crate) fn run(tree: &Tree) -> Result<bool> {
    setup::run(tree, setup::Purpose::Demo)?;
    // Quiet but for the progress of a first build, which takes a few minutes. The whole workspace, as in the tests: another
    // choice of packages is another choice of features, and would build much of it again.
    let bins = ["--bin", "shunt", "--bin", "peer", "--bin", "demo"];
    let built = toolchain::cargo()
        .current_dir(&tree.root)
        .args(["build", "--workspace"])
        .args(bins)
        .status()
        .context("run cargo build")?;
    if !built.success() {
        bail!("the demo does not build");
    }
    let demo = tree.target.join("debug/demo");
    let played = Command::new(&demo)
        .current_dir(&tree.root)
        .status()
        .with_context(|| format!("run {}", demo.display()))?;
    Ok(played.success())
}
