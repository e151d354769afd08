//! Addresses, ports and protocols: the only place where byte order is converted.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as 16 bytes in network order; IPv4 is held IPv4-mapped (`::ffff:a.b.c.d`), so that
/// one key type and one code path serve both families.
#[repr(transparent)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// Four words whose bytes in memory are the address.
    words: [u32; 4],
}

const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// `::`, which in a frontend key stands for "any IPv6 address of this node".
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `0.0.0.0`, which in a frontend key stands for "any IPv4 address of this node".
    pub const UNSPECIFIED_V4: Self = Self { words: [0, 0, MAPPED, 0] };

    /// An IPv4 address from the word the kernel gives (`user_ip4`: network order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// An address from the four words the kernel gives (`user_ip6`: network order).
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The four words, each in network order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The address as two numbers, to be mixed or compared.
    #[inline(always)]
    pub(crate) const fn halves(self) -> (u64, u64) {
        let [a, b, c, d] = self.words;
        (((a as u64) << 32) | b as u64, ((c as u64) << 32) | d as u64)
    }

    /// The IPv4 word in network order; meaningful only where [`Addr::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether this is 127.0.0.0/8 or `::1`.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words[3]) >> 24 == 127
        } else {
            self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.words[3] == 1_u32.to_be()
        }
    }

    /// Whether this is `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.words;
        a == 0 && b == 0 && (c == 0 || c == MAPPED) && d == 0
    }

    /// The unspecified address of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn to_unspecified(self) -> Self {
        if self.is_v4() { Self::UNSPECIFIED_V4 } else { Self::UNSPECIFIED }
    }

    /// The standard library's form; IPv4-mapped becomes IPv4.
    pub const fn to_ip(self) -> IpAddr {
        let [a, b, c, d] = self.words;
        let wide = (u32::from_be(a) as u128) << 96
            | (u32::from_be(b) as u128) << 64
            | (u32::from_be(c) as u128) << 32
            | u32::from_be(d) as u128;
        Ipv6Addr::from_bits(wide).to_canonical()
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        let bits = ip.to_bits();
        Self {
            words: [
                ((bits >> 96) as u32).to_be(),
                ((bits >> 64) as u32).to_be(),
                ((bits >> 32) as u32).to_be(),
                (bits as u32).to_be(),
            ],
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(out)
    }
}

/// A port in network byte order. Zero stands for "any port" in the key of an owned VIP.
#[repr(transparent)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// The port of an owned VIP's own entry.
    pub const ANY: Self = Self(0);

    /// From host order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From network order, as the kernel hands it out.
    #[inline(always)]
    pub const fn from_be(port: u16) -> Self {
        Self(port)
    }

    /// In network order.
    #[inline(always)]
    pub const fn to_be(self) -> u16 {
        self.0
    }

    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IP protocol number.
#[repr(transparent)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proto(pub u8);

impl Proto {
    /// The protocol of an owned VIP's own entry.
    pub const ANY: Self = Self(0);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// ICMP, which only quotes what has frontends.
    pub const ICMP: Self = Self(1);
    /// ICMPv6, likewise.
    pub const ICMPV6: Self = Self(58);
}

impl fmt::Display for Proto {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => out.write_str("any"),
            Self::TCP => out.write_str("tcp"),
            Self::UDP => out.write_str("udp"),
            Self::SCTP => out.write_str("sctp"),
            Self(other) => write!(out, "proto-{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_in_network_order() {
        for text in ["10.96.0.1", "127.0.0.1", "fd00::1", "::1", "2001:db8:1:2:3:4:5:6"] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr::from(ip);
            assert_eq!(addr.to_ip(), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
            assert_eq!(addr.is_loopback(), ip.is_loopback());
            assert!(!addr.is_unspecified() && addr.to_unspecified().is_unspecified());
            assert_eq!(addr.to_unspecified().is_v4(), ip.is_ipv4());
        }
        let mapped: Addr = "10.96.0.1".parse::<Ipv4Addr>().unwrap().to_ipv6_mapped().into();
        assert_eq!(mapped, "10.96.0.1".parse::<Ipv4Addr>().unwrap().into());
    }

    #[test]
    fn ports_are_big_endian_in_memory() {
        assert_eq!(Port::new(80).to_be().to_ne_bytes(), [0, 80]);
        assert_eq!(Port::from_be(Port::new(80).to_be()).get(), 80);
    }
}
