//! What a process has used so far, as the kernel accounts for it.

use std::fs;

use anyhow::{Context, Result};

use crate::bench::estimate::float;

/// Clock ticks of `/proc/PID/stat` in a second; the same on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Bytes of heap and stacks.
    pub(super) anonymous: u64,
    /// Seconds of processor time, user and system.
    pub(super) cpu: f64,
}

impl Usage {
    /// Of process `pid` until now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).context("read the status of a process")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the times of a process")?;
        Self::parse(&status, &stat).context("a process without figures")
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let rest = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kilobytes: u64 = rest.split_whitespace().next()?.parse().ok()?;
        // The name, in parentheses, may hold spaces; times are the 12th and 13th fields after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let cpu = float(ticks) / float(TICKS);
        Some(Self { anonymous: kilobytes * 1024, cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        let usage = Usage::parse("Name: x\nRssAnon:\t 12 kB\n", stat).unwrap();
        assert_eq!(usage.anonymous, 12 * 1024);
        assert!((usage.cpu - 2.0).abs() < 1e-9);
        assert!(Usage::parse("", stat).is_none());
    }
}
