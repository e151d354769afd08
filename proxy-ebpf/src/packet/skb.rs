//! A packet at TC, read and written in its own memory; checksums are left to the kernel, which knows who fills them in.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use proxy_common::packet::checksum::Delta;
use proxy_common::packet::{Bytes, Covered, Frame};

/// Bytes of a packet that are looked at: no header that Shunt reads lies beyond.
const WINDOW: u32 = 512;
/// Bytes of headers that are made readable at once: Ethernet, IPv6 and TCP, or two IPv4 headers of an ICMP error.
const LINEAR: u32 = 96;

/// A packet.
pub struct Skb<'a>(pub &'a TcContext);

impl Skb<'_> {
    /// `EtherType` of the packet, without VLAN tags.
    #[inline(always)]
    pub fn ether_type(&self) -> u16 {
        // SAFETY: the kernel hands every program a valid context.
        u16::from_be(unsafe { (&raw const (*self.0.skb.skb).protocol).read_volatile() } as u16)
    }

    /// Makes the headers readable where they lie in the fragments of a packet.
    #[inline(always)]
    pub fn pull(&self) {
        let ctx = self.0;
        let (data, end) = self.bounds();
        let have = end.wrapping_sub(data) as u32;
        if have < LINEAR && ctx.len() > have {
            let want = if ctx.len() < LINEAR { ctx.len() } else { LINEAR };
            // SAFETY: the context is valid. Where there is no memory the headers stay unreadable, and the packet goes on.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, want) };
        }
    }

    /// Where the packet begins and ends in memory. In assembly, since the context has both as 32 bits, and the compiler would
    /// copy what it takes for a number by half a register, after which the verifier knows no pointer.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: the kernel hands every program a valid context; both fields lie in it.
        unsafe {
            core::arch::asm!(
                "{data} = *(u32 *)({ctx} + {data_at})",
                "{end} = *(u32 *)({ctx} + {end_at})",
                data = out(reg) data,
                end = out(reg) end,
                ctx = in(reg) self.0.skb.skb,
                data_at = const core::mem::offset_of!(__sk_buff, data),
                end_at = const core::mem::offset_of!(__sk_buff, data_end),
            );
        }
        (data, end)
    }

    #[inline(always)]
    fn at(&self, at: u32, size: usize) -> Option<*mut u8> {
        if at >= WINDOW {
            return None;
        }
        let (data, end) = self.bounds();
        let place = data + at as usize;
        if place + size > end { None } else { Some(place as *mut u8) }
    }
}

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        // SAFETY: the byte lies before the end of the packet. Two are asked for, since the verifier learns nothing of a place
        // that is compared as it is; no header ends with a byte that is read.
        self.at(at, 2).map(|place| unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn half(&self, at: u32) -> Option<u16> {
        let place = self.at(at, 2)?;
        let half: u64;
        // SAFETY: the bytes lie before the end of the packet. In assembly, since Rust has no load of a place that may be
        // unaligned but by single bytes; the kernel lets programs read such places.
        unsafe {
            core::arch::asm!("{half} = *(u16 *)({place} + 0)", half = out(reg) half, place = in(reg) place)
        };
        Some(half as u16)
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        let place = self.at(at, 4)?;
        let word: u64;
        // SAFETY: as in `half`.
        unsafe {
            core::arch::asm!("{word} = *(u32 *)({place} + 0)", word = out(reg) word, place = in(reg) place)
        };
        Some(word as u32)
    }

    #[inline(always)]
    fn barrier(&self) {
        // SAFETY: nothing is done; the compiler has to think that memory has changed.
        unsafe { core::arch::asm!("", options(nostack)) };
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn set_half(&mut self, at: u32, half: u16) -> bool {
        let Some(place) = self.at(at, 2) else { return false };
        // SAFETY: as in `half`.
        unsafe {
            core::arch::asm!("*(u16 *)({place} + 0) = {half}", half = in(reg) u64::from(half), place = in(reg) place)
        };
        true
    }

    #[inline(always)]
    fn set_word(&mut self, at: u32, word: u32) -> bool {
        let Some(place) = self.at(at, 4) else { return false };
        // SAFETY: as in `half`.
        unsafe {
            core::arch::asm!("*(u32 *)({place} + 0) = {word}", word = in(reg) u64::from(word), place = in(reg) place)
        };
        true
    }

    #[inline(always)]
    fn fix(&mut self, at: u32, delta: Delta, covered: Covered, is_optional: bool) -> bool {
        let pseudo = match covered {
            Covered::Segment => 0,
            Covered::PseudoV4 | Covered::PseudoV6 => BPF_F_PSEUDO_HDR as u64,
        };
        let optional = if is_optional { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        // SAFETY: the context is valid, and the helper checks the offset. A size of zero says that the difference is given.
        unsafe { bpf_l4_csum_replace(self.0.skb.skb, at, 0, delta.sum() as u64, pseudo | optional) == 0 }
    }
}
