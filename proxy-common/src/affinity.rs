//! ClientIP session affinity: which backend a client was given last, shared by all frontends of a service port and by
//! all paths that a client may come by.
//!
//! Source of the rules: `spec.sessionAffinity` of a Service as kube-proxy means it. The key is the client's address
//! before any SNAT; the timeout slides, renewed by each new connection; a memory never overrides a policy.

use crate::addr::Addr;
use crate::backend::{join, split};

/// Key of `AFFINITY`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// Index of the service's cell, which stands for one port and one family.
    pub service: u32,
    /// The client's address, or what stands for it, see [`crate::registry::stand_in`].
    pub client: Addr,
}

/// Value of `AFFINITY`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Id of the backend's row and its generation in one word, since programs of several CPUs write it in place.
    row: u64,
    /// When the client last began a connection: nanoseconds of the kernel's monotonic clock.
    pub used: u64,
}

impl Memory {
    /// A client was given row `backend` of this generation at `used`.
    #[inline(always)]
    pub const fn new(backend: u32, generation: u32, used: u64) -> Self {
        Self { row: join(backend, generation), used }
    }

    /// From the two words as stored.
    #[inline(always)]
    pub const fn from_words([row, used]: [u64; 2]) -> Self {
        Self { row, used }
    }

    /// The two words as stored.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; 2] {
        [self.row, self.used]
    }

    /// Id of the backend's row.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        split(self.row).0
    }

    /// Generation of the row at that time.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        split(self.row).1
    }

    /// Whether the memory is younger than `seconds`. The clocks of two CPUs may differ: one from just ahead is young.
    #[inline(always)]
    pub const fn is_fresh(&self, now: u64, seconds: u32) -> bool {
        now.saturating_sub(self.used) <= seconds as u64 * 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_keeps_its_words_and_ages() {
        let memory = Memory::new(7, 9, 5_000_000_000);
        assert_eq!(Memory::from_words(memory.to_words()), memory);
        assert_eq!((memory.backend(), memory.generation()), (7, 9));
        assert!(memory.is_fresh(8_000_000_000, 3) && !memory.is_fresh(8_000_000_001, 3));
        assert!(memory.is_fresh(4_999_999_999, 1), "another CPU's clock may be behind");
    }
}
