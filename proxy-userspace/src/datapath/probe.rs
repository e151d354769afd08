//! Whether this host can run the datapath: facts are gathered once, and judged by a pure function.

use std::fs;
use std::path::Path;

use proxy_common::counter;

use super::pin::PinDir;

/// Oldest kernel that is supported: `bpf_set_retval` (5.18), kernel-owned hash elements without preallocation that
/// are safe from any context (6.1).
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// What was found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Major and minor version of the kernel, if its release could be read.
    pub kernel: Option<(u32, u32)>,
    /// Whether the kernel describes its own types.
    pub has_btf: bool,
    /// Whether a cgroup v2 hierarchy is mounted, or a directory was given.
    pub has_cgroup2: bool,
    /// Effective capabilities as the kernel prints them.
    pub capabilities: u64,
    /// Whether there are pinned maps to take over.
    pub has_pins: bool,
}

/// Something that is missing, and what it is needed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub what: String,
    /// For what.
    pub needed_for: &'static str,
}

const CAP_NET_ADMIN: (u64, &str) = (1 << 12, "CAP_NET_ADMIN");
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: (u64, &str) = (1 << 38, "CAP_PERFMON");
const CAP_BPF: (u64, &str) = (1 << 39, "CAP_BPF");

/// Everything this host lacks; empty where it is fit.
pub fn missing(facts: &Facts) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut lacks = |what: String, needed_for| missing.push(Missing { what, needed_for });
    match facts.kernel {
        Some(found) if found < OLDEST_KERNEL => lacks(
            format!(
                "kernel {}.{} or newer (this is {}.{})",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1, found.0, found.1
            ),
            "refusing a connect with ECONNREFUSED and reusing map elements safely",
        ),
        Some(_) => {}
        None => lacks("a readable kernel release".to_owned(), "knowing what the kernel can do"),
    }
    if !facts.has_btf {
        lacks("/sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)".to_owned(), "socket storage");
    }
    if !facts.has_cgroup2 {
        lacks("a cgroup v2 hierarchy".to_owned(), "attaching the connect hooks");
    }
    let rights = [
        (CAP_BPF, "loading programs"),
        (CAP_NET_ADMIN, "cgroup hooks"),
        (CAP_PERFMON, "tracing pointers in programs"),
    ];
    for ((bit, name), needed_for) in rights {
        // CAP_SYS_ADMIN includes what CAP_BPF and CAP_PERFMON were split from (Linux 5.8).
        let covered = facts.capabilities & CAP_SYS_ADMIN != 0 && name != CAP_NET_ADMIN.1;
        if facts.capabilities & bit == 0 && !covered {
            lacks(name.to_owned(), needed_for);
        }
    }
    // Maps inside maps are named by id, and opening by id takes this right.
    if facts.has_pins && facts.capabilities & CAP_SYS_ADMIN == 0 {
        lacks("CAP_SYS_ADMIN".to_owned(), "taking over the pinned maps");
    }
    missing
}

/// What this host makes impossible without keeping the agent from running.
pub fn limitations(facts: &Facts) -> Vec<String> {
    let text = "CAP_SYS_ADMIN is missing: /metrics cannot read the maps, and no agent can take them over after a restart";
    if facts.capabilities & CAP_SYS_ADMIN == 0 { vec![text.to_owned()] } else { Vec::new() }
}

/// Looks at the host.
pub fn gather(cgroup_given: bool, pin_dir: &PinDir) -> Facts {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Facts {
        kernel: parse_release(&release),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        has_cgroup2: cgroup_given || mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")),
        capabilities: parse_capabilities(&status),
        has_pins: pin_dir.maps().exists(),
    }
}

/// Shards of each counter on this host.
pub fn counter_shards() -> u32 {
    // Possible CPUs, not those online or allowed to this process: a program runs wherever its caller does.
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|text| text.parse::<u32>().ok());
    counter::shards(last.map_or(counter::MAX_SHARDS, |last| last.saturating_add(1)))
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn parse_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Facts {
        let capabilities = CAP_BPF.0 | CAP_NET_ADMIN.0 | CAP_PERFMON.0;
        Facts { kernel: Some((6, 1)), has_btf: true, has_cgroup2: true, capabilities, has_pins: false }
    }

    fn names(facts: &Facts) -> Vec<String> {
        missing(facts).into_iter().map(|missing| missing.what).collect()
    }

    #[test]
    fn a_fit_host_lacks_nothing() {
        assert_eq!(names(&fit()), Vec::<String>::new());
        let root = Facts { capabilities: CAP_SYS_ADMIN | CAP_NET_ADMIN.0, ..fit() };
        assert_eq!(names(&root), Vec::<String>::new());
    }

    #[test]
    fn each_missing_thing_is_named() {
        assert!(names(&Facts { kernel: Some((5, 15)), ..fit() })[0].contains("6.1"));
        assert!(names(&Facts { kernel: None, ..fit() })[0].contains("kernel release"));
        assert!(names(&Facts { has_btf: false, ..fit() })[0].contains("BTF"));
        assert!(names(&Facts { has_cgroup2: false, ..fit() })[0].contains("cgroup v2"));
        assert_eq!(names(&Facts { capabilities: CAP_SYS_ADMIN, ..fit() }), ["CAP_NET_ADMIN"]);
        assert_eq!(names(&Facts { capabilities: 0, ..fit() }), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(names(&Facts { has_pins: true, ..fit() }), ["CAP_SYS_ADMIN"]);
    }

    #[test]
    fn a_right_that_only_a_restart_needs_is_a_limitation_until_then() {
        assert!(limitations(&fit())[0].contains("CAP_SYS_ADMIN"));
        let root = Facts { capabilities: fit().capabilities | CAP_SYS_ADMIN, has_pins: true, ..fit() };
        assert_eq!((limitations(&root), names(&root)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn kernel_answers_are_parsed() {
        assert_eq!(parse_release("6.18.44-fc-v595\n"), Some((6, 18)));
        assert_eq!(parse_release("6.1"), Some((6, 1)));
        assert_eq!(parse_release("mainline"), None);
        assert_eq!(parse_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
    }
}
