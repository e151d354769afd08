//! Changing one end of a packet: address, port, and the checksums that cover them.

use super::checksum::{Delta, Holder};
use super::{Covered, Frame, Headers};
use crate::addr::{Addr, Port, Proto};

/// The end that is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from: SNAT, and un-DNAT.
    Source,
    /// Where it goes: DNAT, and un-SNAT.
    Destination,
}

impl Side {
    /// Offset of the address within the IP header.
    #[inline(always)]
    pub(super) const fn address(self, is_v4: bool) -> u32 {
        match (self, is_v4) {
            (Self::Source, true) => 12,
            (Self::Destination, true) => 16,
            (Self::Source, false) => 8,
            (Self::Destination, false) => 24,
        }
    }

    /// Offset of the port within the segment.
    #[inline(always)]
    pub(super) const fn port(self) -> u32 {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }

    /// The other end.
    #[inline(always)]
    #[must_use]
    pub const fn far(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// What `headers` say of this side.
    #[inline(always)]
    pub const fn of(self, headers: &Headers) -> (Addr, Port) {
        match self {
            Self::Source => (headers.src, headers.src_port),
            Self::Destination => (headers.dst, headers.dst_port),
        }
    }
}

/// Offset of the checksum within the IPv4 header.
pub(crate) const IP_CHECKSUM: u32 = 10;

/// Gives one end of a packet another address and port; a packet without ports keeps those that it does not have. Says
/// whether that could be done: not if the address is of the other family, nor if a port of SCTP would change, whose checksum
/// (CRC32c) covers the whole packet. Where it says no, the packet may be half changed and must be dropped.
#[inline(always)]
pub fn rewrite<F: Frame>(frame: &mut F, headers: &Headers, side: Side, (addr, port): (Addr, Port)) -> bool {
    let (old_addr, old_port) = side.of(headers);
    let moves_port = headers.has_ports() && port != old_port;
    if addr.is_v4() != headers.is_v4 || moves_port && headers.proto == Proto::SCTP {
        return false;
    }
    let at = headers.ip + side.address(headers.is_v4);
    let addresses = if headers.is_v4 {
        v4(frame, headers.ip, at, (old_addr, addr))
    } else {
        v6(frame, at, (old_addr, addr))
    };
    let Some((delta, covered)) = addresses else { return false };
    let Some(checksum) = headers.checksum() else {
        return !moves_port || frame.set_half(headers.segment + side.port(), port.to_be());
    };
    let is_optional = headers.proto == Proto::UDP;
    let Some(before) = frame.half(checksum) else { return false };
    if !frame.fix(checksum, delta, covered, is_optional) {
        return false;
    }
    if !moves_port {
        return true;
    }
    let ports = Delta::NONE.half(old_port.to_be(), port.to_be());
    covers_port(frame, (checksum, is_optional), (before, delta), ports)
        && frame.set_half(headers.segment + side.port(), port.to_be())
}

/// A checksum covers another port, too. `before` is what it was before the addresses changed, by `delta`: what has become of it
/// tells who fills it in, and whoever that is is not asked again.
#[inline(always)]
fn covers_port<F: Frame>(
    frame: &mut F,
    (checksum, is_optional): (u32, bool),
    (before, delta): (u16, Delta),
    ports: Delta,
) -> bool {
    let Some(after) = frame.half(checksum) else { return false };
    match delta.holder(before, after) {
        Holder::Device => true,
        Holder::Packet if !is_optional => frame.set_half(checksum, ports.apply(after)),
        Holder::Packet | Holder::Unknown => frame.fix(checksum, ports, Covered::Segment, is_optional),
    }
}

#[inline(always)]
fn v4<F: Frame>(frame: &mut F, ip: u32, at: u32, (old, new): (Addr, Addr)) -> Option<(Delta, Covered)> {
    let delta = Delta::NONE.word(old.v4_word(), new.v4_word());
    let checksum = frame.half(ip + IP_CHECKSUM)?;
    let done = frame.set_half(ip + IP_CHECKSUM, delta.apply(checksum)) && frame.set_word(at, new.v4_word());
    if done { Some((delta, Covered::PseudoV4)) } else { None }
}

#[inline(always)]
fn v6<F: Frame>(frame: &mut F, at: u32, (old, new): (Addr, Addr)) -> Option<(Delta, Covered)> {
    let (old, new) = (old.words(), new.words());
    let mut delta = Delta::NONE;
    let mut index = 0;
    while index < 4 {
        delta = delta.word(old[index], new[index]);
        if !frame.set_word(at + 4 * index as u32, new[index]) {
            return None;
        }
        index += 1;
    }
    Some((delta, Covered::PseudoV6))
}
