//! Owned VIPs: which cluster IPs some Service holds, so that a port that a VIP does not serve is refused, and an address
//! that nobody holds is not.
//!
//! One bit per address in blocks of 256 addresses. A block is an element of the `OWNED` chunked array, and the
//! `FRONTENDS` entry under [`crate::frontend::FrontendKey::owned_block`] names it. A hash entry per VIP would cost about
//! 100 bytes and a system call's share each; here a VIP of a dense range costs a bit and a store.

use crate::addr::Addr;

/// Addresses of a block: a /24 of IPv4, a /120 of IPv6.
pub const BLOCK_ADDRS: u32 = 256;
/// Words of a block.
pub const BLOCK_WORDS: usize = BLOCK_ADDRS as usize / 64;

/// The first address of the block that holds `addr`.
#[inline(always)]
pub const fn block(addr: Addr) -> Addr {
    let [a, b, c, d] = addr.words();
    Addr::from_words([a, b, c, d & !(BLOCK_ADDRS - 1).to_be()])
}

/// Word of the block, and mask in it, of `addr`'s bit.
#[inline(always)]
pub const fn position(addr: Addr) -> (usize, u64) {
    let [.., d] = addr.words();
    let index = u32::from_be(d) % BLOCK_ADDRS;
    ((index / 64) as usize, 1 << (index % 64))
}

/// The address of bit `index` of the block that starts at `first`.
#[inline(always)]
pub const fn address(first: Addr, index: u32) -> Addr {
    let [a, b, c, d] = first.words();
    Addr::from_words([a, b, c, d | (index % BLOCK_ADDRS).to_be()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn block_and_bit_make_the_address() {
        for text in ["10.96.3.0", "10.96.3.255", "10.96.3.64", "fd00:10:96::1234", "fd00::ff"] {
            let (word, mask) = position(addr(text));
            let index = word as u32 * 64 + mask.trailing_zeros();
            assert_eq!(address(block(addr(text)), index), addr(text), "{text}");
        }
        assert_eq!(block(addr("10.96.3.200")), addr("10.96.3.0"));
        assert_eq!(block(addr("fd00::12ff")), addr("fd00::1200"));
        assert_ne!(block(addr("10.96.3.200")), block(addr("10.96.4.200")));
    }
}
