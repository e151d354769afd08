//! A packet passes: it is read, decided about, and changed.

use aya_ebpf::programs::TcContext;
use proxy_common::addr::Proto;
use proxy_common::counter::ServiceCounter;
use proxy_common::flow::{End, NO_MAC};
use proxy_common::lb::{Origin, is_foreign};
use proxy_common::nat::fragment::{ENTERS, FragmentKey, FragmentValue, LEAVES};
use proxy_common::nat::{Action, Change, Passage, arrive, begin, is_for_the_node, is_icmp, leave, reserve};
use proxy_common::packet::{Bytes, Fragment, Headers, parse, rewrite};
use proxy_common::reason::DropReason;

use crate::flows::{self, Room, Slow, Tables};
use crate::maps::{self, Kernel, clients};
use crate::skb::Skb;

/// `TCX_NEXT`: the chain goes on.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const DROP: i32 = 2;
/// `TCX_REDIRECT`.
pub const REDIRECT: i32 = 7;
/// Where an Ethernet header has the receiver's address.
const TO: u32 = 0;
/// Where it has the sender's.
const FROM: u32 = 6;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;

/// A packet enters the node.
#[inline(always)]
pub fn enter(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    skb.unmark_request();
    let Some(room) = read(&skb, ENTERS) else { return NEXT };
    if is_foreign(&Kernel, room.headers.dst) {
        return NEXT;
    }
    if !room.headers.has_ports() {
        return aside(ctx, &room.headers, (Slow::PartArrives, Slow::ErrorArrives));
    }
    if is_for_the_node(&Kernel, &Tables(ctx), &room.headers) {
        return NEXT;
    }
    let Some(passage) = passage(&skb, (&room.headers, TO), Origin::External) else { return NEXT };
    let action = arrive(&Kernel, &Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, (&room.headers, ENTERS), &action)
}

/// It is the first of a flow.
#[inline(always)]
pub fn first(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, room.link);
    let origin = Tables(ctx).origin(room.headers.src);
    let Some(passage) = passage(&skb, (&room.headers, TO), origin) else { return NEXT };
    let action = begin(&Kernel, &Tables(ctx), &passage, &mut room.work);
    if matches!(action, Action::Change(_)) {
        maps::count_service(room.work.whole.held.service, ServiceCounter::Picked);
    }
    carry_out(&mut skb, (&room.headers, ENTERS), &action)
}

/// A packet leaves the node.
#[inline(always)]
pub fn exit(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    let Some(room) = read(&skb, LEAVES) else { return NEXT };
    if !room.headers.has_ports() {
        return aside(ctx, &room.headers, (Slow::PartLeaves, Slow::ErrorLeaves));
    }
    let Some(passage) = passage(&skb, (&room.headers, FROM), Origin::External) else { return NEXT };
    let action = leave(&Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, (&room.headers, LEAVES), &action)
}

/// It needs another source.
#[inline(always)]
pub fn source(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, room.link);
    let Some(passage) = passage(&skb, (&room.headers, FROM), Origin::External) else { return NEXT };
    let action = reserve(&Tables(ctx), &passage, &mut room.work);
    carry_out(&mut skb, (&room.headers, LEAVES), &action)
}

/// Reads a packet's headers into the room of this CPU.
#[inline(always)]
fn read(skb: &Skb<'_>, place: u8) -> Option<&'static mut Room> {
    skb.pull();
    let room = flows::room()?;
    room.link = skb.link;
    room.place = place;
    if parse(skb, skb.link, skb.ether_type(), &mut room.headers) { Some(room) } else { None }
}

/// What has no ports may be a part of a datagram that has, or an error about a packet that had.
#[inline(always)]
fn aside(ctx: &TcContext, headers: &Headers, (part, error): (Slow, Slow)) -> i32 {
    if headers.is_later() {
        flows::go_on(ctx, part);
    } else if is_icmp(headers) {
        flows::go_on(ctx, error);
    }
    NEXT
}

#[inline(always)]
fn passage<'a>(skb: &Skb<'_>, (headers, mac_at): (&'a Headers, u32), origin: Origin) -> Option<Passage<'a>> {
    let tcp = if headers.proto == Proto::TCP { skb.byte(headers.segment + 13)? } else { 0 };
    let mac = if skb.link == 0 { NO_MAC } else { skb.mac(mac_at)? };
    Some(Passage { headers, tcp, origin, mac, now: clients::now(), is_request: skb.is_request() })
}

#[inline(always)]
fn carry_out(skb: &mut Skb<'_>, (headers, place): (&Headers, u8), action: &Action) -> i32 {
    match *action {
        Action::Pass => return NEXT,
        Action::Change(change) => {
            if headers.fragment == Fragment::First as u8 {
                let value = FragmentValue::new(&change, clients::now());
                flows::keep_part(&FragmentKey::of(headers, place), &value);
            }
            if change_packet(skb, headers, &change) {
                if place == ENTERS && change.is_request {
                    skb.mark_request();
                }
                return NEXT;
            }
            maps::count_reason(DropReason::Unchangeable);
        }
        Action::Begin => flows::go_on(skb.ctx, Slow::Begin),
        Action::Reserve => flows::go_on(skb.ctx, Slow::Reserve),
        Action::Refuse(service, reason) => {
            count(service, reason);
            flows::go_on(skb.ctx, Slow::Refuse);
        }
        Action::Drop(service, reason) => count(service, reason),
    }
    DROP
}

#[inline(always)]
fn count(service: u32, reason: DropReason) {
    maps::count_reason(reason);
    if service != 0 {
        maps::count_service(service, ServiceCounter::Refused);
    }
}

#[inline(always)]
fn change_packet(skb: &mut Skb<'_>, headers: &Headers, change: &Change) -> bool {
    let End { addr, port, .. } = change.to;
    if change.mac != NO_MAC && !skb.set_mac(TO, &change.mac)
        || !rewrite(skb, headers, change.side, (addr, port))
    {
        return false;
    }
    let far = change.side.far();
    let (far_addr, far_port) = far.of(headers);
    change.far_port == far_port || rewrite(skb, headers, far, (far_addr, change.far_port))
}
