//! Packets as most are: TCP or UDP, whole, right behind an IP header without options or extensions, and that behind one of Ethernet.
//!
//! All is where it always is. So one look at the packet's length will do for all of its headers, and a program that decides about
//! such a packet alone is compiled to half the code of one that does about any.

use super::{Fragment, Headers};
use crate::addr::{Addr, Port, Proto};

/// A packet of which at least so many bytes can be read as are asked for: [`V4_BYTES`] or [`V6_BYTES`].
pub trait Near {
    /// Two bytes, as they lie in memory; `at` is even.
    fn half(&self, at: u32) -> u16;
    /// Four bytes, as they lie in memory; `at` is even.
    fn word(&self, at: u32) -> u32;
}

/// Bytes of Ethernet, IPv4 and TCP.
pub const V4_BYTES: u32 = V4_SEGMENT + TCP;
/// Bytes of Ethernet, IPv6 and TCP.
pub const V6_BYTES: u32 = V6_SEGMENT + TCP;

/// Bytes of an Ethernet header, behind which that of IP begins.
const IP: u32 = 14;
const V4_SEGMENT: u32 = IP + 20;
const V6_SEGMENT: u32 = IP + 40;
const TCP: u32 = 20;
/// Version 4, and five words of header.
const PLAIN_V4: u16 = 0x45;
/// Bits of the IPv4 fragment word that a whole datagram has none of.
const PARTS: u16 = 0x3fff;

/// The headers of an IPv4 packet; `None`: it is no such packet. They are what [`super::parse`] reads.
#[inline(always)]
pub fn usual_v4<N: Near>(near: &N) -> Option<Headers> {
    let proto = Proto((u16::from_be(near.half(IP + 8)) & 0xff) as u8);
    if u16::from_be(near.half(IP)) >> 8 != PLAIN_V4 || u16::from_be(near.half(IP + 6)) & PARTS != 0 {
        return None;
    }
    let ends = (Addr::from_v4_word(near.word(IP + 12)), Addr::from_v4_word(near.word(IP + 16)));
    headers(near, ends, (V4_SEGMENT, proto))
}

/// The same of an IPv6 packet.
#[inline(always)]
pub fn usual_v6<N: Near>(near: &N) -> Option<Headers> {
    let proto = Proto((u16::from_be(near.half(IP + 6)) >> 8) as u8);
    let addr = |at: u32| Addr::from_words([0, 4, 8, 12].map(|word| near.word(at + word)));
    let ends = (addr(IP + 8), addr(IP + 24));
    if u16::from_be(near.half(IP)) >> 12 != 6 || ends.0.is_v4() || ends.1.is_v4() {
        return None;
    }
    headers(near, ends, (V6_SEGMENT, proto))
}

#[inline(always)]
fn headers<N: Near>(near: &N, (src, dst): (Addr, Addr), (segment, proto): (u32, Proto)) -> Option<Headers> {
    if !matches!(proto, Proto::TCP | Proto::UDP) {
        return None;
    }
    Some(Headers {
        ip: IP,
        segment,
        src,
        dst,
        src_port: Port::from_be(near.half(segment)),
        dst_port: Port::from_be(near.half(segment + 2)),
        proto,
        is_v4: segment == V4_SEGMENT,
        fragment: Fragment::Whole as u8,
        fragment_id: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::buffer::Buffer;
    use crate::packet::{Bytes, ETHER_IPV4, ETHER_IPV6, parse};
    use proptest::prelude::*;

    impl Near for Buffer {
        fn half(&self, at: u32) -> u16 {
            Bytes::half(self, at).expect("the caller has seen that it is there")
        }

        fn word(&self, at: u32) -> u32 {
            Bytes::word(self, at).expect("the caller has seen that it is there")
        }
    }

    /// What is read of it as a usual packet, and as any.
    fn both(bytes: Vec<u8>, is_v4: bool) -> (Option<Headers>, Option<Headers>) {
        let buffer = Buffer::new(bytes);
        let mut any = Headers::EMPTY;
        let (usual, kind) =
            if is_v4 { (usual_v4(&buffer), ETHER_IPV4) } else { (usual_v6(&buffer), ETHER_IPV6) };
        let is_read = parse(&buffer, IP, kind, &mut any);
        // Of a datagram that is whole, nobody asks which it is.
        any.fragment_id = 0;
        (usual, is_read.then_some(any))
    }

    proptest! {
        #[test]
        fn what_is_read_of_a_usual_packet_is_what_is_read_of_any(
            bytes in prop::collection::vec(any::<u8>(), V6_BYTES as usize..100),
            first in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x60), any::<u8>()],
            next in prop_oneof![Just(6_u8), Just(17), Just(44), any::<u8>()],
            (part, mapped) in (prop_oneof![Just(0_u16), Just(0x4000), Just(0x2000), any::<u16>()], 0..4_usize),
            is_v4 in any::<bool>(),
        ) {
            let mut bytes = bytes;
            bytes[14] = first;
            bytes[if is_v4 { 23 } else { 20 }] = next;
            if is_v4 {
                bytes[20..22].copy_from_slice(&part.to_be_bytes());
            } else if let Some(at) = [22, 38].get(mapped) {
                bytes[*at..at + 12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
            }
            let (usual, any) = both(bytes, is_v4);
            if usual.is_some() {
                prop_assert_eq!(usual, any);
            } else if let Some(any) = any {
                let segment = if is_v4 { V4_SEGMENT } else { V6_SEGMENT };
                let is_usual = any.segment == segment && matches!(any.proto, Proto::TCP | Proto::UDP);
                prop_assert!(!is_usual || any.fragment != Fragment::Whole as u8, "{:?}", any);
            }
        }
    }
}
