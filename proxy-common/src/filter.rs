//! The filter of owned addresses: bits by hash, so that a connection to an address that Shunt has nothing to do with
//! costs one or two array reads.
//!
//! It has four parts. One bit per /24 (IPv4) or /64 (IPv6) that holds anything owned: most connections end there. Where that
//! bit is set, as for every node of the own subnet, the other two decide: a bit per prefix that is owned as a range
//! (ServiceCIDRs, blocks of owned VIPs), and a bit per owned address (frontends, node addresses).
//!
//! The fourth is of ports: a bit for each port and protocol that any frontend has, by which a packet for the node itself, as of a
//! tunnel, is told from one for a NodePort.
//!
//! Bits that are clear prove that no frontend, node address or ServiceCIDR covers the address; set ones prove nothing.

use crate::addr::{Addr, Port, Proto};

/// Bits of the part by prefix, and of the part by range.
const PREFIX_BITS: u32 = 1 << 16;
/// Bits of the part by address, as a power of two.
const ADDRESS_SHIFT: u32 = 18;
/// Where the part by port begins, and how many bits it has.
const PORTS: u32 = 2 * PREFIX_BITS + (1 << ADDRESS_SHIFT);
const PORT_BITS: u32 = 1 << 16;
/// Bits of the filter.
pub const BITS: u32 = PORTS + PORT_BITS;
/// Words of the filter: one memory-mapped array of `u64`.
pub const WORDS: u32 = BITS / 64;
/// Prefix length at which IPv4 addresses share a bit.
pub const V4_PREFIX: u8 = 24;
/// Prefix length at which IPv6 addresses share a bit.
pub const V6_PREFIX: u8 = 64;

const MIX: [u32; 3] = [0x9e37_79b1, 0x85eb_ca6b, 0xc2b2_ae35];

/// Read access to the bits.
pub trait Bits {
    /// Whether a bit is set.
    fn is_set(&self, bit: u32) -> bool;
}

/// Whether `addr` may be owned; `false` is certain.
#[inline(always)]
pub fn may_own<B: Bits>(bits: &B, addr: Addr) -> bool {
    let prefix = prefix_bit(addr);
    bits.is_set(prefix) && (bits.is_set(address_bit(addr)) || bits.is_set(PREFIX_BITS + prefix))
}

/// Whether some frontend may have this port and protocol; `false` is certain.
#[inline(always)]
pub fn may_serve<B: Bits>(bits: &B, port: Port, proto: Proto) -> bool {
    bits.is_set(bit_of_port(port, proto))
}

/// The bit that a frontend needs for its port: one for each port of a protocol, which another protocol has in another order.
#[inline(always)]
pub const fn bit_of_port(port: Port, proto: Proto) -> u32 {
    PORTS + (port.get() as u32 ^ (proto.0 as u32).wrapping_mul(MIX[0])) % PORT_BITS
}

/// The bits that an owned address needs.
#[inline(always)]
pub const fn bits_of_address(addr: Addr) -> [u32; 2] {
    [prefix_bit(addr), address_bit(addr)]
}

/// The bits that a range needs for one of its prefixes, of which `addr` is any address.
#[inline(always)]
pub const fn bits_of_prefix(addr: Addr) -> [u32; 2] {
    [prefix_bit(addr), PREFIX_BITS + prefix_bit(addr)]
}

/// The same for all addresses of one /24 (IPv4) or /64 (IPv6).
#[inline(always)]
const fn prefix_bit(addr: Addr) -> u32 {
    let [a, b, _, d] = addr.words();
    let mixed = if addr.is_v4() {
        (u32::from_be(d) >> 8).wrapping_mul(MIX[0])
    } else {
        (u32::from_be(a).wrapping_mul(MIX[1]) ^ u32::from_be(b)).wrapping_mul(MIX[0])
    };
    mixed >> 16
}

#[inline(always)]
const fn address_bit(addr: Addr) -> u32 {
    let [a, b, c, d] = addr.words();
    let high = (u32::from_be(a).wrapping_mul(MIX[1]) ^ u32::from_be(b)).wrapping_mul(MIX[2]);
    let mixed = ((high ^ u32::from_be(c)).wrapping_mul(MIX[1]) ^ u32::from_be(d)).wrapping_mul(MIX[0]);
    2 * PREFIX_BITS + (mixed >> (32 - ADDRESS_SHIFT))
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
    use std::collections::HashSet;

    struct Set(HashSet<u32>);

    impl Bits for Set {
        fn is_set(&self, bit: u32) -> bool {
            self.0.contains(&bit)
        }
    }

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_owned_address_leaves_its_neighbours_alone() {
        let owned = ["192.0.2.1", "fd00:10:96::1"].map(addr);
        let filter = Set(owned.iter().flat_map(|addr| bits_of_address(*addr)).collect());
        assert!(owned.iter().all(|addr| may_own(&filter, *addr)));
        for other in ["192.0.2.2", "192.0.2.254", "192.0.3.1", "fd00:10:96::2", "fd00:10:97::1"] {
            assert!(!may_own(&filter, addr(other)), "{other}");
        }
    }

    #[test]
    fn a_range_covers_the_whole_of_its_prefixes() {
        let filter = Set(["10.96.3.0", "fd00:10:96::"]
            .into_iter()
            .flat_map(|any| bits_of_prefix(addr(any)))
            .collect());
        for inside in ["10.96.3.1", "10.96.3.254", "fd00:10:96::1", "fd00:10:96::ffff:1"] {
            assert!(may_own(&filter, addr(inside)), "{inside}");
        }
        for outside in ["10.96.4.1", "fd00:10:97::1"] {
            assert!(!may_own(&filter, addr(outside)), "{outside}");
        }
    }

    #[test]
    fn bits_spread_and_each_part_keeps_to_itself() {
        let ip = |index: u32| Addr::from(IpAddr::V4((0x0a60_0000 + index).into()));
        let prefixes: HashSet<u32> = (0..4096).map(|block| prefix_bit(ip(block << 8))).collect();
        assert!(prefixes.len() > 3900, "only {} bits for 4096 prefixes", prefixes.len());
        let addresses: HashSet<u32> = (0..10_000).map(|index| address_bit(ip(index))).collect();
        assert!(addresses.len() > 9_500, "only {} bits for 10000 addresses", addresses.len());
        assert!(prefixes.iter().all(|bit| *bit < PREFIX_BITS));
        assert!(addresses.iter().all(|bit| (2 * PREFIX_BITS..PORTS).contains(bit)));
        let ports: HashSet<u32> =
            (0..=u16::MAX).map(|port| bit_of_port(Port::new(port), Proto::TCP)).collect();
        assert!(ports.len() == 1 << 16 && ports.iter().all(|bit| (PORTS..BITS).contains(bit)));
    }

    #[test]
    fn a_port_of_one_protocol_says_nothing_of_another() {
        let [dns, vxlan] = [53, 8472].map(Port::new);
        let filter = Set(HashSet::from([bit_of_port(dns, Proto::UDP)]));
        assert!(may_serve(&filter, dns, Proto::UDP));
        for other in [(dns, Proto::TCP), (dns, Proto::SCTP), (vxlan, Proto::UDP)] {
            assert!(!may_serve(&filter, other.0, other.1), "{other:?}");
        }
    }
}
