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
