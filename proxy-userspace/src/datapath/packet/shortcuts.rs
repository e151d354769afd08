//! What shortcuts take on this kernel: see [`proxy_common::shortcut`].

use std::fs;

use proxy_common::shortcut::Offsets;

use crate::datapath::btf::{Types, VMLINUX};

/// Where the kernel that runs has what is looked at, or why that is not known.
pub fn offsets() -> Result<Offsets, String> {
    let bytes = fs::read(VMLINUX).map_err(|error| format!("read {VMLINUX}: {error}"))?;
    let types =
        Types::read(&bytes).ok_or_else(|| format!("{VMLINUX} is not what this version understands"))?;
    find(&types)
}

/// Bytes of an item of a chain, `struct bpf_mprog_fp`: one pointer.
const ITEM: u32 = 8;

fn find(types: &Types<'_>) -> Result<Offsets, String> {
    let at = |of: &str, path: &[&str]| {
        types.offset(of, path).ok_or_else(|| format!("this kernel has no {of}.{}", path.join(".")))
    };
    let device = |name: &str| at("net_device", &[name]);
    let net = |path: &[&str]| at("net", path);
    let program = at("bpf_mprog_fp", &["prog"])?;
    Ok(Offsets {
        device: at("sk_buff", &["dev"])?,
        net: at("net_device", &["nd_net", "net"])?,
        chains: [device("tcx_ingress")?, device("tcx_egress")?],
        device_hooks: [device("nf_hooks_ingress")?, device("nf_hooks_egress")?],
        queues: device("_tx")?,
        qdisc: at("netdev_queue", &["qdisc"])?,
        enqueue: at("Qdisc", &["enqueue"])?,
        second: at("bpf_mprog_entry", &["fp_items"])? + ITEM + program,
        bundle: at("bpf_mprog_entry", &["parent"])?,
        in_entry: at("tcx_entry", &["bundle"])?,
        filters: at("tcx_entry", &["miniq"])?,
        hooks: [net(&["nf", "hooks_ipv4"])?, net(&["nf", "hooks_ipv6"])?],
        policies: net(&["xfrm", "policy_count"])?,
        policy_defaults: net(&["xfrm", "policy_default"])?,
        rules: [
            net(&["ipv4", "fib_rules_require_fldissect"])?,
            net(&["ipv6", "fib6_rules_require_fldissect"])?,
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_runs_has_all_of_them() {
        let offsets = offsets().unwrap();
        assert_ne!(offsets.device, 0);
        assert_ne!(offsets.hooks[0], offsets.hooks[1]);
        assert_eq!(offsets.hooks[1] - offsets.hooks[0], 5 * 8, "NF_INET_NUMHOOKS pointers");
        assert_ne!(offsets.chains[0], offsets.chains[1]);
    }
}
