//! Shortcuts: packets of flows that go from device to device, past the node's own stack, where that would only forward them.
//!
//! A request of a client outside that is sent on to a pod of this node is handed to the pod's end of its pair of devices; the
//! pod's reply goes out by the device that routes lead to, over the neighbour that the kernel knows. What the stack does on
//! the way is done here: it looks routes up (the kernel's tables, with its rules), checks that the way back leads out where
//! the packet came in, takes one hop from the packet's count, and keeps to the MTU. Whatever else somebody may want to do there
//! keeps packets on the long way: [`look`] finds in the kernel's own memory whether anybody does.
//!
//! Both directions of a flow are judged alike: by families, devices and routes, never by what one flow has seen.

mod look;
mod route;

pub use look::{IN_THE_WAY, Look, Memory, OFFSETS_WORDS, Offsets, Reason, look};
pub use route::{PEER, Route, place};

use crate::addr::Proto;
use crate::packet::checksum::Delta;
use crate::packet::{Bytes, Fragment, Frame, Headers, IP_CHECKSUM};

/// Elements of `ROUTES` on each CPU, a power of two.
pub const ROUTES: u32 = 1024;
/// Elements of `LOOKS`, a power of two.
pub const LOOKS: u32 = 1024;

/// A moment, in units of 2^22 nanoseconds (4.2 ms) of the kernel's monotonic clock, modulo 2^32.
#[inline(always)]
pub const fn tick(now: u64) -> u32 {
    (now / TICK) as u32
}

/// Nanoseconds of a [`tick`].
pub const TICK: u64 = 1 << 22;

/// How many ticks of the kernel's timer a route counts, and with it what was then found at the device that its packets enter by: 12 to
/// 16 ms where that is the usual one of 250 Hz, 30 to 40 ms where it is the slowest. So long may somebody new in the stack be passed
/// by.
const JIFFIES: u32 = 4;
/// How many ticks requests believe what replies have found at their pod's device, who look as often as they find a route.
const TICKS_OF_PEER: u32 = 12;

/// Whether something of one tick still counts at another, for so many.
#[inline(always)]
const fn counts(from: u32, now: u32, ticks: u32) -> bool {
    // The clocks of two CPUs may differ: what is from just ahead does not count, and is found anew.
    now.wrapping_sub(from) < ticks
}

/// Whether a packet is one that the stack would only count a hop of: whole, without options, not the last hop's, and of no class
/// that it would put ahead of others.
#[inline(always)]
pub fn is_plain<B: Bytes>(bytes: &B, headers: &Headers) -> bool {
    if headers.fragment != Fragment::Whole as u8 {
        return false;
    }
    if headers.is_v4 {
        let Some(first) = bytes.half(headers.ip) else { return false };
        let Some(hops) = bytes.half(headers.ip + HOPS_V4) else { return false };
        let first = u16::from_be(first);
        first >> 8 == PLAIN_V4 && first & PRIORITY == 0 && u16::from_be(hops) >> 8 > 1
    } else {
        let Some(hops) = bytes.half(headers.ip + HOPS_V6) else { return false };
        headers.segment == headers.ip + IPV6 && u16::from_be(hops) & 0xff > 1
    }
}

/// Version 4, and five words of header.
const PLAIN_V4: u16 = 0x45;
/// Bits of the second byte of an IPv4 header that make Linux give a packet that it forwards another priority than the lowest
/// (`rt_tos2priority`).
const PRIORITY: u16 = 0x18;
/// Bytes of an IPv6 header.
const IPV6: u32 = 40;
/// Where a header has the hops that are left, in the first byte of two (IPv4), or in the second.
const HOPS_V4: u32 = 8;
const HOPS_V6: u32 = 6;
/// Where a TCP header has its own length, in the upper half of a byte.
const LENGTH_OF_TCP: u32 = 12;

/// What of the packet's class routes may depend on.
#[inline(always)]
pub fn class<B: Bytes>(bytes: &B, headers: &Headers) -> u32 {
    let Some(first) = bytes.half(headers.ip) else { return 0 };
    let first = u16::from_be(first) as u32;
    if headers.is_v4 { first & 0xff } else { (first >> 4) & 0xff }
}

/// Bytes of the packet from its IP header on as it would be on a wire, given those of the packet in memory; `None`: that is not
/// known. `segment_bytes` is what each packet gets of the data that a device will cut up, zero where there is nothing to cut.
#[inline(always)]
pub fn length<B: Bytes>(bytes: &B, headers: &Headers, (all, segment_bytes): (u32, u32)) -> Option<u32> {
    if segment_bytes == 0 {
        return Some(all);
    }
    if headers.proto != Proto::TCP {
        return None;
    }
    let word = bytes.half(headers.segment + LENGTH_OF_TCP)?;
    let tcp = (u16::from_be(word) as u32 >> 12) * 4;
    Some(headers.segment - headers.ip + tcp + segment_bytes)
}

/// Takes one hop from the packet's count. False: the bytes are not there.
#[inline(always)]
pub fn take_hop<F: Frame>(frame: &mut F, headers: &Headers) -> bool {
    let (at, hop) = if headers.is_v4 { (headers.ip + HOPS_V4, 0x100) } else { (headers.ip + HOPS_V6, 1) };
    let Some(old) = frame.half(at) else { return false };
    let new = u16::from_be(old).wrapping_sub(hop).to_be();
    let delta = Delta::NONE.half(old, new);
    if headers.is_v4 {
        let Some(sum) = frame.half(headers.ip + IP_CHECKSUM) else { return false };
        if !frame.set_half(headers.ip + IP_CHECKSUM, delta.apply(sum)) {
            return false;
        }
    } else {
        frame.resum(delta);
    }
    frame.set_half(at, new)
}

#[cfg(test)]
mod tests;
