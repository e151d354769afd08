//! The filter of owned ranges: one bit per hashed address prefix, so that a connection to an address that Shunt
//! has nothing to do with costs one array read.
//!
//! A clear bit proves that no frontend, node address or ServiceCIDR covers the address; a set bit proves nothing.

use crate::addr::Addr;

/// Bits of the filter.
pub const BITS: u32 = 1 << 16;
/// Words of the filter: one memory-mapped array of `u64`.
pub const WORDS: u32 = BITS / 64;
/// Prefix length at which IPv4 addresses share a bit.
pub const V4_PREFIX: u8 = 24;
/// Prefix length at which IPv6 addresses share a bit.
pub const V6_PREFIX: u8 = 64;

/// The bit of an address: the same for all addresses of one /24 (IPv4) or /64 (IPv6).
#[inline(always)]
pub const fn bit(addr: Addr) -> u32 {
    let [a, b, _, d] = addr.words();
    let mixed = if addr.is_v4() {
        (u32::from_be(d) >> 8).wrapping_mul(0x9e37_79b1)
    } else {
        (u32::from_be(a).wrapping_mul(0x85eb_ca6b) ^ u32::from_be(b)).wrapping_mul(0x9e37_79b1)
    };
    mixed >> 16
}

/// Word and mask of a bit.
#[inline(always)]
pub const fn position(bit: u32) -> (u32, u64) {
    (bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn bit_of(text: &str) -> u32 {
        bit(text.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn addresses_of_a_prefix_share_a_bit() {
        assert_eq!(bit_of("10.96.3.1"), bit_of("10.96.3.254"));
        assert_eq!(bit_of("fd00:10:96::1"), bit_of("fd00:10:96::ffff:1"));
        assert_ne!(bit_of("10.96.3.1"), bit_of("10.96.4.1"));
        assert_ne!(bit_of("fd00:10:96::1"), bit_of("fd00:10:97::1"));
    }

    #[test]
    fn a_service_range_spreads_over_the_filter() {
        let mut seen = std::collections::HashSet::new();
        for block in 0..4096_u32 {
            let ip = core::net::Ipv4Addr::from(0x0a60_0000 + (block << 8));
            seen.insert(bit(ip.into()));
        }
        assert!(seen.len() > 3900, "only {} bits for 4096 prefixes", seen.len());
        assert!(seen.iter().all(|bit| *bit < BITS));
    }
}
