//! Packets as etherparse builds them.

use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6;
use etherparse::{Ethernet2Header, Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder, PacketBuilderStep};

/// Flags of TCP in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcp {
    Syn,
    SynAck,
    Ack,
}

/// A packet as it is to be: `None` is UDP.
pub(crate) fn packet(ends: (SocketAddr, SocketAddr), tcp: Option<Tcp>) -> Vec<u8> {
    framed(PacketBuilder::ethernet2([2; 6], [4; 6]), ends, tcp)
}

fn framed(
    link: PacketBuilderStep<Ethernet2Header>,
    (from, to): (SocketAddr, SocketAddr),
    tcp: Option<Tcp>,
) -> Vec<u8> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 20),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 20),
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    let payload = b"a few bytes";
    match tcp {
        None => ip.udp(from.port(), to.port()).write(&mut bytes, payload).expect("a vector takes it"),
        Some(flags) => {
            let tcp = ip.tcp(from.port(), to.port(), 7, 1_000);
            let tcp = match flags {
                Tcp::Syn => tcp.syn(),
                Tcp::SynAck => tcp.syn().ack(9),
                Tcp::Ack => tcp.ack(9),
            };
            tcp.write(&mut bytes, payload).expect("a vector takes it");
        }
    }
    bytes
}

/// A datagram without a checksum, as UDP over IPv4 may be.
pub(crate) fn unchecked(ends: (SocketAddr, SocketAddr)) -> Vec<u8> {
    let mut bytes = packet(ends, None);
    bytes[40..42].fill(0);
    bytes
}

/// SCTP with one chunk, of which this is the type. Its checksum is over what no translation changes.
pub(crate) fn sctp((from, to): (SocketAddr, SocketAddr), chunk: u8) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let payload = [&ports, &[0xa5; 8][..], &[chunk, 0, 0, 4]].concat();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut bytes = Vec::new();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            link.ipv4(from.octets(), to.octets(), 20).write(&mut bytes, IpNumber::SCTP, &payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            link.ipv6(from.octets(), to.octets(), 20).write(&mut bytes, IpNumber::SCTP, &payload)
        }
        _ => panic!("two families"),
    }
    .expect("a vector takes it");
    bytes
}

/// "Time exceeded" of a router, or "port unreachable" of an end, about a packet of which it quotes the beginning.
pub(crate) fn error(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let quote = &about[14..];
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
    .expect("a vector takes it");
    bytes
}

/// The parts of a datagram over IPv4, as a router cuts it: the first with the UDP header, the second without.
pub(crate) fn parts((from, to): (SocketAddr, SocketAddr), id: u16) -> [Vec<u8>; 2] {
    let whole = packet((from, to), None);
    let payload = &whole[34..];
    let cut = 16;
    let part = |data: &[u8], offset: u16, has_more: bool| {
        let mut bytes = whole[..34].to_vec();
        bytes.extend(data);
        let mut header = etherparse::Ipv4Header::from_slice(&whole[14..]).expect("an IPv4 header").0;
        header.total_len = u16::try_from(20 + data.len()).expect("a short part");
        header.identification = id;
        header.more_fragments = has_more;
        header.fragment_offset = etherparse::IpFragOffset::try_new(offset).expect("a small offset");
        header.dont_fragment = false;
        header.header_checksum = header.calc_header_checksum();
        bytes[14..34].copy_from_slice(&header.to_bytes());
        bytes
    };
    [part(&payload[..cut], 0, true), part(&payload[cut..], 2, false)]
}
