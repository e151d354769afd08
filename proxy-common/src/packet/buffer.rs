//! A packet in memory, with checksums handled as the kernel's helpers do it.

use super::checksum::Delta;
use super::{Bytes, Covered, Frame};

/// A packet, and whether a device is still to fill in the checksum at some offset (`CHECKSUM_PARTIAL`), or has summed up all
/// behind the Ethernet header (`CHECKSUM_COMPLETE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) partial: Option<u32>,
    pub(crate) complete: Option<u16>,
}

impl Buffer {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, partial: None, complete: None }
    }

    fn get<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.bytes.get(at..at + N)?.try_into().ok()
    }

    fn set(&mut self, at: u32, with: &[u8]) -> bool {
        let at = at as usize;
        let Some(place) = self.bytes.get_mut(at..at + with.len()) else { return false };
        place.copy_from_slice(with);
        true
    }
}

impl Bytes for Buffer {
    fn byte(&self, at: u32) -> Option<u8> {
        self.bytes.get(at as usize).copied()
    }

    fn half(&self, at: u32) -> Option<u16> {
        assert!(at.is_multiple_of(2), "a half at {at}");
        self.get(at).map(u16::from_ne_bytes)
    }

    fn word(&self, at: u32) -> Option<u32> {
        assert!(at.is_multiple_of(2), "a word at {at}");
        self.get(at).map(u32::from_ne_bytes)
    }
}

impl Frame for Buffer {
    fn set_half(&mut self, at: u32, half: u16) -> bool {
        self.set(at, &half.to_ne_bytes())
    }

    fn set_word(&mut self, at: u32, word: u32) -> bool {
        self.set(at, &word.to_ne_bytes())
    }

    fn fix(&mut self, at: u32, delta: Delta, covered: Covered, is_optional: bool) -> bool {
        let Some(sum) = self.half(at) else { return false };
        if self.partial == Some(at) {
            return covered == Covered::Segment || self.set_half(at, delta.apply_partial(sum));
        }
        if is_optional && sum == 0 {
            return true;
        }
        // As `bpf_l4_csum_replace` has it: the header's own checksum takes the change of its addresses out of the whole sum.
        if covered == Covered::PseudoV4 {
            self.complete = self.complete.map(|whole| delta.apply(whole));
        }
        let changed = delta.apply(sum);
        self.set_half(at, if is_optional && changed == 0 { 0xffff } else { changed })
    }

    fn resum(&mut self, delta: Delta) {
        self.complete = self.complete.map(|whole| delta.apply_partial(whole));
    }
}
