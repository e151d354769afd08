//! The checksum of IP, TCP, UDP and ICMP (RFC 1071), changed by what has changed (RFC 1624).
//!
//! Sums are taken over words as they lie in memory: a one's complement sum is the same in either byte order, as long as
//! every word begins at an even distance from the first byte that the checksum covers.

/// What has to be added to a sum because words that it covers have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u32);

impl Delta {
    /// Nothing has changed.
    pub const NONE: Self = Self(0);

    /// A word of four bytes has changed.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(add(add(self.0, !old), new))
    }

    /// A word of two bytes has changed.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(add(add(self.0, !old as u32 & 0xffff), new as u32))
    }

    /// Both have changed.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The sum itself, as the kernel's `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        self.0
    }

    /// A checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(add(!checksum as u32 & 0xffff, self.0))
    }

    /// Who holds the sum of a segment, whose field was `before` and is `after` since the kernel was told of this change of
    /// its pseudo header: a checksum goes down by what the sum of a pseudo header goes up by. Where all that has changed sums up to
    /// nothing the two are the same, and nothing is told.
    #[inline(always)]
    pub const fn holder(self, before: u16, after: u16) -> Holder {
        if fold(self.0).wrapping_add(1) < 2 {
            Holder::Unknown
        } else if after == self.apply_partial(before) {
            Holder::Device
        } else if after == self.apply(before) {
            Holder::Packet
        } else {
            Holder::Unknown
        }
    }

    /// The sum of a pseudo header, which stands in the place of a checksum that the device is to fill in, after the change.
    #[inline(always)]
    pub const fn apply_partial(self, sum: u16) -> u16 {
        fold(add(sum as u32, self.0))
    }
}

/// Where the sum of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// In the packet.
    Packet,
    /// Nowhere yet: a device fills it in (`CHECKSUM_PARTIAL`), and the packet has the sum of a pseudo header.
    Device,
    /// It cannot be told.
    Unknown,
}

/// Adds with end-around carry.
#[inline(always)]
const fn add(a: u32, b: u32) -> u32 {
    let wide = a as u64 + b as u64;
    wide as u32 + (wide >> 32) as u32
}

/// The 16 bits of a sum.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum over words of four bytes whose plain sum this is.
#[inline(always)]
pub(super) const fn of_sum(sum: u64) -> u16 {
    !fold(add(sum as u32, (sum >> 32) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The checksum of bytes, from scratch, as RFC 1071 has it.
    fn checksum(bytes: &[u8]) -> u16 {
        let halves =
            bytes.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        !fold(halves.fold(0, add))
    }

    #[test]
    fn a_known_header_has_its_known_checksum() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&header).to_ne_bytes(), [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn a_change_gives_what_counting_anew_gives(
            mut bytes in prop::collection::vec(any::<u8>(), 8..64),
            word in any::<[u8; 4]>(),
            half in any::<[u8; 2]>(),
        ) {
            // A sum of nothing but zeroes has no other form to be compared with.
            bytes[7] |= 1;
            let before = checksum(&bytes);
            let delta = Delta::NONE
                .word(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), u32::from_ne_bytes(word))
                .and(Delta::NONE.half(u16::from_ne_bytes([bytes[4], bytes[5]]), u16::from_ne_bytes(half)));
            bytes[..4].copy_from_slice(&word);
            bytes[4..6].copy_from_slice(&half);
            prop_assert_eq!(delta.apply(before), checksum(&bytes));
            prop_assert_eq!(!delta.apply_partial(!before), checksum(&bytes));
        }

        #[test]
        fn what_becomes_of_a_sum_tells_who_holds_it(
            before in prop_oneof![Just(0_u16), Just(0xffff), any::<u16>()],
            (old, new) in (any::<u32>(), any::<u32>()),
            is_all_of_it in any::<bool>(),
        ) {
            // Words that differ by a multiple of 65535 make no change of a sum.
            let new = if is_all_of_it { new } else { old.rotate_left(16) };
            let delta = Delta::NONE.word(old, new);
            let (packet, device) = (delta.holder(before, delta.apply(before)), delta.holder(before, delta.apply_partial(before)));
            if old % 0xffff == new % 0xffff {
                prop_assert_eq!((packet, device), (Holder::Unknown, Holder::Unknown));
            } else {
                prop_assert_eq!((packet, device), (Holder::Packet, Holder::Device));
            }
        }
    }
}
