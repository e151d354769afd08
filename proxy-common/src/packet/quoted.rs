//! ICMP errors: they quote the packet that they are about, and belong to its flow.

use super::checksum::Delta;
use super::rewrite::IP_CHECKSUM;
use super::{Bytes, Covered, ETHER_IPV4, ETHER_IPV6, Fragment, Frame, Headers, Side, parse};
use crate::addr::{Addr, Port, Proto};

/// Bytes of an ICMP error ahead of the packet that it quotes.
const QUOTED_AT: u32 = 8;
/// Offset of the checksum within an ICMP message.
const CHECKSUM: u32 = 2;

/// Types that quote a packet: unreachable (and fragmentation needed), time exceeded, parameter problem.
const fn quotes(kind: u8, is_v4: bool) -> bool {
    if is_v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// Reads the headers of the packet that an ICMP error quotes, with offsets into the whole packet; says whether it could. Not
/// if it is no error, or quotes too little, or a packet without ports.
#[inline(always)]
pub fn quoted<B: Bytes>(bytes: &B, outer: &Headers, inner: &mut Headers) -> bool {
    let is_icmp = outer.proto == if outer.is_v4 { Proto::ICMP } else { Proto::ICMPV6 };
    if !is_icmp || outer.fragment != Fragment::Whole as u8 {
        return false;
    }
    if !bytes.byte(outer.segment).is_some_and(|kind| quotes(kind, outer.is_v4)) {
        return false;
    }
    let ether_type = if outer.is_v4 { ETHER_IPV4 } else { ETHER_IPV6 };
    parse(bytes, outer.segment + QUOTED_AT, ether_type, inner) && inner.has_ports()
}

/// Gives one end of the quoted packet another address and port, with all checksums inside and that of the message. Says
/// whether that could be done, as [`super::rewrite`], which changes the message's own addresses.
#[inline(always)]
pub fn rewrite_quoted<F: Frame>(
    frame: &mut F,
    (outer, inner): (&Headers, &Headers),
    side: Side,
    (addr, port): (Addr, Port),
) -> bool {
    let (old_addr, old_port) = side.of(inner);
    let moves_port = port != old_port;
    if addr.is_v4() != inner.is_v4 || moves_port && inner.proto == Proto::SCTP {
        return false;
    }
    let Some(addresses) = change_address(frame, inner, side, (old_addr, addr)) else { return false };
    let mut message = addresses.of_message;
    if moves_port {
        let at = inner.segment + side.port();
        if !frame.set_half(at, port.to_be()) {
            return false;
        }
        message = message.half(old_port.to_be(), port.to_be());
    }
    let change = addresses.of_segment.half(old_port.to_be(), port.to_be());
    message = message.and(change_checksum(frame, inner, change));
    // The message itself is a segment whose bytes have changed.
    frame.fix(outer.segment + CHECKSUM, message, Covered::Segment, false)
}

/// What a new address adds to the sums that cover it.
struct AddressChange {
    /// To that of the quoted segment, by its pseudo header.
    of_segment: Delta,
    /// To that of the message, by the quoted header.
    of_message: Delta,
}

#[inline(always)]
fn change_address<F: Frame>(
    frame: &mut F,
    inner: &Headers,
    side: Side,
    (old, new): (Addr, Addr),
) -> Option<AddressChange> {
    let at = inner.ip + side.address(inner.is_v4);
    let (old, new) = (old.words(), new.words());
    let mut of_segment = Delta::NONE;
    let first = if inner.is_v4 { 3 } else { 0 };
    let mut index = first;
    while index < 4 {
        of_segment = of_segment.word(old[index], new[index]);
        if !frame.set_word(at + 4 * (index - first) as u32, new[index]) {
            return None;
        }
        index += 1;
    }
    if !inner.is_v4 {
        return Some(AddressChange { of_segment, of_message: of_segment });
    }
    // The header's own checksum changes the other way, and both are in the message.
    let checksum = frame.half(inner.ip + IP_CHECKSUM)?;
    let changed = of_segment.apply(checksum);
    if !frame.set_half(inner.ip + IP_CHECKSUM, changed) {
        return None;
    }
    Some(AddressChange { of_segment, of_message: of_segment.half(checksum, changed) })
}

/// Changes the checksum of the quoted segment, if the quote goes that far, and says what that adds to the message's sum.
#[inline(always)]
fn change_checksum<F: Frame>(frame: &mut F, inner: &Headers, change: Delta) -> Delta {
    let Some(at) = inner.checksum() else { return Delta::NONE };
    let Some(checksum) = frame.half(at) else { return Delta::NONE };
    let is_optional = inner.proto == Proto::UDP;
    if is_optional && checksum == 0 {
        return Delta::NONE;
    }
    let mut changed = change.apply(checksum);
    if is_optional && changed == 0 {
        changed = 0xffff;
    }
    if frame.set_half(at, changed) { Delta::NONE.half(checksum, changed) } else { Delta::NONE }
}
