//! A packet passes: it is read, decided about, and changed.

use aya_ebpf::programs::TcContext;
use proxy_common::addr::Proto;
use proxy_common::flow::End;
use proxy_common::lb::{Origin, is_foreign};
use proxy_common::nat::{Action, Change, Passage, arrive, begin, leave, reserve};
use proxy_common::packet::{Bytes, Headers, Side, parse, rewrite};

use crate::flows::{self, BEGIN, RESERVE, Room, Tables};
use crate::maps::{Kernel, clients};
use crate::skb::Skb;

/// `TCX_NEXT`: the chain goes on.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

/// A packet enters the node.
#[inline(always)]
pub fn enter(ctx: &TcContext) -> i32 {
    let mut skb = Skb(ctx);
    skb.pull();
    let Some(room) = read(&skb) else { return NEXT };
    if is_foreign(&Kernel, room.headers.dst) {
        return NEXT;
    }
    let Some(passage) = passage(&skb, &room.headers) else { return NEXT };
    let action = arrive(&Kernel, &Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, &room.headers, &action)
}

/// It is the first of a flow.
#[inline(always)]
pub fn first(ctx: &TcContext) -> i32 {
    let mut skb = Skb(ctx);
    let Some(room) = read(&skb) else { return NEXT };
    let Some(passage) = passage(&skb, &room.headers) else { return NEXT };
    let action = begin(&Kernel, &Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, &room.headers, &action)
}

/// A packet leaves the node.
#[inline(always)]
pub fn exit(ctx: &TcContext) -> i32 {
    let mut skb = Skb(ctx);
    skb.pull();
    let Some(room) = read(&skb) else { return NEXT };
    let Some(passage) = passage(&skb, &room.headers) else { return NEXT };
    let action = leave(&Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, &room.headers, &action)
}

/// It needs another source.
#[inline(always)]
pub fn source(ctx: &TcContext) -> i32 {
    let mut skb = Skb(ctx);
    let Some(room) = read(&skb) else { return NEXT };
    let Some(passage) = passage(&skb, &room.headers) else { return NEXT };
    let action = reserve(&Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, &room.headers, &action)
}

/// Reads a packet of a protocol with ports.
#[inline(always)]
fn read(skb: &Skb<'_>) -> Option<&'static mut Room> {
    let room = flows::room()?;
    let is_read = parse(skb, ETHERNET, skb.ether_type(), &mut room.headers);
    if is_read && room.headers.has_ports() { Some(room) } else { None }
}

#[inline(always)]
fn passage<'a>(skb: &Skb<'_>, headers: &'a Headers) -> Option<Passage<'a>> {
    let tcp = if headers.proto == Proto::TCP { skb.byte(headers.segment + 13)? } else { 0 };
    Some(Passage { headers, tcp, origin: Origin::External, now: clients::now() })
}

#[inline(always)]
fn carry_out(skb: &mut Skb<'_>, headers: &Headers, action: &Action) -> i32 {
    match *action {
        Action::Pass => return NEXT,
        Action::Change(change) => {
            if change_packet(skb, headers, &change) {
                return NEXT;
            }
        }
        Action::Begin => flows::go_on(skb.0, BEGIN),
        Action::Reserve => flows::go_on(skb.0, RESERVE),
        Action::Refuse(..) | Action::Drop(..) => {}
    }
    DROP
}

#[inline(always)]
fn change_packet(skb: &mut Skb<'_>, headers: &Headers, change: &Change) -> bool {
    let End { addr, port, .. } = change.to;
    if !rewrite(skb, headers, change.side, (addr, port)) {
        return false;
    }
    let far = match change.side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    };
    let (far_addr, far_port) = far.of(headers);
    change.far_port == far_port || rewrite(skb, headers, far, (far_addr, change.far_port))
}
