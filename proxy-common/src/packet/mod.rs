//! Packets: what their headers say, and how a tuple in them is changed.
//!
//! [`Bytes`] is how a packet is read, [`Frame`] how it is changed. The programs at TC read the packet's own memory and leave
//! checksums to the kernel's helpers, which know whether a device is still to fill them in; tests use a buffer. Nothing here
//! knows of services or flows.

pub mod checksum;
mod headers;
pub mod quoted;
pub mod refusal;
mod rewrite;
pub mod usual;

pub use headers::{ETHER_IPV4, ETHER_IPV6, Fragment, Headers, parse};
pub(crate) use rewrite::IP_CHECKSUM;
pub use rewrite::{Side, rewrite};

use checksum::Delta;

/// Read access to a packet. Offsets count from its first byte; nothing is there beyond its end.
pub trait Bytes {
    /// One byte.
    fn byte(&self, at: u32) -> Option<u8>;
    /// Two bytes, as they lie in memory; `at` is even.
    fn half(&self, at: u32) -> Option<u16>;
    /// Four bytes, as they lie in memory; `at` is even.
    fn word(&self, at: u32) -> Option<u32>;
    /// What lies in memory may be anything from here on. The verifier goes through a program once for each thing that it
    /// knows of a value: whatever it has to forget, so that the ways join again, is kept in memory and read after this.
    #[inline(always)]
    fn barrier(&self) {}
}

/// What a checksum covers that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Something in the segment itself: whoever fills the checksum in later reads it there.
    Segment,
    /// Addresses of the IPv4 header, which are in the pseudo header. Their own header's checksum has changed the other way.
    PseudoV4,
    /// Addresses of the IPv6 header, which has no checksum.
    PseudoV6,
}

/// Write access to a packet. Each says whether the bytes are there.
pub trait Frame: Bytes {
    /// Writes two bytes as they lie in memory; `at` is even.
    fn set_half(&mut self, at: u32, half: u16) -> bool;
    /// Writes four bytes as they lie in memory; `at` is even.
    fn set_word(&mut self, at: u32, word: u32) -> bool;
    /// Changes the checksum of a segment at `at`. Where `is_optional` (UDP), zero means that there is none and stays, and a
    /// sum of zero is written as 0xffff.
    fn fix(&mut self, at: u32, delta: Delta, covered: Covered, is_optional: bool) -> bool;
    /// Something has changed that no checksum in the packet covers: whoever has summed it up whole (`CHECKSUM_COMPLETE`) is told.
    fn resum(&mut self, delta: Delta);
}

#[cfg(test)]
pub(crate) mod buffer;
#[cfg(test)]
mod tests;
