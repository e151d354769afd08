//! The hooks: one program, one attach type and one pinned link each.

use aya_obj::generated::bpf_attach_type;

use super::pin::is_number;
use crate::sys::link::Side;

/// One cgroup hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the link's pin and in `shunt status`.
    pub name: &'static str,
    /// Name of the program in the object.
    pub program: &'static str,
    /// Where the program runs.
    pub attach_type: bpf_attach_type,
}

/// Every hook, in the order of attaching: what remembers a translated socket comes last, so that none is shown bare and
/// none that is closed is still remembered.
pub const HOOKS: [Hook; 9] = [
    Hook {
        name: "sock_release",
        program: "shunt_sock_release",
        attach_type: bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
    },
    Hook {
        name: "getpeername4",
        program: "shunt_getpeername4",
        attach_type: bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
    },
    Hook {
        name: "getpeername6",
        program: "shunt_getpeername6",
        attach_type: bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
    },
    Hook {
        name: "recvmsg4",
        program: "shunt_recvmsg4",
        attach_type: bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
    },
    Hook {
        name: "recvmsg6",
        program: "shunt_recvmsg6",
        attach_type: bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
    },
    Hook {
        name: "sendmsg4",
        program: "shunt_sendmsg4",
        attach_type: bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
    },
    Hook {
        name: "sendmsg6",
        program: "shunt_sendmsg6",
        attach_type: bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
    },
    Hook {
        name: "connect4",
        program: "shunt_connect4",
        attach_type: bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
    },
    Hook {
        name: "connect6",
        program: "shunt_connect6",
        attach_type: bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
    },
];

/// The egress guard, which is attached only while something must be dropped.
pub const GUARD: Hook =
    Hook { name: "egress", program: "shunt_egress", attach_type: bpf_attach_type::BPF_CGROUP_INET_EGRESS };

/// The program that lists connected UDP sockets; it is not attached, but run.
pub const LISTER: &str = "shunt_list_udp";

/// Suffix of a link's pin while it takes the place of one that was at another cgroup. A bpffs allows no dots in names.
pub const MOVING: &str = "_new";

/// Whether a pin of this name is the link of a hook, or of a device.
pub fn is_link_name(name: &str) -> bool {
    let hook = name.strip_suffix(MOVING).unwrap_or(name);
    HOOKS.iter().chain([&GUARD]).any(|known| known.name == hook) || device_of(hook).is_some()
}

/// Name of the pin of a device's link.
pub fn device_link(index: u32, side: Side) -> String {
    format!("{}_{index}", side.name())
}

/// Device and side of the link that is pinned by this name, if it is one of a device.
pub fn device_of(name: &str) -> Option<(u32, Side)> {
    Side::ALL.into_iter().find_map(|side| {
        let index = name.strip_prefix(side.name())?.strip_prefix('_')?;
        // Another form of the same number is another file.
        if is_number(index) { index.parse().ok().map(|index| (index, side)) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_devices_are_known_by_name() {
        for side in Side::ALL {
            let name = device_link(17, side);
            assert_eq!(device_of(&name), Some((17, side)));
            assert!(is_link_name(&name) && is_link_name(&format!("{name}{MOVING}")));
        }
        // The egress guard's is one of a hook.
        for other in ["egress", "egress_", "ingress", "ingress_x", "ingress_+3", "ingress_99999999999"] {
            assert_eq!(device_of(other), None, "{other}");
        }
        assert!(is_link_name("egress") && !is_link_name("ingress") && !is_link_name("ingress_"));
    }
}
