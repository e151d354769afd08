//! What the maps know of the node itself: its addresses, and the ranges that cluster IPs come from.

use crate::addr::Addr;

/// Value of `NODE_ADDRS`: flags of one address of the node.
#[repr(transparent)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeAddrFlags(pub u32);

impl NodeAddrFlags {
    /// NodePorts are served on this address.
    pub const NODE_PORT: Self = Self(1);
    /// The address is on an interface of the node.
    pub const LOCAL: Self = Self(2);

    /// Whether NodePorts are served on this address.
    #[inline(always)]
    pub const fn serves_node_ports(self) -> bool {
        self.0 & Self::NODE_PORT.0 != 0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A range in the form the kernel wants: a key of `CIDRS`, a longest-prefix-match trie, and part of those of `SOURCES`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CidrKey {
    /// Bits that count, 0 to 128; an IPv4 range has 96 more than its own prefix length.
    pub prefix_len: u32,
    /// First address of the range.
    pub addr: Addr,
}

#[cfg(feature = "user")]
impl CidrKey {
    /// The range with this first address and so many bits, as its family counts them. IPv4 ranges are held IPv4-mapped, which
    /// makes their prefix 96 bits longer.
    pub fn new(addr: Addr, own_bits: u8) -> Self {
        let mapped_bits = if addr.is_v4() { 96 } else { 0 };
        Self { prefix_len: u32::from(own_bits) + mapped_bits, addr }
    }

    /// Whether the range has an address.
    pub fn covers(&self, addr: Addr) -> bool {
        let number = |addr: Addr| {
            addr.words().iter().fold(0_u128, |sum, word| (sum << 32) | u128::from(u32::from_be(*word)))
        };
        let differs = number(self.addr) ^ number(addr);
        differs.checked_shr(128_u32.saturating_sub(self.prefix_len)).is_none_or(|rest| rest == 0)
    }
}

#[cfg(feature = "user")]
impl core::fmt::Display for CidrKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let own = if self.addr.is_v4() { self.prefix_len.saturating_sub(96) } else { self.prefix_len };
        write!(formatter, "{}/{own}", self.addr)
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn a_range_covers_its_addresses_and_no_others() {
        let addr = |text: &str| Addr::from(text.parse::<core::net::IpAddr>().unwrap());
        let v4 = CidrKey { prefix_len: 96 + 16, addr: addr("10.244.0.0") };
        assert!(
            v4.covers(addr("10.244.255.1")) && !v4.covers(addr("10.245.0.1")) && !v4.covers(addr("fd00::1"))
        );
        let v6 = CidrKey { prefix_len: 64, addr: addr("fd00:10:244:1::") };
        assert!(v6.covers(addr("fd00:10:244:1::ff")) && !v6.covers(addr("fd00:10:244:2::1")));
        let all = CidrKey { prefix_len: 0, addr: addr("::") };
        assert!(all.covers(addr("2001:db8::1")) && all.covers(addr("192.0.2.1")));
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("10.244.0.0/16".to_owned(), "fd00:10:244:1::/64".to_owned())
        );
    }
}
