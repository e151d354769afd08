//! Packets are built, and looked at afterwards, by etherparse: nothing here is both sides of a comparison.

use std::net::IpAddr;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;

use super::buffer::Buffer;
use super::quoted::{quoted, rewrite_quoted};
use super::{ETHER_IPV4, ETHER_IPV6, Fragment, Headers, Side, parse, rewrite};
use crate::addr::{Addr, Port, Proto};
use crate::shortcut::take_hop;

const ETHERNET: u32 = 14;

/// One end of a packet.
type End = (IpAddr, u16);

fn end((addr, port): End) -> (Addr, Port) {
    (addr.into(), Port::new(port))
}

fn ether_type(is_v4: bool) -> u16 {
    if is_v4 { ETHER_IPV4 } else { ETHER_IPV6 }
}

/// A packet from one end to the other.
fn packet((from, to): (End, End), is_tcp: bool, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 20),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 20),
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    if is_tcp {
        ip.tcp(from.1, to.1, 7, 1_000).ack(9).write(&mut bytes, payload).unwrap();
    } else {
        ip.udp(from.1, to.1).write(&mut bytes, payload).unwrap();
    }
    bytes
}

/// The ends that etherparse sees; every checksum must be right, but for one of UDP that is not there.
fn ends(bytes: &[u8]) -> Result<(End, End), String> {
    let parsed = PacketHeaders::from_ethernet_slice(bytes).map_err(|error| error.to_string())?;
    let payload = parsed.payload.slice();
    let net = parsed.net.ok_or("no IP header")?;
    let transport = parsed.transport.ok_or("no transport")?;
    let (from, to): (IpAddr, IpAddr) = match &net {
        NetHeaders::Ipv4(header, _) => {
            same("IPv4", header.header_checksum, header.calc_header_checksum())?;
            (header.source.into(), header.destination.into())
        }
        NetHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        NetHeaders::Arp(_) => return Err("ARP".to_owned()),
    };
    match (&net, transport) {
        (NetHeaders::Ipv4(header, _), TransportHeader::Udp(udp)) => {
            let right = udp.calc_checksum_ipv4(header, payload).unwrap();
            same("UDP", udp.checksum, if udp.checksum == 0 { 0 } else { right })?;
            Ok(((from, udp.source_port), (to, udp.destination_port)))
        }
        (NetHeaders::Ipv4(header, _), TransportHeader::Tcp(tcp)) => {
            same("TCP", tcp.checksum, tcp.calc_checksum_ipv4(header, payload).unwrap())?;
            Ok(((from, tcp.source_port), (to, tcp.destination_port)))
        }
        (NetHeaders::Ipv6(header, _), TransportHeader::Udp(udp)) => {
            same("UDP", udp.checksum, udp.calc_checksum_ipv6(header, payload).unwrap())?;
            Ok(((from, udp.source_port), (to, udp.destination_port)))
        }
        (NetHeaders::Ipv6(header, _), TransportHeader::Tcp(tcp)) => {
            same("TCP", tcp.checksum, tcp.calc_checksum_ipv6(header, payload).unwrap())?;
            Ok(((from, tcp.source_port), (to, tcp.destination_port)))
        }
        (_, other) => Err(format!("{other:?}")),
    }
}

fn same(what: &str, there: u16, right: u16) -> Result<(), String> {
    if there == right { Ok(()) } else { Err(format!("{what} checksum {there:#06x} instead of {right:#06x}")) }
}

fn any_addr(is_v4: bool) -> BoxedStrategy<IpAddr> {
    if is_v4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        // A mapped address is none of IPv6 here.
        let any = any::<[u8; 16]>().prop_map(|mut octets| {
            octets[0] |= 0x20;
            octets.into()
        });
        any.boxed()
    }
}

/// Three ends of one family, whether TCP, and a payload.
fn any_case() -> impl Strategy<Value = (bool, [End; 3], bool, Vec<u8>)> {
    let payload = prop::collection::vec(any::<u8>(), 0..80);
    (any::<bool>(), any::<[u16; 3]>(), any::<bool>(), payload).prop_flat_map(
        |(is_v4, ports, is_tcp, payload)| {
            let addrs = [any_addr(is_v4), any_addr(is_v4), any_addr(is_v4)];
            addrs.prop_map(move |addrs| {
                let ends = std::array::from_fn(|index| (addrs[index], ports[index]));
                (is_v4, ends, is_tcp, payload.clone())
            })
        },
    )
}

fn read(buffer: &Buffer, is_v4: bool) -> Option<Headers> {
    let mut headers = Headers::EMPTY;
    parse(buffer, ETHERNET, ether_type(is_v4), &mut headers).then_some(headers)
}

fn headers(buffer: &Buffer, is_v4: bool) -> Headers {
    read(buffer, is_v4).unwrap()
}

fn read_quoted(buffer: &Buffer, outer: &Headers) -> Option<Headers> {
    let mut inner = Headers::EMPTY;
    quoted(buffer, outer, &mut inner).then_some(inner)
}

/// The field of the checksum of a segment as a sender leaves it whose device fills it in: the pseudo header's sum.
fn leave_to_device(buffer: &mut Buffer, headers: &Headers) {
    let at = headers.checksum().unwrap();
    let mut bytes = buffer.bytes.clone();
    let segment = headers.segment as usize;
    let field = at as usize;
    let right = u16::from_ne_bytes([bytes[field], bytes[field + 1]]);
    // What is in the sum besides the segment: right = !(pseudo + segment), so pseudo = !right - segment.
    bytes[field] = 0;
    bytes[field + 1] = 0;
    let sum = sum(&bytes[segment..]);
    let pseudo = fold(u32::from(!right) + u32::from(!sum));
    buffer.bytes[field..field + 2].copy_from_slice(&pseudo.to_ne_bytes());
    buffer.partial = Some(at);
}

/// What a device does with it.
fn fill_in(buffer: &mut Buffer, headers: &Headers, is_udp: bool) {
    let at = buffer.partial.take().unwrap() as usize;
    let filled = !sum(&buffer.bytes[headers.segment as usize..]);
    let filled = if is_udp && filled == 0 { 0xffff } else { filled };
    buffer.bytes[at..at + 2].copy_from_slice(&filled.to_ne_bytes());
}

fn sum(bytes: &[u8]) -> u16 {
    let halves = bytes.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    halves.fold(0, |sum, half| fold(u32::from(sum) + u32::from(half)))
}

fn fold(sum: u32) -> u16 {
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or_else(|_| fold((sum & 0xffff) + (sum >> 16)))
}

proptest! {
    #[test]
    fn a_rewritten_packet_is_right_and_its_undoing_is_the_original(
        (is_v4, [client, vip, backend], is_tcp, payload) in any_case(),
        side in prop_oneof![Just(Side::Source), Just(Side::Destination)],
    ) {
        let original = Buffer::new(packet((client, vip), is_tcp, &payload));
        let (kept, changed) = if side == Side::Destination { (client, vip) } else { (vip, client) };
        let mut frame = original.clone();
        let before = headers(&frame, is_v4);
        prop_assert!(rewrite(&mut frame, &before, side, end(backend)));
        let expected = if side == Side::Destination { (kept, backend) } else { (backend, kept) };
        prop_assert_eq!(ends(&frame.bytes), Ok(expected));
        let after = headers(&frame, is_v4);
        prop_assert!(rewrite(&mut frame, &after, side, end(changed)));
        prop_assert_eq!(ends(&frame.bytes), Ok((client, vip)));
        // Zero and 0xffff are one sum; only UDP says which of them is written.
        if original.bytes != frame.bytes {
            let at = before.checksum().unwrap() as usize;
            let pair = |bytes: &[u8]| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            prop_assert!(matches!((pair(&original.bytes), pair(&frame.bytes)), (0, 0xffff) | (0xffff, 0)));
        }
    }

    #[test]
    fn a_checksum_that_a_device_fills_in_is_right_afterwards(
        (is_v4, [client, vip, backend], is_tcp, payload) in any_case(),
    ) {
        let mut frame = Buffer::new(packet((client, vip), is_tcp, &payload));
        let before = headers(&frame, is_v4);
        leave_to_device(&mut frame, &before);
        prop_assert!(rewrite(&mut frame, &before, Side::Destination, end(backend)));
        fill_in(&mut frame, &before, !is_tcp);
        prop_assert_eq!(ends(&frame.bytes), Ok((client, backend)));
    }

    #[test]
    fn the_sum_of_a_device_over_the_whole_packet_stays_right(
        (is_v4, [client, vip, backend], is_tcp, payload) in any_case(),
        side in prop_oneof![Just(Side::Source), Just(Side::Destination)],
    ) {
        let mut frame = Buffer::new(packet((client, vip), is_tcp, &payload));
        frame.complete = Some(sum(&frame.bytes[14..]));
        let before = headers(&frame, is_v4);
        prop_assert!(rewrite(&mut frame, &before, side, end(backend)));
        prop_assert!(take_hop(&mut frame, &before));
        let (told, right) = (frame.complete.unwrap(), sum(&frame.bytes[14..]));
        prop_assert!(told == right || told ^ right == 0xffff && (told == 0 || right == 0), "{told:x}, {right:x}");
    }

    #[test]
    fn an_error_is_told_about_the_packet_that_was_sent(
        (is_v4, [client, vip, backend], is_tcp, payload) in any_case(),
        router in any::<bool>().prop_flat_map(|_| (any_addr(true), any_addr(false))),
        quote in 28_usize..200,
    ) {
        // The backend's side quotes what it got, client to backend; the client sent it to the VIP.
        let got = packet((client, backend), is_tcp, &payload);
        let sent = packet((client, vip), is_tcp, &payload);
        let ip = if is_v4 { 20 } else { 40 };
        let quote = quote.min(got.len() - 14).max(ip + 8);
        // A quote that ends within the checksum of TCP shows half of one, which nobody can put right.
        let quote = if is_tcp && quote == ip + 17 { quote + 1 } else { quote };
        let from = if is_v4 { router.0 } else { router.1 };
        let mut frame = Buffer::new(error_about(from, client.0, &got[14..14 + quote]));
        let outer = headers(&frame, is_v4);
        let inner = read_quoted(&frame, &outer).unwrap();
        prop_assert_eq!((inner.src, inner.src_port, inner.dst, inner.dst_port), {
            let (client, backend) = (end(client), end(backend));
            (client.0, client.1, backend.0, backend.1)
        });
        prop_assert!(rewrite_quoted(&mut frame, (&outer, &inner), Side::Destination, end(vip)));
        prop_assert!(rewrite(&mut frame, &outer, Side::Source, end((vip.0, 0))));
        let mut expected = error_about(vip.0, client.0, &sent[14..14 + quote]);
        if frame.bytes != expected {
            // As above: one of two forms of zero, in the quoted checksum and so in the message's.
            let at = 14 + ip + 8 + ip + if is_tcp { 16 } else { 6 };
            let pair = [frame.bytes[at], frame.bytes[at + 1]];
            prop_assert!(pair == [0, 0] || pair == [0xff, 0xff], "{:x?} instead of {:x?}", frame.bytes, expected);
            expected[at..at + 2].copy_from_slice(&pair);
            let quote = expected[14 + ip + 8..].to_vec();
            expected = error_about(vip.0, client.0, &quote);
        }
        prop_assert_eq!(frame.bytes, expected);
    }

    #[test]
    fn any_bytes_are_read_or_left_alone(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        is_v4 in any::<bool>(),
        first in any::<Option<u8>>(),
    ) {
        let mut buffer = Buffer::new(bytes);
        // Most bytes begin no header: let half of them.
        if let (Some(byte), Some(kind)) = (buffer.bytes.get_mut(14), first) {
            *byte = if is_v4 { 0x40 | kind & 0xf } else { 0x60 };
        }
        let Some(headers) = read(&buffer, is_v4) else { return Ok(()) };
        prop_assert_eq!(headers.is_v4, headers.src.is_v4());
        let to = if is_v4 { ([10, 0, 0, 1].into(), 80) } else { (IpAddr::from([0x20; 16]), 80) };
        if let Some(inner) = read_quoted(&buffer, &headers) {
            let _ = rewrite_quoted(&mut buffer, (&headers, &inner), Side::Source, end(to));
        }
        let length = buffer.bytes.len();
        let _ = rewrite(&mut buffer, &headers, Side::Destination, end(to));
        prop_assert_eq!(buffer.bytes.len(), length);
    }
}

/// An ICMP error from `from` that quotes a packet.
fn error_about(from: IpAddr, to: IpAddr, quote: &[u8]) -> Vec<u8> {
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, Icmpv6Type, icmpv6};
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link
            .ipv4(from.octets(), to.octets(), 20)
            .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port))
            .write(&mut bytes, quote),
        (IpAddr::V6(from), IpAddr::V6(to)) => link
            .ipv6(from.octets(), to.octets(), 20)
            .icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
            .write(&mut bytes, quote),
        _ => panic!("two families"),
    }
    .unwrap();
    bytes
}

fn v4(a: u8) -> IpAddr {
    [192, 0, 2, a].into()
}

fn v6(a: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, a].into()
}

#[test]
fn a_checksum_that_is_not_there_stays_away() {
    let mut frame = Buffer::new(packet(((v4(1), 9), (v4(2), 53)), false, b"question"));
    frame.bytes[40..42].copy_from_slice(&[0, 0]);
    let before = headers(&frame, true);
    assert!(rewrite(&mut frame, &before, Side::Destination, end((v4(3), 5353))));
    assert_eq!(frame.bytes[40..42], [0, 0]);
    assert_eq!(ends(&frame.bytes), Ok(((v4(1), 9), (v4(3), 5353))));
}

#[test]
fn the_wrong_family_and_another_port_of_sctp_are_refused() {
    let mut frame = Buffer::new(packet(((v4(1), 9), (v4(2), 80)), true, b""));
    let mut before = headers(&frame, true);
    assert!(!rewrite(&mut frame, &before, Side::Destination, end((v6(3), 80))));
    before.proto = Proto::SCTP;
    assert!(!rewrite(&mut frame, &before, Side::Destination, end((v4(3), 81))));
    assert!(rewrite(&mut frame, &before, Side::Destination, end((v4(3), 80))));
}

#[test]
fn options_and_extension_headers_are_stepped_over() {
    // Hop-by-hop of 8 bytes, destination options of 16, then UDP.
    let mut bytes = packet(((v6(1), 9), (v6(2), 53)), false, b"question");
    bytes[14 + 6] = 0;
    let extensions = [60, 0, 1, 4, 0, 0, 0, 0, 17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.splice(54..54, extensions);
    let length = u16::from_be_bytes([bytes[18], bytes[19]]) + 24;
    bytes[18..20].copy_from_slice(&length.to_be_bytes());
    let mut frame = Buffer::new(bytes);
    let before = headers(&frame, false);
    assert_eq!((before.segment, before.proto, before.dst_port.get()), (54 + 24, Proto::UDP, 53));
    assert!(rewrite(&mut frame, &before, Side::Destination, end((v6(3), 5353))));
    assert_eq!(ends(&frame.bytes), Ok(((v6(1), 9), (v6(3), 5353))));

    // Four bytes of options in IPv4.
    let mut bytes = packet(((v4(1), 9), (v4(2), 53)), false, b"");
    bytes[14] = 0x46;
    bytes.splice(34..34, [1, 1, 1, 0]);
    let before = headers(&Buffer::new(bytes), true);
    assert_eq!((before.segment, before.dst_port.get()), (38, 53));
}

#[test]
fn too_many_extension_headers_are_not_looked_through() {
    let with = |count: usize| {
        let mut bytes = packet(((v6(1), 9), (v6(2), 53)), false, b"question");
        bytes[14 + 6] = if count == 0 { 17 } else { 60 };
        let chain = (1..=count).flat_map(|index| [if index == count { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        bytes.splice(54..54, chain);
        read(&Buffer::new(bytes), false)
    };
    assert!(with(0).is_some() && with(8).is_some_and(|headers| headers.dst_port.get() == 53));
    assert_eq!(with(9), None);
}

#[test]
fn fragments_are_told_apart() {
    let fragment = |word: u16| {
        let mut bytes = packet(((v4(1), 9), (v4(2), 53)), false, b"question");
        bytes[18..20].copy_from_slice(&0x1234_u16.to_be_bytes());
        bytes[20..22].copy_from_slice(&word.to_be_bytes());
        let headers = headers(&Buffer::new(bytes), true);
        ((headers.fragment, headers.fragment_id), headers.dst_port.get(), headers.checksum().is_some())
    };
    let id = u32::from(0x1234_u16.to_be());
    assert_eq!(fragment(0x4000), ((Fragment::Whole as u8, id), 53, true));
    assert_eq!(fragment(0x2000), ((Fragment::First as u8, id), 53, true));
    assert_eq!(fragment(0x2001), ((Fragment::Later as u8, id), 0, false));
    assert_eq!(fragment(0x0001), ((Fragment::Later as u8, id), 0, false));
    for (word, expected) in
        [(0, Fragment::Whole), (1, Fragment::First), (9, Fragment::Later), (8, Fragment::Later)]
    {
        let mut bytes = packet(((v6(1), 9), (v6(2), 53)), false, b"question");
        bytes[14 + 6] = 44;
        let header = [[17, 0], u16::to_be_bytes(word)].concat();
        bytes.splice(54..54, header.into_iter().chain(7_u32.to_ne_bytes()));
        let headers = headers(&Buffer::new(bytes), false);
        let id = 7_u32;
        assert_eq!((headers.fragment, headers.fragment_id), (expected as u8, id), "{word}");
    }
}

#[test]
fn mapped_addresses_on_a_wire_are_nobodys() {
    let mapped = "::ffff:10.96.0.1".parse().unwrap();
    let parsed = |from, to| {
        let bytes = packet(((from, 9), (to, 80)), true, b"");
        read(&Buffer::new(bytes), false)
    };
    assert_eq!((parsed(v6(1), mapped), parsed(mapped, v6(1))), (None, None));
    assert!(parsed(v6(1), v6(2)).is_some());
}
