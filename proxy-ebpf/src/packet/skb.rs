//! A packet at TC, read and written in its own memory; checksums are left to the kernel, which knows who fills them in.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_pull_data,
    bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use proxy_common::addr::Proto;
use proxy_common::flow::Mac;
use proxy_common::packet::checksum::Delta;
use proxy_common::packet::refusal::{self, Answer};
use proxy_common::packet::usual::{Near, V4_BYTES};
use proxy_common::packet::{Bytes, Covered, Frame};

/// Bytes of a packet that are looked at: no header that Shunt reads lies beyond.
const WINDOW: u32 = 512;
/// Bytes of headers that are made readable at once: Ethernet, IPv6 and TCP, or two IPv4 headers of an ICMP error.
const LINEAR: u32 = 96;
/// The same for ICMP errors with the packet that they quote, with some options or extension headers.
pub const ERROR: u32 = 168;
/// What is enough for TCP or UDP right behind an IPv4 header without options, and behind one of IPv6.
const ENOUGH: [u32; 2] = [40, 60];
/// What `tc_index` of a packet says that was sent on to a backend as it entered: nobody else is known to use that number, and a
/// number that is there stays. Linux carries it with the packet as far as it goes through this node.
const REQUEST: u16 = 0x5348;
/// The same of a packet that goes past the stack: nothing is left to do where it leaves.
const DONE: u16 = 0x5349;

/// A packet.
pub struct Skb<'a> {
    pub ctx: &'a TcContext,
    /// Bytes ahead of the IP header: those of Ethernet, or none.
    pub link: u32,
}

impl<'a> Skb<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext, link: u32) -> Self {
        Self { ctx, link }
    }

    /// `EtherType` of the packet, without VLAN tags.
    #[inline(always)]
    pub fn ether_type(&self) -> u16 {
        // SAFETY: the kernel hands every program a valid context.
        u16::from_be(unsafe { (&raw const (*self.ctx.skb.skb).protocol).read_volatile() } as u16)
    }

    /// Its first bytes, if there are so many.
    #[inline(always)]
    pub fn near(&self, bytes: u32) -> Option<Beginning> {
        let (data, end) = self.bounds();
        if data + bytes as usize > end { None } else { Some(Beginning(data)) }
    }

    /// Makes the headers readable where they lie in the fragments of a packet.
    #[inline(always)]
    pub fn pull(&self) {
        let (data, end) = self.bounds();
        let have = end.wrapping_sub(data) as u32;
        let is_enough = match self.byte(self.link) {
            Some(0x45) => have >= self.link + ENOUGH[0],
            Some(first) if first >> 4 == 6 => {
                let next = self.byte(self.link + 6).map(Proto);
                have >= self.link + ENOUGH[1] && matches!(next, Some(Proto::TCP | Proto::UDP))
            }
            _ => false,
        };
        if !is_enough {
            self.pull_to(LINEAR);
        }
    }

    /// The same for so many bytes.
    #[inline(always)]
    pub fn pull_to(&self, bytes: u32) {
        let ctx = self.ctx;
        let (data, end) = self.bounds();
        let have = end.wrapping_sub(data) as u32;
        if have < bytes && ctx.len() > have {
            let want = if ctx.len() < bytes { ctx.len() } else { bytes };
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
                ctx = in(reg) self.ctx.skb.skb,
                data_at = const core::mem::offset_of!(__sk_buff, data),
                end_at = const core::mem::offset_of!(__sk_buff, data_end),
                options(pure, readonly, nostack),
            );
        }
        (data, end)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the kernel hands every program a valid context.
        unsafe { (&raw const (*self.ctx.skb.skb).tc_index).read_volatile() }
    }

    #[inline(always)]
    fn set_mark(&self, mark: u16) {
        // SAFETY: the kernel hands every program a valid context, whose `tc_index` may be written.
        unsafe { (&raw mut (*self.ctx.skb.skb).tc_index).write_volatile(mark as u32) };
    }

    /// Whether [`Skb::mark_request`] was called for it on its way through this node.
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        self.mark() == REQUEST as u32
    }

    /// Says that the packet was sent on to a backend as it entered this node.
    #[inline(always)]
    pub fn mark_request(&self) {
        if self.is_unmarked() {
            self.set_mark(REQUEST);
        }
    }

    /// Whether [`Skb::mark_done`] was called for it.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.mark() == DONE as u32
    }

    /// Whether nobody has said anything of it in this way.
    #[inline(always)]
    pub fn is_unmarked(&self) -> bool {
        self.mark() == 0
    }

    /// Says that the packet, which is unmarked, goes past the stack as it is to be.
    #[inline(always)]
    pub fn mark_done(&self) {
        self.set_mark(DONE);
    }

    /// It has come in: whatever was said of it on its way to here is over. Returns whether a program has sent it on before, as one
    /// at another device below this one, or on a node of the same host.
    #[inline(always)]
    pub fn unmark(&self) -> bool {
        let mark = self.mark();
        if mark == REQUEST as u32 || mark == DONE as u32 {
            self.set_mark(0);
        }
        mark == REQUEST as u32
    }

    /// Index of the device that it is at.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        // SAFETY: the kernel hands every program a valid context.
        unsafe { (&raw const (*self.ctx.skb.skb).ifindex).read_volatile() }
    }

    /// Bytes from its IP header on, and how many of its data each packet gets that a device will cut it into; zero: none will.
    #[inline(always)]
    pub fn sizes(&self) -> (u32, u32) {
        // SAFETY: the kernel hands every program a valid context.
        let gso = unsafe { (&raw const (*self.ctx.skb.skb).gso_size).read_volatile() };
        (self.ctx.len().wrapping_sub(self.link), gso)
    }

    /// Whether it is for this host by its frame (`PACKET_HOST`), and nobody has said anything of it that its way may depend on.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        let skb = self.ctx.skb.skb;
        // SAFETY: the kernel hands every program a valid context.
        let all = unsafe {
            (&raw const (*skb).pkt_type).read_volatile()
                | (&raw const (*skb).mark).read_volatile()
                | (&raw const (*skb).vlan_present).read_volatile()
        };
        all == 0
    }

    /// Becomes another packet, behind the same link-layer header turned round. False: it could not, and is spoiled.
    #[inline(always)]
    pub fn turn_into(&mut self, answer: &Answer) -> bool {
        let length = answer.length * 4;
        if length == 0 || length > refusal::BYTES {
            return false;
        }
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid, and the helpers check sizes; the words lie in memory of this CPU.
        let is_written = unsafe {
            bpf_skb_change_tail(skb, self.link + length, 0) == 0
                && bpf_skb_store_bytes(skb, self.link, answer.words.as_ptr().cast(), length, 0) == 0
        };
        is_written && (self.link == 0 || self.swap_link_addresses())
    }

    /// It goes out where it came in.
    #[inline(always)]
    pub fn send_back(&self) {
        // SAFETY: the helper takes numbers only.
        unsafe { bpf_redirect(self.device(), 0) };
    }

    /// A link-layer address at some place.
    #[inline(always)]
    pub fn mac(&self, at: u32) -> Option<Mac> {
        let place = self.at(at, 6)? as usize;
        // SAFETY: six bytes lie before the end of the packet.
        unsafe { Some([half(place), half(place + 2), half(place + 4)]) }
    }

    /// Writes one.
    #[inline(always)]
    pub fn set_mac(&mut self, at: u32, mac: &Mac) -> bool {
        self.set_half(at, mac[0]) && self.set_half(at + 2, mac[1]) && self.set_half(at + 4, mac[2])
    }

    #[inline(always)]
    fn swap_link_addresses(&self) -> bool {
        let (data, end) = self.bounds();
        if data + 12 > end {
            return false;
        }
        // SAFETY: twelve bytes lie before the end of the packet, and each index is below six.
        let at = |index: usize| unsafe { half(data + 2 * index) };
        let turned = [at(3), at(4), at(5), at(0), at(1), at(2)];
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid, and the helper checks the size.
        unsafe { bpf_skb_store_bytes(skb, 0, turned.as_ptr().cast(), 12, 0) == 0 }
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

/// Two bytes of a packet. In assembly, since Rust has no load of a place that may be unaligned but by single bytes; the kernel lets
/// programs read such places.
#[inline(always)]
unsafe fn half(place: usize) -> u16 {
    let half: u64;
    // SAFETY: the caller has seen that they lie before its end.
    unsafe {
        core::arch::asm!("{half} = *(u16 *)({place} + 0)", half = out(reg) half, place = in(reg) place, options(pure, readonly, nostack));
    }
    half as u16
}

/// Four bytes of a packet, see [`half`].
#[inline(always)]
unsafe fn word(place: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller has seen that they lie before its end.
    unsafe {
        core::arch::asm!("{word} = *(u32 *)({place} + 0)", word = out(reg) word, place = in(reg) place, options(pure, readonly, nostack));
    }
    word as u32
}

/// The first [`V4_BYTES`] of a packet, or more, see [`Skb::near`]. Nothing may be done meanwhile that moves it in memory; the verifier sees to that.
#[derive(Clone, Copy)]
pub struct Beginning(usize);

impl Bytes for Beginning {
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        // SAFETY: as in `half`.
        if at < V4_BYTES {
            Some(unsafe { (self.0 as *const u8).add(at as usize).read_volatile() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn half(&self, at: u32) -> Option<u16> {
        if at + 2 <= V4_BYTES { Some(Near::half(self, at)) } else { None }
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        if at + 4 <= V4_BYTES { Some(Near::word(self, at)) } else { None }
    }
}

impl Near for Beginning {
    #[inline(always)]
    fn half(&self, at: u32) -> u16 {
        // SAFETY: whoever made this has seen that the bytes are there, or the verifier refuses the program.
        unsafe { half(self.0 + at as usize) }
    }

    #[inline(always)]
    fn word(&self, at: u32) -> u32 {
        // SAFETY: as above.
        unsafe { word(self.0 + at as usize) }
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
        // SAFETY: the bytes lie before the end of the packet.
        self.at(at, 2).map(|place| unsafe { half(place as usize) })
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        // SAFETY: the bytes lie before the end of the packet.
        self.at(at, 4).map(|place| unsafe { word(place as usize) })
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
        unsafe {
            let skb = self.ctx.skb.skb;
            let is_done = bpf_l4_csum_replace(skb, at, 0, delta.sum() as u64, pseudo | optional) == 0;
            if matches!(covered, Covered::PseudoV6) {
                // Where the device has summed up the whole packet, the helper takes the change out of that sum, as if another
                // checksum had changed the other way, which only IPv4 has. (Linux 6.16 has a flag for it, BPF_F_IPV6; this
                // is the same on every kernel, and nothing where there is no such sum.)
                self.resum(delta);
            }
            is_done
        }
    }

    #[inline(always)]
    fn resum(&mut self, delta: Delta) {
        // SAFETY: the context is valid. Where there is no such sum the helper says so, and does nothing.
        unsafe { bpf_csum_update(self.ctx.skb.skb, delta.sum()) };
    }
}
