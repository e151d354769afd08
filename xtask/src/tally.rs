//! Counting what ran: test processes by their own result lines, everything else as one each.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::tree::Tree;

/// Lines of a panic that are told again at the end, at most.
const PANIC_LINES: usize = 8;

/// What passed, what failed, and why the rest did not run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    panic: Panic,
}

/// Where the output of tests that failed is read: whose it is, and how many lines of its panic are still wanted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Panic {
    test: String,
    wanted: usize,
}

impl Tally {
    /// Counts one success.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts one failure.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failed.push(what.into());
    }

    /// Counts one thing that could not run.
    pub(crate) fn skip(&mut self, reason: impl Into<String>) {
        self.skipped.push(reason.into());
    }

    /// Runs a command that either succeeds or fails, and counts it as one.
    pub(crate) fn step(&mut self, name: &str, command: &mut Command) {
        if self.require(name, command) {
            self.pass();
        }
    }

    /// Runs a command that others build on, and counts it only if it fails; true if it succeeded.
    pub(crate) fn require(&mut self, name: &str, command: &mut Command) -> bool {
        println!("== {name}");
        match command.status() {
            Ok(status) if status.success() => return true,
            Ok(status) => self.fail(format!("{name}: {status}")),
            Err(error) => self.fail(format!("{name}: {error}")),
        }
        false
    }

    /// Runs a `cargo test` command, passes its output on as it comes, and counts the tests in it.
    pub(crate) fn tests(&mut self, tree: &Tree, name: &str, command: &mut Command) -> Result<()> {
        println!("== {name}");
        let log = tree.target.join("skips.log");
        fs::write(&log, "").with_context(|| format!("write {}", log.display()))?;
        command.env("SHUNT_SKIP_LOG", &log).stdout(Stdio::piped());
        let mut child = command.spawn().context("run cargo test")?;
        let mut output = BufReader::new(child.stdout.take().context("the output of cargo test")?);
        let mut seen = Self::default();
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            std::io::stdout().write_all(&line)?;
            seen.read_line(name, String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        let status = child.wait()?;
        for reason in fs::read_to_string(&log)?.lines() {
            // The harness knows no skipping at run time and counted it as passed.
            seen.passed = seen.passed.saturating_sub(1);
            seen.skip(format!("{name}: {reason}"));
        }
        // A build that broke, or a test process that died, has no result line of its own.
        if !status.success() && seen.failed.is_empty() {
            seen.fail(format!("{name}: {status}"));
        }
        self.add(seen);
        Ok(())
    }

    /// Prints the reasons, then the counts as the last line; true if the run was a success.
    pub(crate) fn close(&self) -> bool {
        for (word, reasons) in [("skipped", &self.skipped), ("failed", &self.failed)] {
            for reason in reasons {
                println!("{word}: {reason}");
            }
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        self.failed.is_empty() && self.passed > 0
    }

    /// Counts one line of the test harness.
    fn read_line(&mut self, name: &str, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, "passed");
        } else if let Some((test, outcome)) =
            line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        {
            if outcome == "FAILED" {
                self.fail(format!("{name}: {test}"));
            } else if outcome.starts_with("ignored") {
                self.skip(format!("{name}: {test}: {outcome}"));
            }
        } else {
            self.read_panic(line);
        }
    }

    /// Adds what a test panicked with to its failure: of a long run often only the last lines are kept.
    fn read_panic(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            self.panic = Panic { test: format!(": {test}"), wanted: 0 };
        } else if line == "failures:" || line.to_lowercase().starts_with("stack backtrace:") {
            self.panic.wanted = 0;
        } else if line.contains(" panicked at ") {
            self.panic.wanted = PANIC_LINES;
        }
        if self.panic.wanted > 0 && !line.is_empty() {
            self.panic.wanted -= 1;
            let test = &self.panic.test;
            let is_its =
                |failure: &&mut String| failure.lines().next().is_some_and(|line| line.ends_with(test));
            if let Some(failure) = self.failed.iter_mut().find(is_its) {
                failure.push_str("\n    ");
                failure.push_str(line);
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }
}

/// The number before `word` in a result line of the test harness.
fn count(line: &str, word: &str) -> usize {
    line.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Panic, Tally};

    #[test]
    fn lines_of_the_harness_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 5 tests",
            "test plan::order ... ok",
            "test plan::prefix ... FAILED",
            "test maps::grow ... ignored, needs root",
            "failures:",
            "---- plan::prefix stdout ----",
            "",
            "said before",
            "thread 'plan::prefix' (7) panicked at plan.rs:8:9:",
            "no route: unreachable",
            "stack backtrace:",
            "   0: main",
            "failures:",
            "    plan::prefix",
            "test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.read_line("unit", line);
        }
        let expected = Tally {
            passed: 3,
            failed: vec![
                "unit: plan::prefix\n    thread 'plan::prefix' (7) panicked at plan.rs:8:9:\n    no route: unreachable"
                    .into(),
            ],
            skipped: vec!["unit: maps::grow: ignored, needs root".into()],
            panic: Panic { test: ": plan::prefix".into(), wanted: 0 },
        };
        assert_eq!(tally, expected);
        assert!(!tally.close());
    }

    #[test]
    fn a_run_of_nothing_is_no_success() {
        let mut tally = Tally::default();
        tally.skip("no root");
        assert!(!tally.close());
        tally.pass();
        assert!(tally.close());
    }

    #[test]
    fn a_failing_step_counts_once() {
        let mut tally = Tally::default();
        tally.step("false", &mut std::process::Command::new("false"));
        assert_eq!((tally.passed, tally.failed.len()), (0, 1));
    }
}
