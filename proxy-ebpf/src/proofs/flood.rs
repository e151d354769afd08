//! The source of a flood: one SYN again and again, each from somebody else, handed to the stack where the node's device would have
//! brought it. No sender of its own could send as many beside a node on the same CPUs.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use proxy_common::packet::checksum::Delta;

use crate::layout::FLOOD_WORDS as WORDS;

/// The packet of a sender 198.18.0.0, port 0: what this runs on is used again as it was left by whoever has had it.
#[btf_map]
static PROOF_FLOOD_PACKET: Array<[u64; WORDS], 1> = Array::new();

/// Where the halves lie that differ: two of the address, the port, and the checksums of IP and TCP.
const ADDRESS: [usize; 2] = [26, 28];
const PORT: usize = 34;
const CHECKSUMS: [usize; 2] = [24, 50];

/// Attached where the flood comes in, so that the device takes such packets.
#[xdp]
pub fn proof_flood_door(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Run, not attached: one packet of the flood.
#[xdp]
pub fn proof_flood(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    let Some(packet) = PROOF_FLOOD_PACKET.get_ptr(0) else { return XDP_ABORTED };
    if data + 8 * WORDS > end {
        return XDP_ABORTED;
    }
    for index in 0..WORDS {
        // SAFETY: the packet has so many words, and so has the element.
        unsafe {
            let word = packet.cast::<u64>().add(index).read_volatile();
            (data as *mut u64).add(index).write_volatile(word);
        }
    }
    // SAFETY: the helper takes nothing and returns a number.
    let random = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    // SAFETY: the packet has so many words.
    unsafe { be_from(data, random) };
    XDP_PASS
}

/// Gives the packet another source.
#[inline(always)]
unsafe fn be_from(data: usize, (host, port): (u32, u32)) {
    let address = Delta::NONE.half(0, (host as u16).to_be()).half(0, second(host));
    let all = address.half(0, source(port));
    for (at, delta) in CHECKSUMS.into_iter().zip([address, all]) {
        // SAFETY: the caller has a packet that is long enough.
        unsafe { set(data, at, delta.apply(get(data, at))) };
    }
    // SAFETY: as above.
    unsafe {
        set(data, ADDRESS[0], get(data, ADDRESS[0]) | second(host));
        set(data, ADDRESS[1], (host as u16).to_be());
        set(data, PORT, source(port));
    }
}

/// 198.18 or 198.19: what is added to the first.
#[inline(always)]
const fn second(host: u32) -> u16 {
    ((host >> 16) as u16 & 1).to_be()
}

#[inline(always)]
const fn source(port: u32) -> u16 {
    (port as u16 | 1_024).to_be()
}

#[inline(always)]
unsafe fn get(data: usize, at: usize) -> u16 {
    // SAFETY: the caller has a half of the packet.
    unsafe { ((data + at) as *const u16).read_volatile() }
}

#[inline(always)]
unsafe fn set(data: usize, at: usize, half: u16) {
    // SAFETY: the caller has a half of the packet.
    unsafe { ((data + at) as *mut u16).write_volatile(half) }
}
