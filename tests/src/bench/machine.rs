//! What the figures were taken on, printed above each table. It judges nothing.

use std::fs;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Prints kernel, processor and load.
pub(super) fn print() {
    let name = rustix::system::uname();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    println!("kernel     {} {}", name.release().to_string_lossy(), name.machine().to_string_lossy());
    println!("processor  {processors} x {}", processor().unwrap_or_else(|| "of an unnamed model".to_owned()));
    println!("load       {}", read("/proc/loadavg").trim());
    if read("/proc/sys/net/core/bpf_jit_enable").trim() == "0" {
        println!("beware     the JIT is off: programs are interpreted");
    }
    if cfg!(debug_assertions) {
        println!("beware     this is a debug build");
    }
}

/// Keeps this thread, and what it starts from here on, on the last of the CPUs that it may use; says which that is.
pub(super) fn stay_on_one_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(None).context("ask which CPUs may be used")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).context("no CPU may be used")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("stay on one CPU")?;
    Ok(last)
}

/// Whether run-time statistics of all programs are on by sysctl, which slows every run.
pub(super) fn are_stats_always_on() -> bool {
    read("/proc/sys/kernel/bpf_stats_enabled").trim() == "1"
}

fn processor() -> Option<String> {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The file's text; empty where there is none, as on kernels and architectures that lack it.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
