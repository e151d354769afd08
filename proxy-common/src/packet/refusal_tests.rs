//! Answers are compared, byte by byte, with what etherparse builds.

use super::*;
use crate::packet::buffer::Buffer;
use crate::packet::{ETHER_IPV4, ETHER_IPV6, parse};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, icmpv6,
};
use std::net::IpAddr;

fn of(is_v4: bool, last: u8) -> IpAddr {
    if is_v4 {
        IpAddr::from([192, 0, 2, last])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])
    }
}

/// The IP header of an answer from the VIP to the client, ahead of so many bytes.
fn ip(is_v4: bool, proto: IpNumber, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (of(is_v4, 2), of(is_v4, 1)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(length).unwrap();
            let mut header = Ipv4Header::new(length, 64, proto, from.octets(), to.octets()).unwrap();
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut bytes).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
            payload_length: u16::try_from(length).unwrap(),
            next_header: proto,
            hop_limit: 64,
            source: from.octets(),
            destination: to.octets(),
            ..Ipv6Header::default()
        }
        .write(&mut bytes)
        .unwrap(),
        _ => panic!("two families"),
    }
    bytes
}

fn answer(packet: &[u8], is_v4: bool) -> Option<Vec<u8>> {
    let buffer = Buffer::new(packet.to_vec());
    let mut headers = Headers::EMPTY;
    assert!(parse(&buffer, 0, if is_v4 { ETHER_IPV4 } else { ETHER_IPV6 }, &mut headers));
    // What was in the memory before is nobody's business.
    let mut answer = Answer { words: [0xdead_beef; WORDS], length: 77 };
    refuse(&buffer, &headers, &mut answer).then(|| {
        let bytes: Vec<u8> = answer.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes[..answer.length as usize * 4].to_vec()
    })
}

fn tcp(is_v4: bool, payload: &[u8], flags: impl Fn(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(40_000, 80, 0xffff_fff0, 1_000);
    flags(&mut header);
    let mut bytes = Vec::new();
    match (of(is_v4, 1), of(is_v4, 2)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), 20).tcp_header(header).write(&mut bytes, payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), 20).tcp_header(header).write(&mut bytes, payload)
        }
        _ => panic!("two families"),
    }
    .unwrap();
    bytes
}

#[test]
fn tcp_is_reset() {
    for is_v4 in [true, false] {
        for (payload, has_ack, is_end) in
            [(&b""[..], false, false), (b"early data", false, false), (b"", false, true), (b"x", true, false)]
        {
            let packet = tcp(is_v4, payload, |header| {
                header.syn = !has_ack;
                header.fin = is_end;
                header.ack = has_ack;
                header.acknowledgment_number = 0x1234_5678;
            });
            let mut reset = TcpHeader::new(80, 40_000, 0, 0);
            reset.rst = true;
            if has_ack {
                reset.sequence_number = 0x1234_5678;
            } else {
                reset.ack = true;
                let length = u32::try_from(payload.len()).unwrap() + 1 + u32::from(is_end);
                reset.acknowledgment_number = 0xffff_fff0_u32.wrapping_add(length);
            }
            let mut expected = ip(is_v4, IpNumber::TCP, 20);
            reset.checksum = if is_v4 {
                reset.calc_checksum_ipv4_raw([192, 0, 2, 2], [192, 0, 2, 1], &[]).unwrap()
            } else {
                let header = Ipv6Header::from_slice(&expected).unwrap().0;
                reset.calc_checksum_ipv6(&header, &[]).unwrap()
            };
            reset.write(&mut expected).unwrap();
            assert_eq!(answer(&packet, is_v4), Some(expected), "{is_v4} {payload:?} {has_ack}");
        }
        let reset = tcp(is_v4, b"", |header| header.rst = true);
        assert_eq!(answer(&reset, is_v4), None, "a reset is not answered");
        assert_eq!(
            answer(&tcp(is_v4, b"", |header| header.syn = true)[..if is_v4 { 30 } else { 50 }], is_v4),
            None
        );
    }
}

#[test]
fn a_datagram_is_told_that_its_port_is_unreachable() {
    for is_v4 in [true, false] {
        let mut packet = Vec::new();
        let mut expected = Vec::new();
        match (of(is_v4, 1), of(is_v4, 2)) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let link = PacketBuilder::ipv4(client.octets(), vip.octets(), 20);
                link.udp(40_000, 53).write(&mut packet, b"a question").unwrap();
                let header = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
                expected.extend(ip(is_v4, IpNumber::ICMP, 8 + 28));
                let icmp = etherparse::Icmpv4Header::with_checksum(header, &packet[..28]);
                icmp.write(&mut expected).unwrap();
                expected.extend(&packet[..28]);
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                let link = PacketBuilder::ipv6(client.octets(), vip.octets(), 20);
                link.udp(40_000, 53).write(&mut packet, b"a question").unwrap();
                let header = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
                expected.extend(ip(is_v4, IpNumber::IPV6_ICMP, 8 + 48));
                let quote = &packet[..48];
                let icmp =
                    etherparse::Icmpv6Header::with_checksum(header, vip.octets(), client.octets(), quote);
                icmp.unwrap().write(&mut expected).unwrap();
                expected.extend(quote);
            }
            _ => panic!("two families"),
        }
        assert_eq!(answer(&packet, is_v4), Some(expected));
    }
}
