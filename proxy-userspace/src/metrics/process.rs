//! The process as Prometheus' client libraries tell it: `process_*`.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::family::{Family, Kind, Value};

/// Ticks of `/proc` a second; `USER_HZ` is 100 on every architecture that is served.
const TICKS: f64 = 100.0;

/// What this process uses. A family that cannot be read is left out.
pub(super) fn families() -> Vec<Family> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (status, stat) = (read("/proc/self/status"), read("/proc/self/stat"));
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of CPU time are far below 2^52")]
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let files = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64).ok();
    let started_at = start_time(&stat, &read("/proc/stat"));
    let gauge = |about, value: Option<Value>| value.map(|value| Family::single(Kind::Gauge, about, value));
    [
        Some(Family::single(
            Kind::Counter,
            ("process_cpu_seconds_total", "CPU time of the agent, user and system."),
            Value::Real(cpu),
        )),
        gauge(
            ("process_resident_memory_bytes", "Resident memory of the agent."),
            memory(&status, "VmRSS:").map(Value::Whole),
        ),
        gauge(
            ("process_virtual_memory_bytes", "Address space of the agent."),
            memory(&status, "VmSize:").map(Value::Whole),
        ),
        gauge(("process_open_fds", "Open file descriptors of the agent."), files.map(Value::Whole)),
        gauge(
            ("process_max_fds", "File descriptors that the agent may have open."),
            getrlimit(Resource::Nofile).current.map(Value::Whole),
        ),
        gauge(
            ("process_start_time_seconds", "When the agent's process started, in seconds since 1970."),
            started_at.map(Value::Real),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A field of `/proc/PID/status` in kB, as bytes.
fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// From `/proc/PID/stat` and `/proc/stat`. The name of a process may hold blanks and brackets; what follows the last
/// bracket holds none, and the start is the 22nd field of all.
fn start_time(stat: &str, system: &str) -> Option<f64> {
    let ticks: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let boot: u32 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(f64::from(boot) + f64::from(ticks) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_field() {
        let status = "Name:\tshunt\nVmPeak:\t  900 kB\nVmSize:\t  800 kB\nVmRSS:\t   12 kB\n";
        assert_eq!((memory(status, "VmRSS:"), memory(status, "VmSize:")), (Some(12_288), Some(819_200)));
        assert_eq!(memory(status, "VmSwap:"), None);
        let fields: Vec<String> =
            (3..=30).map(|field| if field == 22 { 250 } else { 1 }.to_string()).collect();
        let stat = format!("7 (a ) b) {}", fields.join(" "));
        assert_eq!(start_time(&stat, "cpu 1\nbtime 1000\n"), Some(1002.5));
        assert_eq!(start_time("7 (a", "btime 1000\n"), None);
    }

    #[test]
    fn this_process_is_read_whole() {
        assert_eq!(families().len(), 6);
    }
}
