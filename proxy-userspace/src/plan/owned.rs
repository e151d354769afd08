//! Which bits of the filter of owned addresses must be set, with a count of those who need each.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
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

/// Something that counts who needs which bits.
pub trait Tally {
    /// Counts one more for a bit.
    fn add(&mut self, bit: u32);
    /// Counts one less.
    fn remove(&mut self, bit: u32);
    /// How many ranges are so wide that every bit is set while there is one.
    fn everything(&mut self) -> &mut u32;

    /// Counts a frontend in, or a block of owned VIPs, which have no ports. NodePorts have no address of their own.
    fn add_frontend(&mut self, key: &FrontendKey) {
        bits_of_frontend(key).for_each(|bit| self.add(bit));
    }

    /// Counts a frontend or a block out.
    fn remove_frontend(&mut self, key: &FrontendKey) {
        bits_of_frontend(key).for_each(|bit| self.remove(bit));
    }

    /// Counts a node address in.
    fn add_addr(&mut self, addr: Addr) {
        for bit in filter::bits_of_address(addr) {
            self.add(bit);
        }
    }

    /// Counts a node address out.
    fn remove_addr(&mut self, addr: Addr) {
        for bit in filter::bits_of_address(addr) {
            self.remove(bit);
        }
    }

    /// Counts a range in, with bits for each of its prefixes.
    fn add_cidr(&mut self, key: &CidrKey) {
        match bits_of(key) {
            Some(bits) => bits.for_each(|bit| self.add(bit)),
            None => *self.everything() += 1,
        }
    }

    /// Counts a range out.
    fn remove_cidr(&mut self, key: &CidrKey) {
        match bits_of(key) {
            Some(bits) => bits.for_each(|bit| self.remove(bit)),
            None => *self.everything() = self.everything().saturating_sub(1),
        }
    }
}

/// Counts per bit of the filter, and the words that follow from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedBits {
    counts: Box<[u32]>,
    words: Box<[u64]>,
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
    /// What word `index` of the filter must be.
    pub fn word(&self, index: u32) -> u64 {
        if self.everything > 0 { u64::MAX } else { self.words.get(index as usize).copied().unwrap_or(0) }
    }

    /// The words that are not what they must be, in `words`; ascending.
    pub fn differing<'a>(&'a self, words: &'a [u64]) -> impl Iterator<Item = u32> + 'a {
        let is_wide = self.everything > 0;
        let pairs = self.words.iter().zip(words);
        let is_other = move |(must, is): (&u64, &u64)| if is_wide { *is != u64::MAX } else { must != is };
        (0..).zip(pairs).filter(move |(_, pair)| is_other(*pair)).map(|(index, _)| index)
    }
}

impl Tally for OwnedBits {
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

    fn everything(&mut self) -> &mut u32 {
        &mut self.everything
    }
}

/// What the bits would be after some changes: a few counts over many that stay as they are.
#[derive(Clone, Debug)]
pub struct OwnedTrial<'a> {
    base: &'a OwnedBits,
    counts: HashMap<u32, u32>,
    /// Words in which a bit was counted, sorted so that what is planned does not depend on hashes.
    words: BTreeMap<u32, u64>,
    everything: u32,
}

impl<'a> OwnedTrial<'a> {
    /// Nothing has changed yet.
    pub fn new(base: &'a OwnedBits) -> Self {
        Self { base, counts: HashMap::new(), words: BTreeMap::new(), everything: base.everything }
    }

    /// What word `index` of the filter would have to be.
    pub fn word(&self, index: u32) -> u64 {
        if self.everything > 0 {
            return u64::MAX;
        }
        let base = || self.base.words.get(index as usize).copied().unwrap_or(0);
        self.words.get(&index).copied().unwrap_or_else(base)
    }

    /// The words of the filter that may have to be stored if they are `words` now; ascending.
    pub fn candidates(&self, words: &[u64]) -> Vec<u32> {
        if self.everything != self.base.everything {
            return (0..filter::WORDS).collect();
        }
        let mut all: Vec<u32> = self.words.keys().copied().chain(self.base.differing(words)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn change(&mut self, bit: u32, change: impl FnOnce(u32) -> u32) {
        let (index, mask) = filter::position(bit);
        let count = self.counts.entry(bit).or_insert(self.base.counts[bit as usize]);
        *count = change(*count);
        let word = self.words.entry(index).or_insert(self.base.words[index as usize]);
        *word = if *count == 0 { *word & !mask } else { *word | mask };
    }
}

impl Tally for OwnedTrial<'_> {
    fn add(&mut self, bit: u32) {
        self.change(bit, |count| count + 1);
    }

    fn remove(&mut self, bit: u32) {
        self.change(bit, |count| count.saturating_sub(1));
    }

    fn everything(&mut self) -> &mut u32 {
        &mut self.everything
    }
}

fn bits_of_frontend(key: &FrontendKey) -> impl Iterator<Item = u32> + use<> {
    let of_address =
        if key.is_owned_vip() { filter::bits_of_prefix(key.addr) } else { filter::bits_of_address(key.addr) };
    let has_address = !key.addr.is_unspecified();
    let of_port = (!key.is_owned_vip()).then(|| filter::bit_of_port(key.port, key.proto));
    of_address.into_iter().filter(move |_| has_address).chain(of_port)
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
        let address = move |index: u32| Addr::from_v4_word(((first + index) << shift).to_be());
        return Some(Box::new((0..prefixes).flat_map(move |index| filter::bits_of_prefix(address(index)))));
    }
    let [a, b, ..] = key.addr.words();
    // A range that holds the mapped IPv4 addresses holds all of IPv4.
    if key.prefix_len < V6_SHORTEST || (a == 0 && b == 0) {
        return None;
    }
    let prefixes = 1_u32 << u32::from(V6_PREFIX).saturating_sub(key.prefix_len);
    let first = u32::from_be(b) & !(prefixes - 1);
    let address = move |index: u32| Addr::from_words([a, (first + index).to_be(), 0, 0]);
    Some(Box::new((0..prefixes).flat_map(move |index| filter::bits_of_prefix(address(index)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::addr::{Port, Proto};
    use std::net::IpAddr;

    struct Words<'a>(&'a dyn Fn(u32) -> u64);

    impl filter::Bits for Words<'_> {
        fn is_set(&self, bit: u32) -> bool {
            let (word, mask) = filter::position(bit);
            (self.0)(word) & mask != 0
        }
    }

    type Change<'a> = &'a dyn Fn(&mut dyn Tally);

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn has(bits: &OwnedBits, text: &str) -> bool {
        filter::may_own(&Words(&|index| bits.word(index)), addr(text))
    }

    #[test]
    fn a_bit_stays_while_somebody_needs_it() {
        let mut bits = OwnedBits::default();
        bits.add_addr(addr("192.0.2.1"));
        bits.add_addr(addr("192.0.2.1"));
        assert!(!has(&bits, "192.0.2.77"), "a neighbour");
        bits.remove_addr(addr("192.0.2.1"));
        assert!(has(&bits, "192.0.2.1"));
        bits.remove_addr(addr("192.0.2.1"));
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
    fn a_block_of_owned_vips_is_covered_whole() {
        let mut bits = OwnedBits::default();
        for vip in ["10.96.3.7", "fd00:10:96::7"] {
            let block = FrontendKey::owned_block(addr(vip));
            bits.add_frontend(&block);
            assert!(has(&bits, vip) && has(&bits, vip.replace('7', "9").as_str()));
            bits.remove_frontend(&block);
        }
        assert_eq!(bits, OwnedBits::default());
    }

    #[test]
    fn a_node_port_needs_the_bit_of_its_port_alone() {
        let (port, proto) = (Port::new(30_080), Proto::UDP);
        for any in [Addr::UNSPECIFIED, Addr::UNSPECIFIED_V4] {
            let mut bits = OwnedBits::default();
            bits.add_frontend(&FrontendKey::owned_vip(any));
            assert_eq!(bits, OwnedBits::default());
            let key = FrontendKey::node_port(any, port, proto);
            bits.add_frontend(&key);
            let set: u32 = (0..filter::WORDS).map(|index| bits.word(index).count_ones()).sum();
            assert_eq!(set, 1);
            assert!(filter::may_serve(&Words(&|index| bits.word(index)), port, proto));
            bits.remove_frontend(&key);
            assert_eq!(bits, OwnedBits::default());
        }
    }

    #[test]
    fn a_trial_says_what_the_same_changes_come_to() {
        let wide = CidrKey { prefix_len: 96 + 4, addr: addr("10.0.0.0") };
        let narrow = CidrKey { prefix_len: 96 + 20, addr: addr("10.96.0.0") };
        let [one, two] = ["192.0.2.1", "2001:db8::1"].map(addr);
        let mut base = OwnedBits::default();
        base.add_addr(one);
        base.add_cidr(&narrow);
        let changes: [Change<'_>; 5] = [
            &|bits| bits.add_addr(two),
            &|bits| bits.remove_addr(one),
            &|bits| bits.remove_cidr(&narrow),
            &|bits| bits.add_cidr(&wide),
            &|bits| bits.remove_cidr(&wide),
        ];
        let before: Vec<u64> = (0..filter::WORDS).map(|index| base.word(index)).collect();
        let (mut trial, mut real) = (OwnedTrial::new(&base), base.clone());
        for change in changes {
            change(&mut trial);
            change(&mut real);
            let differing: Vec<u32> = real.differing(&before).collect();
            let candidates = trial.candidates(&before);
            assert!(differing.iter().all(|index| candidates.contains(index)));
            assert!((0..filter::WORDS).all(|index| trial.word(index) == real.word(index)));
        }
    }
}
