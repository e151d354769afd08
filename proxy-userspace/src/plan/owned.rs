//! Which bits of the filter of owned ranges must be set, with a count of those who need each.

use proxy_common::addr::Addr;
use proxy_common::filter::{self, V4_PREFIX, V6_PREFIX};
use proxy_common::frontend::FrontendKey;
use proxy_common::node::CidrKey;

/// Bits by which an IPv4 range is longer in a [`CidrKey`] than in its own notation.
const V4_OFFSET: u32 = 96;
/// Shortest IPv4 prefix whose bits are counted one by one.
const V4_SHORTEST: u32 = 8;
/// Shortest IPv6 prefix whose bits are counted one by one.
const V6_SHORTEST: u32 = 48;

/// Counts per bit of the filter, and the words that follow from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedBits {
    counts: Box<[u32]>,
    words: Box<[u64]>,
    /// Ranges so wide that every bit is set while there is one.
    everything: u32,
}

impl Default for OwnedBits {
    fn default() -> Self {
        Self {
            counts: vec![0; filter::BITS as usize].into(),
            words: vec![0; filter::WORDS as usize].into(),
            everything: 0,
        }
    }
}

impl OwnedBits {
    /// Counts a frontend in. NodePorts have no address of their own and need no bit.
    pub fn add_frontend(&mut self, key: &FrontendKey) {
        if !key.addr.is_unspecified() {
            self.add(filter::bit(key.addr));
        }
    }

    /// Counts a frontend out.
    pub fn remove_frontend(&mut self, key: &FrontendKey) {
        if !key.addr.is_unspecified() {
            self.remove(filter::bit(key.addr));
        }
    }

    /// Counts a node address in.
    pub fn add_addr(&mut self, addr: Addr) {
        self.add(filter::bit(addr));
    }

    /// Counts a node address out.
    pub fn remove_addr(&mut self, addr: Addr) {
        self.remove(filter::bit(addr));
    }

    /// Counts a range in, with a bit for each of its prefixes.
    pub fn add_cidr(&mut self, key: &CidrKey) {
        match bits_of(key) {
            Some(bits) => bits.for_each(|bit| self.add(bit)),
            None => self.everything += 1,
        }
    }

    /// Counts a range out.
    pub fn remove_cidr(&mut self, key: &CidrKey) {
        match bits_of(key) {
            Some(bits) => bits.for_each(|bit| self.remove(bit)),
            None => self.everything = self.everything.saturating_sub(1),
        }
    }

    /// What word `index` of the filter must be.
    pub fn word(&self, index: u32) -> u64 {
        if self.everything > 0 { u64::MAX } else { self.words.get(index as usize).copied().unwrap_or(0) }
    }

    fn add(&mut self, bit: u32) {
        let (word, mask) = filter::position(bit);
        self.counts[bit as usize] += 1;
        self.words[word as usize] |= mask;
    }

    fn remove(&mut self, bit: u32) {
        let (word, mask) = filter::position(bit);
        let count = &mut self.counts[bit as usize];
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.words[word as usize] &= !mask;
        }
    }
}

/// The bits of a range, or `None` if it is so wide that all are meant.
fn bits_of(key: &CidrKey) -> Option<Box<dyn Iterator<Item = u32>>> {
    if key.addr.is_v4() && key.prefix_len >= V4_OFFSET {
        let len = key.prefix_len - V4_OFFSET;
        if len < V4_SHORTEST {
            return None;
        }
        let shift = 32 - u32::from(V4_PREFIX);
        let prefixes = 1_u32 << u32::from(V4_PREFIX).saturating_sub(len);
        let first = (u32::from_be(key.addr.v4_word()) >> shift) & !(prefixes - 1);
        return Some(Box::new(
            (0..prefixes)
                .map(move |index| filter::bit(Addr::from_v4_word(((first + index) << shift).to_be()))),
        ));
    }
    let [a, b, ..] = key.addr.words();
    // A range that holds the mapped IPv4 addresses holds all of IPv4.
    if key.prefix_len < V6_SHORTEST || (a == 0 && b == 0) {
        return None;
    }
    let prefixes = 1_u32 << u32::from(V6_PREFIX).saturating_sub(key.prefix_len);
    let first = u32::from_be(b) & !(prefixes - 1);
    Some(Box::new(
        (0..prefixes).map(move |index| filter::bit(Addr::from_words([a, (first + index).to_be(), 0, 0]))),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn has(bits: &OwnedBits, text: &str) -> bool {
        let (word, mask) = filter::position(filter::bit(addr(text)));
        bits.word(word) & mask != 0
    }

    #[test]
    fn a_bit_stays_while_somebody_needs_it() {
        let mut bits = OwnedBits::default();
        bits.add_addr(addr("192.0.2.1"));
        bits.add_addr(addr("192.0.2.2"));
        bits.remove_addr(addr("192.0.2.1"));
        assert!(has(&bits, "192.0.2.77"));
        bits.remove_addr(addr("192.0.2.2"));
        assert_eq!(bits, OwnedBits::default());
    }

    #[test]
    fn every_prefix_of_a_range_is_covered() {
        for (range, len, inside) in [
            ("10.96.0.0", 96 + 12, ["10.96.0.1", "10.100.7.7", "10.111.255.255"]),
            ("10.96.3.128", 96 + 25, ["10.96.3.129", "10.96.3.200", "10.96.3.255"]),
            ("fd00:10:96::", 48, ["fd00:10:96::1", "fd00:10:96:7::1", "fd00:10:96:ffff::1"]),
            ("fd00:10:96::", 108, ["fd00:10:96::1", "fd00:10:96::f:1", "fd00:10:96::f:ffff"]),
            ("10.0.0.0", 96 + 7, ["10.0.0.1", "11.255.0.1", "10.7.7.7"]),
            ("fd00::", 32, ["fd00::1", "fd00:0:ffff::1", "fd00:0:1:2::1"]),
            ("::", 0, ["10.0.0.1", "fd00::1", "2001:db8::1"]),
        ] {
            let key = CidrKey { prefix_len: len, addr: addr(range) };
            let mut bits = OwnedBits::default();
            bits.add_cidr(&key);
            assert!(inside.iter().all(|text| has(&bits, text)), "{range}/{len}");
            bits.remove_cidr(&key);
            assert_eq!(bits, OwnedBits::default(), "{range}/{len}");
        }
    }

    #[test]
    fn a_node_port_needs_no_bit() {
        let mut bits = OwnedBits::default();
        for any in [Addr::UNSPECIFIED, Addr::UNSPECIFIED_V4] {
            bits.add_frontend(&FrontendKey::owned_vip(any));
        }
        assert_eq!(bits, OwnedBits::default());
    }
}
