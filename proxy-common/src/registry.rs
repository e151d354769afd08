//! The registry of network namespaces, and what hooks report to the agent.
//!
//! A hook sees a socket and not its packets, so it knows no source address. It knows the cookie of the socket's network
//! namespace; the agent finds out which addresses that has. Cookies are given out once in the life of a kernel.

use crate::addr::Addr;

/// Value of `NETNS`, whose key is the namespace's cookie.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its IPv4 address; `::` if it has none.
    pub v4: Addr,
    /// Its IPv6 address; `::` if it has none.
    pub v6: Addr,
    /// [`Namespace::PENDING`] or [`Namespace::KNOWN`].
    pub state: u64,
}

impl Namespace {
    /// A hook has reported the namespace; nobody has looked yet. Set by the hook, so that the next one is silent.
    pub const PENDING: u64 = 1;
    /// The addresses are those of the namespace. Set by the agent.
    pub const KNOWN: u64 = 2;

    /// Reported, and not looked at.
    pub const fn pending() -> Self {
        Self { v4: Addr::UNSPECIFIED, v6: Addr::UNSPECIFIED, state: Self::PENDING }
    }

    /// Its address of the family, if it is known and has one.
    #[inline(always)]
    pub fn address(&self, is_v4: bool) -> Option<Addr> {
        let address = if is_v4 { self.v4 } else { self.v6 };
        if self.state == Self::KNOWN && address != Addr::UNSPECIFIED { Some(address) } else { None }
    }
}

/// What stands for the address of a client as long as its namespace is not known: an address that no client has, since
/// 100::/64 is for discarding (RFC 6666).
#[inline(always)]
pub const fn stand_in(cookie: u64) -> Addr {
    Addr::from_words([0x0100_0000_u32.to_be(), 0, (cookie >> 32) as u32, cookie as u32])
}

/// A record of the `EVENTS` ring.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the namespace that the hook ran in.
    pub netns: u64,
    /// Process of the caller, as the initial PID namespace numbers it.
    pub tgid: u32,
    /// [`Event::UNKNOWN_NETNS`] or [`Event::GUARD_WANTED`].
    pub kind: u32,
}

impl Event {
    /// The registry does not hold the namespace.
    pub const UNKNOWN_NETNS: u32 = 1;
    /// A connection must time out, and the egress guard, which sees to that, is not in force.
    pub const GUARD_WANTED: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_namespace_has_addresses() {
        let v4 = Addr::from(core::net::IpAddr::from([10, 0, 0, 1]));
        let known = Namespace { v4, v6: Addr::UNSPECIFIED, state: Namespace::KNOWN };
        assert_eq!((known.address(true), known.address(false)), (Some(v4), None));
        assert_eq!(Namespace { state: Namespace::PENDING, ..known }.address(true), None);
    }

    #[test]
    fn stand_ins_differ_and_are_for_discarding() {
        assert_ne!(stand_in(1), stand_in(1 << 32));
        assert_eq!(stand_in(u64::MAX).to_ip().to_string(), "100::ffff:ffff:ffff:ffff");
    }
}
