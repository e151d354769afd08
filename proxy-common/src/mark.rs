//! Marks of flows: most packets belong to no flow, and one byte says so before any table is asked.
//!
//! Both ends of a packet give a place among the marks, whichever of the two sends. Whoever makes a record leaves the number of
//! the sweep's round there, and each round of the sweep leaves its own for every record that lives. So a mark that is older
//! than two rounds proves that there is no flow, and nobody ever has to clear one. Two flows may share a place: a fresh mark
//! proves nothing. (A round may miss a record: where the kernel's walk through a hash pauses, it goes on by counting, and what
//! was removed meanwhile makes it skip others.)

use crate::flow::End;

/// Marks, a power of two; one byte each.
pub const MARKS: u32 = 1 << 20;

/// The one value of `MARKS`, memory-mapped: the agent counts the rounds. What every packet reads and what every new flow writes
/// lie in cache lines of their own.
#[repr(C)]
#[derive(Debug)]
pub struct Marks {
    /// Number of the last round of the sweep that has begun.
    pub round: u32,
    /// Zero.
    pub pad: u32,
    /// When a record was last put apart ([`crate::flow::Flow::APART`]), in nanoseconds of the kernel's monotonic clock; zero
    /// while there are none. Set before the record is there, and taken back by a sweep that finds none.
    pub apart: u64,
    /// When the last flow of [`crate::flow::Flow::DIRECT`] was made; handled as `apart` is.
    pub direct: u64,
    /// Zero.
    pub rest: [u64; 5],
    /// Flows in the main table that are not settled, as far as is known: programs count, and each sweep counts anew.
    pub opening: u64,
    /// Zero.
    pub rest_of_line: [u64; 7],
    /// One mark a place.
    pub marks: [u8; MARKS as usize],
}

/// Where [`Marks::apart`] is, in words of eight bytes.
pub const APART_WORD: usize = core::mem::offset_of!(Marks, apart) / 8;
/// Where [`Marks::direct`] is.
pub const DIRECT_WORD: usize = core::mem::offset_of!(Marks, direct) / 8;
/// Where [`Marks::opening`] is.
pub const OPENING_WORD: usize = core::mem::offset_of!(Marks, opening) / 8;

/// Where [`Marks::marks`] begins, in bytes.
pub const MARKS_BYTE: usize = core::mem::offset_of!(Marks, marks);

/// Marks of one cache line.
const LINE: u32 = 64;

/// The place of a pair of ends, in either order. A client takes one port after the other: so many that follow each other lie in
/// one line, or each new connection would wait for memory twice.
#[inline(always)]
pub const fn place(one: &End, other: &End) -> u32 {
    let hash = mixed(one).wrapping_add(mixed(other)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    let first = hash as u32 & (MARKS - 1);
    let within = first.wrapping_add(one.port.get() as u32).wrapping_add(other.port.get() as u32) % LINE;
    first / LINE * LINE + within
}

#[inline(always)]
const fn mixed(end: &End) -> u64 {
    let (high, low) = end.addr.halves();
    let ports = end.port.get() as u64 / LINE as u64;
    let mixed = (high ^ ports).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ low;
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 32)
}

/// The mark of a round: never zero, which is no round's.
#[inline(always)]
pub const fn of_round(round: u32) -> u8 {
    (round % 255) as u8 + 1
}

/// Whether a mark is of this round or one of the two before.
#[inline(always)]
pub const fn is_fresh(mark: u8, round: u32) -> bool {
    // Rounds are marked by 1 to 255, in a ring.
    let age = of_round(round) as u32 + 255 - mark as u32;
    mark != 0 && age % 255 <= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Port;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    fn end(address: u32, port: u16) -> End {
        End::new(Ipv4Addr::from(address).into(), Port::new(port))
    }

    #[test]
    fn both_directions_have_one_place() {
        let (one, other) = (end(0x0a00_0001, 80), end(0xc000_0201, 40_000));
        assert_eq!(place(&one, &other), place(&other, &one));
        assert_ne!(place(&one, &other), place(&one, &end(0xc000_0201, 40_001)));
    }

    #[test]
    fn places_spread_over_ports_and_addresses() {
        let backend = end(0x0af4_0102, 8080);
        let ports: HashSet<u32> =
            (0..50_000_u16).map(|port| place(&backend, &end(0xcb00_7107, port))).collect();
        // Of 50 000 thrown into 2^20 places, about 1 170 share one.
        assert!((48_000..50_000).contains(&ports.len()), "{}", ports.len());
        let clients: HashSet<u32> =
            (0..50_000).map(|host| place(&backend, &end(0xcb00_0000 + host, 40_000))).collect();
        assert!((48_000..50_000).contains(&clients.len()), "{}", clients.len());
        assert!(ports.iter().chain(&clients).all(|place| *place < MARKS));
        let lines: HashSet<u32> = ports.iter().map(|place| place / LINE).collect();
        assert!(lines.len() <= 50_000_usize.div_ceil(64), "neighbours lie in one line: {}", lines.len());
    }

    #[test]
    fn a_mark_lasts_for_its_round_and_two_more() {
        for round in [0, 1, 2, 253, 254, 255, 256, 1_000_000] {
            let mark = of_round(round);
            assert!((0..=2).all(|later| is_fresh(mark, round + later)));
            assert!((3..250).all(|later| !is_fresh(mark, round + later)));
            assert!(!is_fresh(0, round));
        }
    }
}
