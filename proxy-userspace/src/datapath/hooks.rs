//! The hooks: one program, one attach type and one pinned link each.

use aya_obj::generated::bpf_attach_type;

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

/// Whether a pin of this name is the link of a hook.
pub fn is_link_name(name: &str) -> bool {
    let hook = name.strip_suffix(MOVING).unwrap_or(name);
    HOOKS.iter().chain([&GUARD]).any(|known| known.name == hook)
}
