//! A sender whose frames bear a tag of IEEE 802.1Q that says a priority and no VLAN, as switches and cards may add it: Linux takes
//! them for those of the device itself, and hands programs the tag beside the packet.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_skb_vlan_push;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

/// `TCX_NEXT`.
const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;
/// `ETH_P_8021Q`.
const ETHER_VLAN: u16 = 0x8100;
/// Priority 5, and VLAN 0, which is none.
const PRIORITY: u16 = 5 << 13;

/// Packets that [`proof_tagged`] has seen with a tag.
#[btf_map]
static PROOF_TAGGED: Array<u64, 1> = Array::new();

/// Where a sender's packets leave.
#[classifier]
pub fn proof_tag(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands every program a valid context.
    let outcome = unsafe { bpf_skb_vlan_push(ctx.skb.skb, ETHER_VLAN.to_be(), PRIORITY) };
    if outcome == 0 { NEXT } else { DROP }
}

/// Where they come in.
#[classifier]
pub fn proof_tagged(ctx: TcContext) -> i32 {
    // SAFETY: as above; the test sends from one CPU at a time and asks for more than none.
    unsafe {
        if (*ctx.skb.skb).vlan_present != 0
            && let Some(count) = PROOF_TAGGED.get_ptr_mut(0)
        {
            *count += 1;
        }
    }
    NEXT
}
