//! `loadBalancerSourceRanges` in the maps: which clients the frontends of a service port that check them let in.

use crate::addr::Addr;
use crate::node::CidrKey;

/// Key of `SOURCES`, a longest-prefix-match trie: a range of one service port, in the form the kernel wants. Its value is 1.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    /// Bits that count, 32 to 160: all of the service, then those of the range; an IPv4 range has 96 more than its own
    /// prefix length.
    pub prefix_len: u32,
    /// The service's cell. All of it always counts, so that its byte order does not.
    pub service: u32,
    /// First address of the range.
    pub addr: Addr,
}

impl SourceKey {
    /// Bits of the service.
    pub const SERVICE_BITS: u32 = 32;
    /// Bits of a single client.
    pub const CLIENT_BITS: u32 = Self::SERVICE_BITS + 128;

    /// The key of a range of a service.
    pub const fn new(service: u32, range: CidrKey) -> Self {
        Self { prefix_len: Self::SERVICE_BITS + range.prefix_len, service, addr: range.addr }
    }

    /// The range.
    pub const fn range(&self) -> CidrKey {
        CidrKey { prefix_len: self.prefix_len.saturating_sub(Self::SERVICE_BITS), addr: self.addr }
    }

    /// The key that one client of a service is looked up by.
    #[inline(always)]
    pub const fn client(service: u32, addr: Addr) -> Self {
        Self { prefix_len: Self::CLIENT_BITS, service, addr }
    }
}
