//! The answer to a packet that nobody serves: an RST for TCP, "port unreachable" for all else, as the kernel of a host without
//! a listener would give them.

use super::checksum::of_sum;
use super::{Bytes, Headers};
use crate::addr::Proto;

/// Words of an answer at most: an IPv6 header, one of ICMP, and the quote.
pub const WORDS: usize = 36;
/// Bytes of an answer at most.
pub const BYTES: u32 = WORDS as u32 * 4;
/// Words of the quote at most; longer chains of IPv6 headers are quoted in part.
const QUOTE: u32 = 24;
/// Bytes of a segment that are quoted at least (RFC 792).
const QUOTED_SEGMENT: u32 = 8;
/// Hops that an answer may go.
const TTL: u32 = 64;

const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
const ACK: u32 = 16;

/// An answer: an IP packet, word by word as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its words; those beyond its length are of no meaning.
    pub words: [u32; WORDS],
    /// How many words it has.
    pub length: u32,
}

impl Answer {
    /// None yet.
    pub const EMPTY: Self = Self { words: [0; WORDS], length: 0 };

    #[inline(always)]
    fn set(&mut self, word: u32, value: u32) {
        self.put(word, value.to_be());
    }

    #[inline(always)]
    fn put(&mut self, word: u32, value: u32) {
        if let Some(place) = self.words.get_mut(word as usize) {
            *place = value;
        }
    }

    /// Writes the IP header for a segment of so many words of this protocol, and says where that begins. All words after it
    /// are zero, so that sums need not know how long the answer is.
    #[inline(always)]
    fn header(&mut self, headers: &Headers, proto: Proto, segment: u32) -> u32 {
        let mut index = 0;
        while index < WORDS {
            self.words[index] = 0;
            index += 1;
        }
        let (src, dst) = (headers.dst.words(), headers.src.words());
        if headers.is_v4 {
            self.length = 5 + segment;
            self.set(0, 0x4500_0000 + self.length * 4);
            self.set(1, 0x4000);
            self.set(2, (TTL << 24) | ((proto.0 as u32) << 16));
            (self.words[3], self.words[4]) = (src[3], dst[3]);
            self.words[2] |= at_second_half(of_sum(self.sum::<0>()));
            return 5;
        }
        self.length = 10 + segment;
        self.set(0, 0x6000_0000);
        self.set(1, ((segment * 4) << 16) | ((proto.0 as u32) << 8) | TTL);
        let mut index = 0;
        while index < 4 {
            self.words[2 + index] = src[index];
            self.words[6 + index] = dst[index];
            index += 1;
        }
        10
    }

    /// The sum of all words from one on.
    #[inline(always)]
    fn sum<const FROM: usize>(&self) -> u64 {
        let mut sum = 0;
        let mut index = FROM;
        while index < WORDS {
            sum += self.words[index] as u64;
            index += 1;
        }
        sum
    }

    /// The checksum of a segment of so many words with its pseudo header, of which the addresses end the IP header.
    #[inline(always)]
    fn with_pseudo(&self, is_v4: bool, proto: Proto, segment: u32) -> u16 {
        let addresses_on = if is_v4 { self.sum::<3>() } else { self.sum::<2>() };
        of_sum(addresses_on + (segment * 4).to_be() as u64 + (proto.0 as u32).to_be() as u64)
    }
}

/// A half as the second of a word in memory.
#[inline(always)]
const fn at_second_half(half: u16) -> u32 {
    let [a, b] = half.to_ne_bytes();
    u32::from_ne_bytes([0, 0, a, b])
}

/// A half as the first of a word in memory.
#[inline(always)]
const fn at_first_half(half: u16) -> u32 {
    let [a, b] = half.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

/// Writes the answer to a packet; false: there is none, since the packet is an RST itself, is cut short, or is one part of a
/// datagram that has no ports.
#[inline(always)]
pub fn refuse<B: Bytes>(bytes: &B, headers: &Headers, answer: &mut Answer) -> bool {
    let is_written = match headers.proto {
        Proto::TCP => reset(bytes, headers, answer),
        Proto::UDP | Proto::SCTP if headers.has_ports() => unreachable(bytes, headers, answer),
        _ => None,
    };
    is_written.is_some()
}

/// RFC 9293, 3.10.7.1: what has an ACK is answered by its number, all else by its own end.
#[inline(always)]
fn reset<B: Bytes>(bytes: &B, headers: &Headers, answer: &mut Answer) -> Option<()> {
    let at = headers.segment;
    let sequence = u32::from_be(bytes.word(at + 4)?);
    let acknowledged = u32::from_be(bytes.word(at + 8)?);
    // Offset of the data, and flags, above the window.
    let flags = u32::from_be(bytes.word(at + 12)?) >> 16;
    if flags & RST != 0 {
        return None;
    }
    let data = total(bytes, headers)?.saturating_sub(at - headers.ip).saturating_sub((flags >> 12) * 4);
    let segment = answer.header(headers, Proto::TCP, 5);
    answer.set(segment, ((headers.dst_port.get() as u32) << 16) | headers.src_port.get() as u32);
    let offset = 5 << 28;
    if flags & ACK != 0 {
        answer.set(segment + 1, acknowledged);
        answer.set(segment + 2, 0);
        answer.set(segment + 3, offset | (RST << 16));
    } else {
        let end = sequence.wrapping_add(data).wrapping_add((flags & SYN) >> 1).wrapping_add(flags & FIN);
        answer.set(segment + 1, 0);
        answer.set(segment + 2, end);
        answer.set(segment + 3, offset | ((RST | ACK) << 16));
    }
    let checksum = answer.with_pseudo(headers.is_v4, Proto::TCP, 5);
    answer.put(segment + 4, at_first_half(checksum));
    Some(())
}

/// Bytes of a packet, by its header.
#[inline(always)]
fn total<B: Bytes>(bytes: &B, headers: &Headers) -> Option<u32> {
    Some(if headers.is_v4 {
        u16::from_be(bytes.half(headers.ip + 2)?) as u32
    } else {
        u16::from_be(bytes.half(headers.ip + 4)?) as u32 + 40
    })
}

/// RFC 792 and RFC 4443, 3.1: port unreachable.
#[inline(always)]
fn unreachable<B: Bytes>(bytes: &B, headers: &Headers, answer: &mut Answer) -> Option<()> {
    let quoted = (headers.segment + QUOTED_SEGMENT - headers.ip) / 4;
    let quoted = if quoted > QUOTE { QUOTE } else { quoted };
    let (proto, kind) = if headers.is_v4 { (Proto::ICMP, 0x0303) } else { (Proto::ICMPV6, 0x0104) };
    let segment = answer.header(headers, proto, 2 + quoted);
    answer.set(segment, kind << 16);
    let mut index = 0;
    while index < QUOTE {
        if index < quoted {
            answer.put(segment + 2 + index, bytes.word(headers.ip + 4 * index)?);
        }
        index += 1;
    }
    let checksum =
        if headers.is_v4 { of_sum(answer.sum::<5>()) } else { answer.with_pseudo(false, proto, 2 + quoted) };
    answer.put(segment, (kind << 16).to_be() | at_second_half(checksum));
    Some(())
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
