//! Places of records: an IPv4 flow's record lies at the place that its key gives, in one cache line, if that is free.
//!
//! A hash table answers after it has read a bucket and three lines of an element, none of which is near when a connection begins. A
//! place is one line, and those of a client's next ports follow it. Who finds its place taken lies in the hash table (`FLOWS`), as
//! all of IPv6 does, and leaves a mark at the place: where there is none, or an old one (see [`crate::mark`]), nobody asks
//! there.
//!
//! A place is written by whoever has swapped its second word from free to busy, and has a record once that word says so. It
//! is not used again in the round of the sweep that has freed it: whoever was reading then is done by the next. Where a record is
//! written over by one of the same key, a packet of the same ends that comes at that moment may see both, as in the hash table.

use crate::addr::{Addr, Port, Proto};
use crate::flow::{End, Flow, FlowKey, Part};
use crate::mark;

/// Places, a power of two.
pub const PLACES: u32 = 1 << 18;

/// Ports of a client that have places one after the other.
const RUN: u32 = 64;

/// Words of a place.
pub const WORDS: usize = 8;

/// Value of `PLACES`, in words of eight bytes, each of them from its lowest bits on:
///
/// | word | has |
/// |---|---|
/// | 0 | source and destination address of the key |
/// | 1, [`OWNER`] | source and destination port, protocol, part; state |
/// | 2, [`VALUE`] | address and port of [`Flow::becomes`]; [`Flow::port`] |
/// | 3 | address and port of [`Flow::other`]; first half of [`Flow::mac`] |
/// | 4 | the other halves; [`Flow::service`] |
/// | 5 | [`Flow::backend`], [`Flow::generation`] |
/// | 6, [`USED`] | [`Flow::used`] |
/// | 7, [`FLAGS`] | [`Flow::flags`]; the mark of those that lie elsewhere, one byte; zero, one byte; when the last use was written, in ticks of the kernel's timer |
///
/// Addresses and ports are in network byte order.
#[repr(C, align(64))]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// As they lie in memory.
    pub words: [u64; WORDS],
}

/// The word that tells whose a place is, with its state.
pub const OWNER: usize = 1;
/// The first word that is no part of the key.
pub const VALUE: usize = 2;
/// The word of [`Flow::used`].
pub const USED: usize = 6;
/// The word of flags: in its lowest two bytes [`Flow::flags`], in the third the mark of those that lie elsewhere, in the upper half
/// a time.
pub const FLAGS: usize = 7;

/// Where the state begins in the word of the owner.
const STATE: u32 = 48;
/// A record lies there.
const LIVES: u64 = 1 << STATE;
/// Somebody is writing one.
const BUSY: u64 = 2 << STATE;
/// It was freed, in the round whose mark is the lower byte of the state.
const FREED: u64 = 0x100 << STATE;

/// A key as two words of a place, without a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Addresses.
    pub ends: u64,
    /// Ports, protocol and part.
    pub rest: u64,
}

impl Owner {
    /// Of a key; `None`: it is no IPv4 flow's.
    #[inline(always)]
    pub const fn new(key: &FlowKey) -> Option<Self> {
        if !key.src.addr.is_v4() || !key.dst.addr.is_v4() {
            return None;
        }
        let ends = key.src.addr.v4_word() as u64 | (key.dst.addr.v4_word() as u64) << 32;
        let ports = key.src.port.to_be() as u64 | (key.dst.port.to_be() as u64) << 16;
        Some(Self { ends, rest: ports | (key.proto.0 as u64) << 32 | (key.part as u64) << 40 })
    }

    /// The key.
    #[inline(always)]
    pub const fn key(self) -> FlowKey {
        let src = End::new(Addr::from_v4_word(self.ends as u32), Port::from_be(self.rest as u16));
        let dst =
            End::new(Addr::from_v4_word((self.ends >> 32) as u32), Port::from_be((self.rest >> 16) as u16));
        FlowKey { src, dst, proto: Proto((self.rest >> 32) as u8), part: (self.rest >> 40) as u8, pad: 0 }
    }

    /// The place of this key. A client takes one port after the other: so many that follow each other have places that do, or each new
    /// connection would wait for memory twice.
    #[inline(always)]
    pub const fn place(self) -> u32 {
        let [src, dst] = [self.rest as u16, (self.rest >> 16) as u16];
        // Of requests the source is the client's.
        let is_request = self.rest >> 40 & 0xff == Part::Forward as u64;
        let (client, fixed) = if is_request { (src, dst) } else { (dst, src) };
        let client = u16::from_be(client) as u64;
        let others = (self.rest >> 32) << 48 | (fixed as u64) << 32 | (client / RUN as u64);
        let mixed = self.ends.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ others;
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = (mixed >> 40) as u32 % PLACES;
        first / RUN * RUN + (first + client as u32) % RUN
    }

    /// The owner's word where its record lies there.
    #[inline(always)]
    pub const fn lives(self) -> u64 {
        self.rest | LIVES
    }

    /// The owner's word while it writes one.
    #[inline(always)]
    pub const fn busy(self) -> u64 {
        self.rest | BUSY
    }

    /// Whose record lies at a place of this word of the owner; `None`: nobody's.
    #[inline(always)]
    pub const fn of(ends: u64, owner: u64) -> Option<Self> {
        let is_there = owner >> STATE == LIVES >> STATE;
        if is_there { Some(Self { ends, rest: owner & (LIVES - 1) }) } else { None }
    }
}

/// The owner's word of a place that was freed in a round.
#[inline(always)]
pub const fn freed(round: u32) -> u64 {
    FREED | (mark::of_round(round) as u64) << STATE
}

/// Whether a place of this word of the owner may be used in a round.
#[inline(always)]
pub const fn is_free(owner: u64, round: u32) -> bool {
    owner == 0 || owner & FREED != 0 && owner != freed(round)
}

/// A record as words of a place, from [`VALUE`] on to [`USED`].
#[inline(always)]
pub const fn words(flow: &Flow) -> [u64; 5] {
    let Flow { becomes, other, mac, .. } = *flow;
    [
        becomes.addr.v4_word() as u64
            | (becomes.port.to_be() as u64) << 32
            | (flow.port.to_be() as u64) << 48,
        other.addr.v4_word() as u64 | (other.port.to_be() as u64) << 32 | (mac[0] as u64) << 48,
        mac[1] as u64 | (mac[2] as u64) << 16 | (flow.service as u64) << 32,
        flow.backend as u64 | (flow.generation as u64) << 32,
        flow.used,
    ]
}

/// The record of such words and flags.
#[inline(always)]
pub const fn flow(words: [u64; 5], flags: u16) -> Flow {
    let [becomes, other, mac, row, used] = words;
    let end = End::new(Addr::from_v4_word(other as u32), Port::from_be((other >> 32) as u16));
    Flow {
        becomes: End::new(Addr::from_v4_word(becomes as u32), Port::from_be((becomes >> 32) as u16)),
        other: if end.is_none() { End::NONE } else { end },
        service: (mac >> 32) as u32,
        backend: row as u32,
        generation: (row >> 32) as u32,
        port: Port::from_be((becomes >> 48) as u16),
        flags,
        used,
        mac: [(other >> 48) as u16, mac as u16, (mac >> 16) as u16],
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn end(address: u32, port: u16) -> End {
        End::new(Ipv4Addr::from(address).into(), Port::new(port))
    }

    fn any_end() -> impl Strategy<Value = End> {
        any::<(u32, u16)>().prop_map(|(address, port)| end(address, port))
    }

    proptest! {
        #[test]
        fn a_place_gives_back_what_was_laid_there(
            (src, dst, becomes, other) in (any_end(), any_end(), any_end(), prop_oneof![any_end(), Just(End::NONE)]),
            (part, proto) in (1..4_u8, any::<u8>()),
            (service, backend, generation) in any::<(u32, u32, u32)>(),
            (port, flags, mac, used) in any::<(u16, u16, [u16; 3], u64)>(),
        ) {
            let key = FlowKey { src, dst, proto: Proto(proto), part, pad: 0 };
            let owner = Owner::new(&key).unwrap();
            prop_assert_eq!(owner.key(), key);
            prop_assert_eq!(Owner::of(owner.ends, owner.lives()), Some(owner));
            prop_assert_eq!(Owner::of(owner.ends, owner.busy()), None);
            prop_assert!(owner.place() < PLACES);
            let port = Port::new(port);
            let laid = Flow { becomes, other, service, backend, generation, port, flags, used, mac, pad: 0 };
            let is_nobody = other.addr.is_unspecified() && other.port.get() == 0;
            let laid = Flow { other: if is_nobody { End::NONE } else { other }, ..laid };
            prop_assert_eq!(flow(words(&laid), flags), laid);
        }
    }

    #[test]
    fn others_have_no_place() {
        let of = |ip: Ipv6Addr| End::new(ip.into(), Port::new(80));
        let (v4, v6) = (end(1, 80), of(Ipv6Addr::LOCALHOST));
        for (src, dst) in [(v6, v6), (v4, v6), (v6, v4)] {
            assert_eq!(Owner::new(&FlowKey::new(Part::Forward, src, dst, Proto::TCP)), None);
        }
    }

    #[test]
    fn a_place_is_free_again_in_the_round_after_it_was_freed() {
        let owner = Owner::new(&FlowKey::new(Part::Reply, end(1, 80), end(2, 90), Proto::UDP)).unwrap();
        for round in [0, 1, 254, 255, 1_000_000] {
            assert!(is_free(0, round), "nobody was ever there");
            assert!(!is_free(owner.lives(), round) && !is_free(owner.busy(), round));
            assert!(!is_free(freed(round), round) && is_free(freed(round), round + 1));
            assert_eq!(Owner::of(owner.ends, freed(round)), None);
        }
    }

    #[test]
    fn ports_that_follow_each_other_have_places_that_do() {
        let (client, vip, backend) = (0xcb00_7107, end(0x0a60_0001, 30_080), end(0x0af4_0102, 8080));
        let forward = |port: u16| FlowKey::new(Part::Forward, end(client, port), vip, Proto::TCP);
        let reply = |port: u16| FlowKey::new(Part::Reply, backend, end(client, port), Proto::TCP);
        let place = |key: FlowKey| Owner::new(&key).unwrap().place();
        for key in [forward(0), reply(0)] {
            let client = |port| if key.part == Part::Forward as u8 { forward(port) } else { reply(port) };
            let run: Vec<u32> = (32_768..32_832).map(|port| place(client(port))).collect();
            let breaks = run.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
            assert!(breaks <= 1 && run.iter().all(|at| at / RUN == run[0] / RUN), "{run:?}");
        }
        // All that one client can have open to one backend through one frontend.
        let all = (32_768..61_000).flat_map(|port| [forward(port), reply(port)]);
        let places: HashSet<u32> = all.map(place).collect();
        assert!(places.len() > 50_000, "{} of 56 464 find a place", places.len());
    }

    #[test]
    fn clients_are_spread() {
        let vip = end(0x0a60_0001, 80);
        let of = |host: u32| FlowKey::new(Part::Forward, end(0xcb00_0000 + host, 40_000), vip, Proto::TCP);
        let places: HashSet<u32> = (0..50_000).map(|host| Owner::new(&of(host)).unwrap().place()).collect();
        // Of 50 000 thrown into 2^18 places, about 4 500 share one.
        assert!((45_000..46_500).contains(&places.len()), "{}", places.len());
    }
}
