//! Fragments: only the first part of a datagram has ports, so what became of it is kept for the others.

use super::Change;
use crate::addr::{Addr, Proto};
use crate::packet::{Headers, Side};

/// Nanoseconds for which the parts of a datagram are waited for, as by the kernel (`ipfrag_time`).
pub const LIFETIME: u64 = 30_000_000_000;

/// Key of `FRAGMENTS`: what all parts of a datagram have in common at one place.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Where it comes from.
    pub src: Addr,
    /// Where it goes.
    pub dst: Addr,
    /// What all parts have in common, as in the header.
    pub id: u32,
    /// Protocol.
    pub proto: Proto,
    /// One where the parts enter the node, two where they leave it.
    pub place: u8,
    /// Zero.
    pub pad: u16,
}

/// Value of `FRAGMENTS`: what became of the first part.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// The address that the end got.
    pub addr: Addr,
    /// One: the end is the source; two: the destination.
    pub side: u32,
    /// Zero.
    pub pad: u32,
    /// When: nanoseconds of the kernel's monotonic clock.
    pub seen: u64,
}

/// Where a packet enters the node.
pub const ENTERS: u8 = 1;
/// Where a packet leaves the node.
pub const LEAVES: u8 = 2;

impl FragmentKey {
    /// The key of any part.
    #[inline(always)]
    pub const fn of(headers: &Headers, place: u8) -> Self {
        let Headers { src, dst, proto, fragment_id: id, .. } = *headers;
        Self { src, dst, id, proto, place, pad: 0 }
    }
}

impl FragmentValue {
    /// What is kept of the first part.
    #[inline(always)]
    pub const fn new(change: &Change, now: u64) -> Self {
        let side = match change.side {
            Side::Source => 1,
            Side::Destination => 2,
        };
        Self { addr: change.to.addr, side, pad: 0, seen: now }
    }

    /// What the other parts get, unless the datagram's time is over.
    #[inline(always)]
    pub const fn change(&self, now: u64) -> Option<(Side, Addr)> {
        if now.saturating_sub(self.seen) > LIFETIME {
            return None;
        }
        Some((if self.side == 1 { Side::Source } else { Side::Destination }, self.addr))
    }
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentValue>() == 32);
