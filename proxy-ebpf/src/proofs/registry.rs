//! Network namespaces found by event: the first hook that runs in an unknown one says so once.

use aya_ebpf::btf_maps::{HashMap, RingBuf};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::{btf_map, cgroup_sock_addr};
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::Addr;

use crate::context::{self, ALLOW};
use crate::layout::{Namespace, Unknown};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: usize = 1;
/// `BPF_NOEXIST`: of two hooks that meet a namespace at the same time, one inserts.
const NO_EXIST: u64 = 1;

#[btf_map]
static PROOF_NETNS: HashMap<u64, Namespace, 1024, NO_PREALLOC> = HashMap::new();
#[btf_map]
static PROOF_EVENTS: RingBuf<Unknown, 4096> = RingBuf::new();

#[cgroup_sock_addr(connect4)]
pub fn proof_netns_connect4(ctx: SockAddrContext) -> i32 {
    report_unknown(&ctx);
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn proof_netns_connect6(ctx: SockAddrContext) -> i32 {
    report_unknown(&ctx);
    ALLOW
}

/// The calling process.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn report_unknown(ctx: &SockAddrContext) {
    let netns = context::netns(ctx);
    if PROOF_NETNS.get_ptr(netns).is_some() {
        return;
    }
    let pending = Namespace { v4: Addr::UNSPECIFIED, v6: Addr::UNSPECIFIED, state: Namespace::PENDING };
    if PROOF_NETNS.insert(netns, pending, NO_EXIST).is_err() {
        return;
    }
    // SAFETY: the helper takes nothing and returns a number.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let event = Unknown { netns, cgroup, tgid: u64::from(tgid()) };
    if PROOF_EVENTS.output(event, 0).is_err() {
        // The ring is full: without the mark the next hook reports again.
        let _ = PROOF_NETNS.remove(netns);
    }
}
