//! NAT at tcx that a netfilter beside it sees alike in both directions: destinations are rewritten at ingress, before
//! it, and sources at egress, after it.
//!
//! One backend for each VIP, no options, no extension headers, no collisions: enough to prove where the rewriting has
//! to stand. The programs that begin with `proof_nat_wrong` rewrite elsewhere, to show what that does.

mod layout;
mod packet;

use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use proxy_common::addr::{Addr, Port};

use self::layout::{Device, End, SNAT_PORTS, counter};
use self::packet::{Packet, Side, Tuple, readdress, receiver, sender};

/// `TCX_NEXT`: whoever else is attached has its turn.
const NEXT: i32 = -1;

/// What a packet is given in place of the end that it came with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rewrite {
    end: End,
    /// Which of [`counter`] it is.
    kind: u16,
    /// For a request: the frame's new receiver, if that is known. For a reply: whom the request was sent to, as a frame.
    mac: [u8; 6],
    /// One if `mac` is known.
    has_mac: u32,
}

const _: () =
    assert!(size_of::<Tuple>() == 44 && size_of::<Rewrite>() == 32, "keys and values have no padding");

#[btf_map]
static PROOF_NAT_SERVICES: HashMap<End, End, 64> = HashMap::new();
#[btf_map]
static PROOF_NAT_SOURCES: HashMap<Device, Addr, 64> = HashMap::new();
#[btf_map]
static PROOF_NAT_INBOUND: HashMap<Tuple, Rewrite, 1024> = HashMap::new();
#[btf_map]
static PROOF_NAT_OUTBOUND: HashMap<Tuple, Rewrite, 1024> = HashMap::new();
/// Index of the bridge's port that the backend is behind.
#[btf_map]
static PROOF_NAT_PORT: Array<u32, 1> = Array::new();
#[btf_map]
static PROOF_NAT_COUNTERS: Array<u64, 8> = Array::new();

/// DNAT, and the reverse of SNAT.
#[classifier]
pub fn proof_nat_ingress(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx) {
        arrive(&ctx, packet);
    }
    NEXT
}

/// The reverse of DNAT, and SNAT.
#[classifier]
pub fn proof_nat_egress(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx) {
        leave(&ctx, packet);
    }
    NEXT
}

/// The reverse of DNAT where a reply comes in, before netfilter has seen it.
#[classifier]
pub fn proof_nat_wrong_reverse(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx) {
        leave(&ctx, packet);
    }
    NEXT
}

/// DNAT, and SNAT at the same place.
#[classifier]
pub fn proof_nat_wrong_source(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx)
        && arrive(&ctx, packet).is_some_and(|done| u32::from(done.kind) == counter::DNAT)
        && let Some(packet) = Packet::parse(&ctx)
    {
        leave(&ctx, packet);
    }
    NEXT
}

/// DNAT at a bridge's port. Once a reply was switched past the stack, requests are switched to who has sent it.
#[classifier]
pub fn proof_nat_switch(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx)
        && let Some(done) = arrive(&ctx, packet)
        && done.has_mac != 0
    {
        count(if readdress(&ctx, done.mac).is_ok() { counter::SWITCHED } else { counter::FAILED });
    }
    NEXT
}

/// The same by a redirect to the port of the backend, past the bridge and its netfilter.
#[classifier]
pub fn proof_nat_wrong_redirect(ctx: TcContext) -> i32 {
    if let Some(packet) = Packet::parse(&ctx)
        && let Some(done) = arrive(&ctx, packet)
        && done.has_mac != 0
        && let Some(port) = PROOF_NAT_PORT.get(0)
        && readdress(&ctx, done.mac).is_ok()
    {
        count(counter::SWITCHED);
        // SAFETY: the helper takes numbers.
        return unsafe { bpf_redirect(*port, 0) } as i32;
    }
    NEXT
}

/// DNAT at a bridge's port. A reply is sent to the MAC address that the request was sent to, so that it climbs to the
/// stack too.
#[classifier]
pub fn proof_nat_climb(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::parse(&ctx) else { return NEXT };
    if arrive(&ctx, packet).is_none()
        && let Some(known) = recall(&PROOF_NAT_OUTBOUND, packet.tuple)
        && u32::from(known.kind) == counter::UN_DNAT
    {
        count(if readdress(&ctx, known.mac).is_ok() { counter::CLIMBED } else { counter::FAILED });
    }
    NEXT
}

/// Gives a packet that comes in its destination; what it was given, if anything.
#[inline(always)]
fn arrive(ctx: &TcContext, packet: Packet) -> Option<Rewrite> {
    let known = match recall(&PROOF_NAT_INBOUND, packet.tuple) {
        Some(known) => known,
        None => open(ctx, packet.tuple)?,
    };
    apply(ctx, packet, Side::To, known);
    Some(known)
}

/// Remembers a new flow to a VIP, in both directions.
#[inline(always)]
fn open(ctx: &TcContext, tuple: Tuple) -> Option<Rewrite> {
    // SAFETY: the value is copied at once; the tests write it before they send.
    let backend = unsafe { PROOF_NAT_SERVICES.get(tuple.to).copied() }?;
    let reply = Tuple { from: backend, to: tuple.from, protocol: tuple.protocol };
    let mac = receiver(ctx)?;
    let back = Rewrite { end: tuple.to, kind: counter::UN_DNAT as u16, mac, has_mac: 1 };
    let there = Rewrite { end: backend, kind: counter::DNAT as u16, mac: [0; 6], has_mac: 0 };
    PROOF_NAT_OUTBOUND.insert(reply, back, 0).ok()?;
    PROOF_NAT_INBOUND.insert(tuple, there, 0).ok()?;
    Some(there)
}

/// Gives a packet that goes out its source.
#[inline(always)]
fn leave(ctx: &TcContext, packet: Packet) -> Option<()> {
    let known = match recall(&PROOF_NAT_OUTBOUND, packet.tuple) {
        Some(known) => {
            learn(ctx, packet.tuple, known);
            known
        }
        None => masquerade(ctx, packet)?,
    };
    apply(ctx, packet, Side::From, known);
    Some(())
}

/// Remembers a new source for a flow that was given its destination by us, in both directions. One whose source
/// somebody has changed meanwhile is not found, and so left alone.
#[inline(always)]
fn masquerade(ctx: &TcContext, packet: Packet) -> Option<Rewrite> {
    recall(&PROOF_NAT_OUTBOUND, packet.tuple.reversed())?;
    // SAFETY: the kernel hands every program a valid context.
    let index = unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() };
    let device = Device { index, version: packet.version() };
    // SAFETY: as in `open`.
    let addr = unsafe { PROOF_NAT_SOURCES.get(device).copied() }?;
    let (client, backend) = (packet.tuple.from, packet.tuple.to);
    let port = Port::new(SNAT_PORTS.0 + client.port.get() % SNAT_PORTS.1);
    let source = End { addr, port, pad: 0 };
    let reply = Tuple { from: backend, to: source, protocol: packet.tuple.protocol };
    let back = Rewrite { end: client, kind: counter::UN_SNAT as u16, mac: [0; 6], has_mac: 0 };
    let there = Rewrite { end: source, kind: counter::SNAT as u16, mac: [0; 6], has_mac: 0 };
    PROOF_NAT_INBOUND.insert(reply, back, 0).ok()?;
    PROOF_NAT_OUTBOUND.insert(packet.tuple, there, 0).ok()?;
    Some(there)
}

/// Notes who has sent a reply, if that is not whom the request was sent to: a bridge has switched it past the stack.
#[inline(always)]
fn learn(ctx: &TcContext, reply: Tuple, known: Rewrite) -> Option<()> {
    let mac = sender(ctx).filter(|mac| *mac != known.mac)?;
    if u32::from(known.kind) != counter::UN_DNAT {
        return None;
    }
    let request = Tuple { from: reply.to, to: known.end, protocol: reply.protocol };
    let there = recall(&PROOF_NAT_INBOUND, request).filter(|there| there.has_mac == 0)?;
    PROOF_NAT_INBOUND.insert(request, Rewrite { mac, has_mac: 1, ..there }, 0).ok()
}

#[inline(always)]
fn recall<const N: usize>(map: &HashMap<Tuple, Rewrite, N>, tuple: Tuple) -> Option<Rewrite> {
    // SAFETY: the value is copied at once, and no test has so many flows that an element is used again.
    unsafe { map.get(tuple).copied() }
}

#[inline(always)]
fn apply(ctx: &TcContext, packet: Packet, side: Side, known: Rewrite) {
    let is_done = packet.rewrite(ctx, side, known.end).is_ok();
    count(if is_done { u32::from(known.kind) } else { counter::FAILED });
    if let Some(largest) = PROOF_NAT_COUNTERS.get_ptr_mut(counter::LARGEST) {
        // SAFETY: as in `count`.
        unsafe { *largest = (*largest).max(u64::from(ctx.len())) };
    }
}

/// Counts; two processors may lose a step, which no test is about.
#[inline(always)]
fn count(element: u32) {
    if let Some(counted) = PROOF_NAT_COUNTERS.get_ptr_mut(element) {
        // SAFETY: the map returned a pointer to a live element.
        unsafe { *counted += 1 };
    }
}
