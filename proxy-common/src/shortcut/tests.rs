use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;

use etherparse::{NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders};

use super::*;
use crate::addr::Addr;
use crate::flow::NO_MAC;
use crate::packet::buffer::Buffer;
use crate::packet::{ETHER_IPV4, ETHER_IPV6, parse};

const ETHERNET: u32 = 14;

fn finish(builder: PacketBuilderStep<etherparse::IpHeaders>) -> Buffer {
    let mut bytes = Vec::new();
    builder.tcp(40_000, 80, 7, 1_000).write(&mut bytes, b"request").unwrap();
    Buffer::new(bytes)
}

/// A packet with so many hops left.
fn packet(is_v4: bool, hops: u8) -> Buffer {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    finish(if is_v4 {
        link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], hops)
    } else {
        link.ipv6([1; 16], [2; 16], hops)
    })
}

fn headers(buffer: &Buffer, is_v4: bool) -> Headers {
    let mut headers = Headers::EMPTY;
    let ether_type = if is_v4 { ETHER_IPV4 } else { ETHER_IPV6 };
    assert!(parse(buffer, ETHERNET, ether_type, &mut headers));
    headers
}

#[test]
fn a_hop_is_taken_and_nothing_else() {
    for is_v4 in [true, false] {
        // Words of the header whose sum turns over, and some that do not.
        for hops in [2, 3, 64, 128, 255] {
            let mut buffer = packet(is_v4, hops);
            let headers = headers(&buffer, is_v4);
            assert!(take_hop(&mut buffer, &headers));
            assert_eq!(buffer, packet(is_v4, hops - 1), "{hops}");
            let read = PacketHeaders::from_ethernet_slice(&buffer.bytes).unwrap();
            if let Some(NetHeaders::Ipv4(header, _)) = read.net {
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
        }
    }
}

#[test]
fn only_what_the_stack_would_just_count_is_plain() {
    let judged = |is_v4, change: &dyn Fn(&mut Buffer)| {
        let mut buffer = packet(is_v4, 64);
        let headers = headers(&buffer, is_v4);
        change(&mut buffer);
        is_plain(&buffer, &headers)
    };
    let set = |at: usize, byte: u8| move |buffer: &mut Buffer| buffer.bytes[at] = byte;
    for is_v4 in [true, false] {
        assert!(judged(is_v4, &|_| {}));
        let hops = if is_v4 { 22 } else { 21 };
        assert!(judged(is_v4, &set(hops, 2)));
        assert!(!judged(is_v4, &set(hops, 1)), "the stack tells the sender");
        assert!(!judged(is_v4, &set(hops, 0)));
        let mut first = headers(&packet(is_v4, 64), is_v4);
        first.fragment = Fragment::First as u8;
        assert!(!is_plain(&packet(is_v4, 64), &first));
    }
    assert!(!judged(true, &set(14, 0x46)), "options");
    // Classes that Linux gives the lowest priority among them: ECN and those of no meaning.
    for class in 0..=255_u8 {
        assert_eq!(judged(true, &set(15, class)), class & 0x18 == 0, "{class:#x}");
    }
    let mut extended = headers(&packet(false, 64), false);
    extended.segment += 8;
    assert!(!is_plain(&packet(false, 64), &extended), "extension headers");
}

#[test]
fn the_class_is_that_of_the_header() {
    for is_v4 in [true, false] {
        let mut buffer = packet(is_v4, 64);
        let headers = headers(&buffer, is_v4);
        assert_eq!(class(&buffer, &headers), 0);
        if is_v4 {
            buffer.bytes[15] = 0xa3;
        } else {
            (buffer.bytes[14], buffer.bytes[15]) = (0x6a, 0x3f);
        }
        assert_eq!(class(&buffer, &headers), 0xa3);
    }
}

#[test]
fn what_a_device_cuts_up_is_as_long_as_its_parts() {
    for is_v4 in [true, false] {
        let buffer = packet(is_v4, 64);
        let mut headers = headers(&buffer, is_v4);
        let header = if is_v4 { 20 } else { 40 };
        assert_eq!(length(&buffer, &headers, (1_234, 0)), Some(1_234));
        assert_eq!(length(&buffer, &headers, (60_000, 1_448)), Some(header + 20 + 1_448));
        headers.proto = crate::addr::Proto::UDP;
        assert_eq!(length(&buffer, &headers, (60_000, 1_448)), None);
        assert_eq!(length(&buffer, &headers, (500, 0)), Some(500));
    }
}

#[test]
fn a_route_is_of_two_addresses_a_device_and_a_class_and_soon_over() {
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
    let ends = (addr("192.0.2.1"), addr("2001:db8::1"));
    let now = tick(u64::MAX / 3);
    let route = Route {
        src: ends.0,
        dst: ends.1,
        hop: ends.1,
        entered: 7,
        class: 3,
        jiffy: now,
        device: 9,
        mtu: 1_500,
        frame: [NO_MAC; 2],
    };
    assert!((0..JIFFIES).all(|later| route.is_of(ends, (7, 3), now + later)));
    for (ends, at, jiffy) in [
        ((ends.1, ends.1), (7, 3), now),
        ((ends.0, ends.0), (7, 3), now),
        ((ends.0, addr("2001:db8::2")), (7, 3), now),
        (ends, (8, 3), now),
        (ends, (7, 2), now),
        (ends, (7, 3), now + JIFFIES),
        (ends, (7, 3), now - 1),
    ] {
        assert!(!route.is_of(ends, at, jiffy), "{ends:?} {at:?} {jiffy}");
    }
    // Memory that is zero, as it is at first, is no packet's.
    let none = Route { src: Addr::UNSPECIFIED, dst: Addr::UNSPECIFIED, entered: 0, jiffy: 0, ..route };
    assert!(!none.is_of(ends, (7, 3), 0));
    let places: std::collections::HashSet<u32> =
        (0..2_000_u32).map(|host| place(Addr::from_v4_word(host.to_be()), ends.0)).collect();
    assert!(places.len() > 800 && places.iter().all(|place| *place < ROUTES), "{}", places.len());
}

#[test]
fn a_look_is_of_one_device_and_soon_over() {
    for reasons in [0, 5, 255] {
        for now in [0, 1, u32::MAX] {
            let look = Look::new(0x0012_3456, reasons, now);
            assert_eq!(look.just_found(0x0012_3456, now), Some(reasons));
            assert_eq!(look.just_found(0x0012_3456, now.wrapping_add(1)), None);
            assert_eq!(look.just_found(0x0012_3457, now), None);
            assert_eq!(look.just_found(0x0112_3456, now), None, "an index of more bits");
            let lets_pass =
                reasons & (Reason::OthersOut as u8 | Reason::Queue as u8 | Reason::Unreadable as u8) == 0;
            assert_eq!(look.lets_pass(0x0012_3456, now.wrapping_add(TICKS_OF_PEER - 1)), lets_pass);
            assert!(!look.lets_pass(0x0012_3456, now.wrapping_add(TICKS_OF_PEER)));
        }
    }
    assert_eq!(Look(0).just_found(7, 0), None, "memory that is zero");
    assert_eq!(Look(0).last_found(7, 0), None);
    let look = Look::new(7, 9, 100);
    assert_eq!(look.last_found(7, 100), Some((9, 0)));
    assert_eq!(look.last_found(7, 1_000_100), Some((9, 1_000_000)));
    assert_eq!(look.last_found(8, 100), None);
}

#[test]
fn each_bit_is_a_reason() {
    assert!(Reason::of(0).next().is_none());
    let at_egress = Reason::ALL.into_iter().filter(|reason| !reason.is_of_ingress());
    assert_eq!(at_egress.collect::<Vec<_>>(), [Reason::OthersOut, Reason::Queue]);
    assert_eq!(Reason::of(u8::MAX).collect::<Vec<_>>(), Reason::ALL);
    assert_eq!(Reason::of(0x21).collect::<Vec<_>>(), [Reason::NetfilterV4, Reason::Queue]);
    assert_eq!(Reason::ALL.iter().fold(0, |bits, reason| bits | *reason as u8), u8::MAX);
}

/// The kernel's memory: one packet on one device, among nobody.
struct Fake {
    words: HashMap<u64, u64>,
    read: Cell<usize>,
}

impl Memory for Fake {
    fn word(&self, at: u64) -> Option<u64> {
        self.read.set(self.read.get() + 1);
        self.words.get(&at).copied()
    }
}

const AT: Offsets = Offsets {
    device: 16,
    net: 8,
    chains: [24, 32],
    device_hooks: [40, 48],
    queues: 56,
    qdisc: 8,
    enqueue: 16,
    second: 8,
    bundle: 64,
    in_entry: 8,
    filters: 0,
    hooks: [100, 200],
    policies: 300,
    policy_defaults: 400,
    rules: [500, 600],
};
const PACKET: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NET: u64 = 0x3000;
const QUEUES: u64 = 0x4000;
const QDISC: u64 = 0x5000;
/// Two entries of chains: their filters, and their bundles, which hold the chains.
const ENTRIES: [u64; 2] = [0x6000, 0x7000];
const CHAINS: [u64; 2] = [0x8000, 0x9000];

fn nobody() -> Fake {
    let mut words = HashMap::from([
        (PACKET + 16, DEVICE),
        (DEVICE + 8, NET),
        (DEVICE + 40, 0),
        (DEVICE + 48, 0),
        (DEVICE + 56, QUEUES),
        (QUEUES + 8, QDISC),
        (QDISC + 16, 0),
        // XFRM_USERPOLICY_ACCEPT for each direction, and what lies behind them.
        (NET + 400, 0xffff_ffff_ff02_0202),
        // Four bytes each, and what lies behind them.
        (NET + 500, 0xffff_ffff_0000_0000),
        (NET + 600, 0xffff_ffff_0000_0000),
    ]);
    words.extend(
        [0, 1, 2, 3, 4].into_iter().flat_map(|hook| [(NET + 100 + 8 * hook, 0), (NET + 200 + 8 * hook, 0)]),
    );
    words.extend([0, 8, 16].map(|at| (NET + 300 + at, 0)));
    for ((at, chain), entry) in [24, 32].into_iter().zip(CHAINS).zip(ENTRIES) {
        words.extend([(DEVICE + at, chain), (chain + 8, 0), (chain + 64, entry + 8), (entry, 0)]);
    }
    Fake { words, read: Cell::new(0) }
}

#[test]
fn whoever_listens_in_the_stack_is_found() {
    assert_eq!(look(&nobody(), &AT, PACKET), 0);
    let mut without_chain = nobody();
    without_chain.words.insert(DEVICE + 32, 0);
    assert_eq!(look(&without_chain, &AT, PACKET), 0, "nobody has ever had a program there");
    let hook = 0xffff_8880_0000_1000;
    for (at, word, reason) in [
        (NET + 100, hook, Reason::NetfilterV4),
        (NET + 100 + 16, hook, Reason::NetfilterV4),
        (NET + 100 + 32, hook, Reason::NetfilterV4),
        (NET + 200, hook, Reason::NetfilterV6),
        (NET + 200 + 16, hook, Reason::NetfilterV6),
        (NET + 200 + 32, hook, Reason::NetfilterV6),
        (NET + 300, 1, Reason::Policies),
        (NET + 308, 1 << 32, Reason::Policies),
        (NET + 316, 1, Reason::Policies),
        (NET + 400, 0x02_02_01, Reason::Policies),
        (NET + 400, 0x01_02_02, Reason::Policies),
        (NET + 500, 1, Reason::Rules),
        (NET + 600, 1, Reason::Rules),
        (DEVICE + 40, hook, Reason::OthersIn),
        (CHAINS[0] + 8, hook, Reason::OthersIn),
        (ENTRIES[0], hook, Reason::OthersIn),
        (DEVICE + 48, hook, Reason::OthersOut),
        (CHAINS[1] + 8, hook, Reason::OthersOut),
        (ENTRIES[1], hook, Reason::OthersOut),
        (QDISC + 16, hook, Reason::Queue),
    ] {
        let mut memory = nobody();
        assert!(memory.words.insert(at, word).is_some(), "{at:#x} is a word that is read");
        assert_eq!(look(&memory, &AT, PACKET), reason as u8, "{at:#x}");
    }
    // Hooks of what is for the node itself, or comes from it, are no matter.
    for other in [NET + 108, NET + 124, NET + 208, NET + 224] {
        let mut memory = nobody();
        memory.words.insert(other, hook);
        assert_eq!(look(&memory, &AT, PACKET), 0);
    }
}

#[test]
fn what_cannot_be_read_is_in_the_way() {
    let all = nobody();
    look(&all, &AT, PACKET);
    let mut failed = 0;
    for at in all.words.keys() {
        let mut memory = nobody();
        memory.words.remove(at);
        let reasons = look(&memory, &AT, PACKET);
        if reasons != 0 {
            assert_eq!(reasons, Reason::Unreadable as u8, "{at:#x}");
            assert!(IN_THE_WAY.iter().all(|mask| mask & reasons != 0));
            failed += 1;
        }
    }
    assert_eq!(failed, all.read.get(), "each word that is read counts");
}
