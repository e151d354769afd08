//! Where a packet's headers lie, and the tuple that they hold.

use super::Bytes;
use crate::addr::{Addr, Port, Proto};

/// `ETH_P_IP`, in host order.
pub const ETHER_IPV4: u16 = 0x0800;
/// `ETH_P_IPV6`, in host order.
pub const ETHER_IPV6: u16 = 0x86dd;

/// Extension headers of one IPv6 packet at most; what has more is not looked at.
const EXTENSIONS: u32 = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Bits of the IPv4 fragment word, in host order.
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
/// Bits of the word of an IPv6 fragment header, in host order.
const OFFSET_V6: u16 = 0xfff8;
const MORE_V6: u16 = 1;

/// Which part of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole = 0,
    /// The first of several, with the ports.
    First = 1,
    /// One without ports.
    Later = 2,
}

/// What a packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the IP header.
    pub ip: u32,
    /// Offset of what follows all IP headers.
    pub segment: u32,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Zero where the packet has none: no transport with ports, or a later fragment.
    pub src_port: Port,
    /// As `src_port`.
    pub dst_port: Port,
    /// Protocol of the segment.
    pub proto: Proto,
    /// Whether the header is one of IPv4.
    pub is_v4: bool,
    /// [`Fragment`], as a number: which part of a datagram it is.
    pub fragment: u8,
    /// What all fragments of a datagram have in common; zero where there is one only.
    pub fragment_id: u32,
}

impl Headers {
    /// None yet.
    pub const EMPTY: Self = Self {
        ip: 0,
        segment: 0,
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        src_port: Port::ANY,
        dst_port: Port::ANY,
        proto: Proto::ANY,
        is_v4: false,
        fragment: 0,
        fragment_id: 0,
    };

    /// Whether it is a part of a datagram that has no ports.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.fragment == Fragment::Later as u8
    }

    /// Whether the segment begins with two ports.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.proto, Proto::TCP | Proto::UDP | Proto::SCTP) && !self.is_later()
    }

    /// Offset of the segment's checksum, if it has one that covers what a rewrite changes. That of SCTP does not cover
    /// addresses, and nobody changes its ports.
    #[inline(always)]
    pub const fn checksum(&self) -> Option<u32> {
        match self.proto {
            _ if self.is_later() => None,
            Proto::TCP => Some(self.segment + 16),
            Proto::UDP => Some(self.segment + 6),
            Proto::ICMPV6 if !self.is_v4 => Some(self.segment + 2),
            _ => None,
        }
    }
}

/// Reads the headers of a packet whose IP header lies at `ip`; says whether it could. Not if it is cut short, is no IP packet,
/// or has headers that nobody here understands: such a packet is nobody's business.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: &B, ip: u32, ether_type: u16, into: &mut Headers) -> bool {
    into.ip = ip;
    into.src_port = Port::ANY;
    into.dst_port = Port::ANY;
    let is_read = match ether_type {
        ETHER_IPV4 => v4(bytes, ip, into),
        ETHER_IPV6 => v6(bytes, ip, into),
        _ => None,
    };
    bytes.barrier();
    is_read.is_some() && (!into.has_ports() || ports(bytes, into).is_some())
}

#[inline(always)]
fn ports<B: Bytes>(bytes: &B, into: &mut Headers) -> Option<()> {
    into.src_port = Port::from_be(bytes.half(into.segment)?);
    into.dst_port = Port::from_be(bytes.half(into.segment + 2)?);
    bytes.barrier();
    Some(())
}

#[inline(always)]
fn v4<B: Bytes>(bytes: &B, ip: u32, into: &mut Headers) -> Option<()> {
    let first = bytes.byte(ip)?;
    let words = (first & 0xf) as u32;
    if first >> 4 != 4 || words < 5 {
        return None;
    }
    let place = u16::from_be(bytes.half(ip + 6)?);
    into.fragment_id = bytes.half(ip + 4)? as u32;
    into.fragment = fragment(place & OFFSET_V4 != 0, place & MORE_FRAGMENTS != 0);
    into.segment = ip + words * 4;
    into.src = Addr::from_v4_word(bytes.word(ip + 12)?);
    into.dst = Addr::from_v4_word(bytes.word(ip + 16)?);
    into.proto = Proto(bytes.byte(ip + 9)?);
    into.is_v4 = true;
    Some(())
}

#[inline(always)]
const fn fragment(has_offset: bool, has_more: bool) -> u8 {
    match (has_offset, has_more) {
        (false, false) => Fragment::Whole as u8,
        (false, true) => Fragment::First as u8,
        (true, _) => Fragment::Later as u8,
    }
}

#[inline(always)]
fn v6<B: Bytes>(bytes: &B, ip: u32, into: &mut Headers) -> Option<()> {
    if bytes.byte(ip)? >> 4 != 6 {
        return None;
    }
    into.is_v4 = false;
    into.fragment = Fragment::Whole as u8;
    into.fragment_id = 0;
    into.src = v6_addr(bytes, ip + 8)?;
    into.dst = v6_addr(bytes, ip + 24)?;
    if into.src.is_v4() || into.dst.is_v4() {
        // IPv4-mapped addresses have no place on a wire (RFC 4942, 2.2), and would be taken for those of IPv4 here.
        return None;
    }
    into.proto = Proto(bytes.byte(ip + 6)?);
    into.segment = ip + 40;
    for _ in 0..EXTENSIONS {
        bytes.barrier();
        // What follows a later fragment's header is the middle of something.
        if into.is_later() || !is_extension(into.proto.0) {
            return Some(());
        }
        step_over(bytes, into)?;
    }
    bytes.barrier();
    if into.is_later() || !is_extension(into.proto.0) { Some(()) } else { None }
}

const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

#[inline(always)]
fn step_over<B: Bytes>(bytes: &B, into: &mut Headers) -> Option<()> {
    let at = into.segment;
    let length = match into.proto.0 {
        FRAGMENT => {
            let place = u16::from_be(bytes.half(at + 2)?);
            into.fragment_id = bytes.word(at + 4)?;
            into.fragment = fragment(place & OFFSET_V6 != 0, place & MORE_V6 != 0);
            8
        }
        AUTHENTICATION => (bytes.byte(at + 1)? as u32 + 2) * 4,
        _ => (bytes.byte(at + 1)? as u32 + 1) * 8,
    };
    into.proto = Proto(bytes.byte(at)?);
    into.segment = at + length;
    Some(())
}

#[inline(always)]
fn v6_addr<B: Bytes>(bytes: &B, at: u32) -> Option<Addr> {
    Some(Addr::from_words([bytes.word(at)?, bytes.word(at + 4)?, bytes.word(at + 8)?, bytes.word(at + 12)?]))
}
