//! `cargo xtask test`: runs the tiers and closes with one line of counts.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A tier of tests, least powerful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Unit and property tests: no root, no network.
    Unit,
}

#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs `tiers`, or all of them.
pub(crate) fn run(tiers: &[Tier]) -> Result<()> {
    let all = [Tier::Unit];
    let mut counts = Counts::default();
    for tier in if tiers.is_empty() { &all } else { tiers } {
        match tier {
            Tier::Unit => cargo_test(&["--workspace", "--lib", "--bins"], &mut counts)?,
        }
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if counts.failed > 0 || counts.passed == 0 {
        bail!("tests failed");
    }
    Ok(())
}

fn cargo_test(arguments: &[&str], counts: &mut Counts) -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--no-fail-fast"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let before = counts.failed;
    for line in text.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        counts.passed += count(line, "passed");
        counts.failed += count(line, "failed");
        counts.skipped += count(line, "ignored");
    }
    // A build that broke, or a test process that died, has no result line of its own.
    if !output.status.success() && counts.failed == before {
        counts.failed += 1;
    }
    Ok(())
}

/// The number before `word` in a result line of the test harness.
fn count(line: &str, word: &str) -> u64 {
    line.split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .next()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_are_read_from_the_harness_line() {
        let line = "ok. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(["passed", "failed", "ignored"].map(|word| super::count(line, word)), [12, 1, 2]);
    }
}
