//! Programs with a few of root's capabilities, as container runtimes start them.

/// Words that run a program with these capabilities and no others, named as a pod's `securityContext` names them.
///
/// Of root's capabilities an exec leaves those in the bounding set; whatever is inherited or ambient is in it too.
pub fn only(capabilities: &[&str]) -> Vec<String> {
    let kept = capabilities.iter().map(|name| format!(",+{}", name.to_lowercase()));
    let set = format!("-all{}", kept.collect::<String>());
    ["setpriv", "--bounding-set", &set, "--inh-caps", "-all", "--"].map(str::to_owned).into()
}

/// The effective capabilities of process `pid` by their numbers, as the kernel prints them.
pub fn effective(pid: u32) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)
}

/// The numbers of these capabilities as one mask, by `linux/capability.h`; none if one is not known here.
pub fn mask(capabilities: &[&str]) -> Option<u64> {
    let number = |name: &&str| match *name {
        "DAC_READ_SEARCH" => Some(2),
        "NET_ADMIN" => Some(12),
        "SYS_PTRACE" => Some(19),
        "SYS_ADMIN" => Some(21),
        "PERFMON" => Some(38),
        "BPF" => Some(39),
        _ => None,
    };
    capabilities.iter().try_fold(0, |mask, name| Some(mask | 1 << number(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_what_is_added_to_nothing() {
        assert_eq!(only(&["NET_ADMIN", "BPF"])[2], "-all,+net_admin,+bpf");
        assert_eq!(mask(&["NET_ADMIN", "BPF"]), Some(1 << 12 | 1 << 39));
        assert_eq!(mask(&["CHOWN"]), None);
    }
}
