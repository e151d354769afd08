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

/// Something that the datapath cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A kernel that is not too old.
    Kernel,
    /// The kernel's description of its own types.
    Btf,
    /// A cgroup v2 hierarchy.
    Cgroup2,
    /// A right.
    Right(Capability),
}

/// Something that is missing, and what it is needed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which need is not met.
    pub need: Need,
    /// What.
    pub what: String,
    /// For what.
    pub needed_for: &'static str,
}

/// A right of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its bit in the kernel's sets.
    bit: u8,
    /// Its name.
    pub name: &'static str,
}

/// Programs and maps.
pub const CAP_BPF: Capability = Capability { bit: 39, name: "CAP_BPF" };
/// Programs at cgroup hooks.
pub const CAP_NET_ADMIN: Capability = Capability { bit: 12, name: "CAP_NET_ADMIN" };
/// Programs that read kernel pointers.
pub const CAP_PERFMON: Capability = Capability { bit: 38, name: "CAP_PERFMON" };
/// Objects by their ids; includes what CAP_BPF and CAP_PERFMON were split from (Linux 5.8).
pub const CAP_SYS_ADMIN: Capability = Capability { bit: 21, name: "CAP_SYS_ADMIN" };
/// Directories by their handles.
pub const CAP_DAC_READ_SEARCH: Capability = Capability { bit: 2, name: "CAP_DAC_READ_SEARCH" };
/// What other processes hold open.
pub const CAP_SYS_PTRACE: Capability = Capability { bit: 19, name: "CAP_SYS_PTRACE" };

/// The rights without which nothing is loaded or attached.
pub const REQUIRED: [(Capability, &str); 3] = [
    (CAP_BPF, "loading programs"),
    (CAP_NET_ADMIN, "cgroup hooks"),
    (CAP_PERFMON, "tracing pointers in programs"),
];

impl Capability {
    /// Its bit, set.
    pub const fn mask(self) -> u64 {
        1 << self.bit
    }
}

impl Facts {
    /// Whether the process has this right by its own name.
    pub const fn holds(&self, capability: Capability) -> bool {
        self.capabilities & capability.mask() != 0
    }

    /// Whether the process may do what this right is for.
    pub fn may(&self, capability: Capability) -> bool {
        self.holds(capability) || [CAP_BPF, CAP_PERFMON].contains(&capability) && self.holds(CAP_SYS_ADMIN)
    }
}

/// Everything this host lacks; empty where it is fit.
pub fn missing(facts: &Facts) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut lacks = |need, what: String, needed_for| missing.push(Missing { need, what, needed_for });
    match facts.kernel {
        Some(found) if found < OLDEST_KERNEL => lacks(
            Need::Kernel,
            format!(
                "kernel {}.{} or newer (this is {}.{})",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1, found.0, found.1
            ),
            "refusing a connect with ECONNREFUSED and reusing map elements safely",
        ),
        Some(_) => {}
        None => {
            lacks(Need::Kernel, "a readable kernel release".to_owned(), "knowing what the kernel can do");
        }
    }
    if !facts.has_btf {
        lacks(Need::Btf, "/sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)".to_owned(), "socket storage");
    }
    if !facts.has_cgroup2 {
        lacks(Need::Cgroup2, "a cgroup v2 hierarchy".to_owned(), "attaching the connect hooks");
    }
    for (capability, needed_for) in REQUIRED {
        if !facts.may(capability) {
            lacks(Need::Right(capability), capability.name.to_owned(), needed_for);
        }
    }
    // Maps inside maps are named by id, and opening by id takes this right.
    if facts.has_pins && !facts.may(CAP_SYS_ADMIN) {
        lacks(Need::Right(CAP_SYS_ADMIN), CAP_SYS_ADMIN.name.to_owned(), "taking over the pinned maps");
    }
    missing
}

/// What this host makes impossible without keeping the agent from running.
pub fn limitations(facts: &Facts) -> Vec<String> {
    let text = "CAP_SYS_ADMIN is missing: /metrics cannot read the maps, and no agent can take them over after a restart";
    if facts.may(CAP_SYS_ADMIN) { Vec::new() } else { vec![text.to_owned()] }
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

    fn bits(capabilities: &[Capability]) -> u64 {
        capabilities.iter().map(|capability| capability.mask()).sum()
    }

    fn fit() -> Facts {
        let capabilities = bits(&[CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON]);
        Facts { kernel: Some((6, 1)), has_btf: true, has_cgroup2: true, capabilities, has_pins: false }
    }

    fn names(facts: &Facts) -> Vec<String> {
        missing(facts).into_iter().map(|missing| missing.what).collect()
    }

    #[test]
    fn a_fit_host_lacks_nothing() {
        assert_eq!(names(&fit()), Vec::<String>::new());
        let root = Facts { capabilities: bits(&[CAP_SYS_ADMIN, CAP_NET_ADMIN]), ..fit() };
        assert_eq!(names(&root), Vec::<String>::new());
    }

    #[test]
    fn each_missing_thing_is_named() {
        assert!(names(&Facts { kernel: Some((5, 15)), ..fit() })[0].contains("6.1"));
        assert!(names(&Facts { kernel: None, ..fit() })[0].contains("kernel release"));
        assert!(names(&Facts { has_btf: false, ..fit() })[0].contains("BTF"));
        assert!(names(&Facts { has_cgroup2: false, ..fit() })[0].contains("cgroup v2"));
        assert_eq!(names(&Facts { capabilities: bits(&[CAP_SYS_ADMIN]), ..fit() }), ["CAP_NET_ADMIN"]);
        assert_eq!(names(&Facts { capabilities: 0, ..fit() }), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(names(&Facts { has_pins: true, ..fit() }), ["CAP_SYS_ADMIN"]);
    }

    #[test]
    fn a_right_that_only_a_restart_needs_is_a_limitation_until_then() {
        assert!(limitations(&fit())[0].contains("CAP_SYS_ADMIN"));
        let root = Facts { capabilities: fit().capabilities | CAP_SYS_ADMIN.mask(), has_pins: true, ..fit() };
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
