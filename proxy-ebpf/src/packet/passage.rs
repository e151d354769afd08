//! A packet passes: it is read, decided about, and changed.

use aya_ebpf::programs::TcContext;
use proxy_common::addr::Proto;
use proxy_common::counter::ServiceCounter;
use proxy_common::flow::{End, Flow, NO_MAC};
use proxy_common::lb::{Origin, is_foreign};
use proxy_common::nat::fragment::{ENTERS, FragmentKey, FragmentValue, LEAVES};
use proxy_common::nat::{
    Action, Change, Flows, Passage, arrive, begin, direct, is_for_the_node, is_icmp, leave, may_be_direct,
    reserve, sent_on,
};
use proxy_common::packet::{Bytes, Fragment, Headers, parse, rewrite};
use proxy_common::reason::DropReason;
use proxy_common::shortcut::Route;

use crate::flows::{self, Room, Slow, Tables};
use crate::maps::{self, Kernel, clients};
use crate::shortcut::{self, Way};
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
/// Where a TCP header has its flags.
const FLAGS: u32 = 13;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;

/// A packet enters the node.
#[inline(always)]
pub fn enter(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    let is_sent_on = skb.unmark();
    let Some(room) = read(&skb, ENTERS) else { return NEXT };
    room.sent_on = u8::from(is_sent_on);
    go_in(&mut skb, room)
}

/// The same for one that a pod sends.
#[inline(always)]
pub fn enter_from_pod(ctx: &TcContext) -> i32 {
    let mut skb = Skb::new(ctx, ETHERNET);
    let is_sent_on = skb.unmark();
    let Some(room) = read(&skb, ENTERS) else { return NEXT };
    room.sent_on = u8::from(is_sent_on);
    if shortcut::are_wanted()
        && room.headers.has_ports()
        && let Some(taken) = reply(&mut skb, room)
    {
        return taken;
    }
    go_in(&mut skb, room)
}

#[inline(always)]
fn go_in(skb: &mut Skb<'_>, room: &mut Room) -> i32 {
    let ctx = skb.ctx;
    if is_foreign(&Kernel, room.headers.dst) {
        return past(skb, room);
    }
    if !room.headers.has_ports() {
        return aside(ctx, &room.headers, (Slow::PartArrives, Slow::ErrorArrives));
    }
    if is_for_the_node(&Kernel, &Tables(ctx), &room.headers) {
        return NEXT;
    }
    let Some(mut passage) = passage(skb, (&room.headers, TO), Origin::External) else { return NEXT };
    passage.is_request = room.sent_on != 0;
    let action = arrive(&Kernel, &Tables(ctx), &passage, &mut room.work);
    room.may_pass = u8::from(may_pass(&action));
    let verdict = carry_out(skb, (&room.headers, ENTERS), &action);
    skb.barrier();
    // What gets another source as it leaves goes to another node.
    if verdict == NEXT && room.may_pass != 0 && room.work.flow.other.is_none() {
        room.backend = room.work.flow.becomes.addr;
        return request(skb, room);
    }
    verdict
}

/// It is for no owned address, but may have to do with flows all the same.
#[inline(always)]
fn past(skb: &Skb<'_>, room: &Room) -> i32 {
    let (ctx, headers) = (skb.ctx, &room.headers);
    if !headers.has_ports() {
        // An error about what a backend has sent to a client with another port.
        if is_icmp(headers) && Tables(ctx).has_direct() {
            flows::go_on(ctx, Slow::ErrorArrives);
        }
    } else if room.sent_on == 0 && may_be_direct(&Tables(ctx), headers, tcp(skb, headers)) {
        flows::go_on(ctx, Slow::Direct);
    }
    NEXT
}

/// Whether a request is sent on that may go past the stack.
#[inline(always)]
fn may_pass(action: &Action) -> bool {
    matches!(action, Action::Change(change) if change.is_request && change.mac == NO_MAC)
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
        flows::go_on(ctx, Slow::SendOn);
        return DROP;
    }
    carry_out(&mut skb, (&room.headers, ENTERS), &action)
}

/// A client may be asking a backend itself.
#[inline(always)]
pub fn ask(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, room.link);
    let Some(mut passage) = passage(&skb, (&room.headers, TO), Origin::External) else { return NEXT };
    passage.is_request = room.sent_on != 0;
    // Somebody else has put a number where programs say so.
    let is_blind = !skb.is_unmarked();
    let action = direct(&Tables(ctx), &passage, is_blind, &mut room.work);
    carry_out(&mut skb, (&room.headers, ENTERS), &action)
}

/// The first packet of a flow that has its records is sent on.
#[inline(always)]
pub fn send_on(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return DROP };
    let mut skb = Skb::new(ctx, room.link);
    let whole = &room.work.whole;
    maps::count_service(whole.held.service, ServiceCounter::Picked);
    let verdict = carry_out(&mut skb, (&room.headers, ENTERS), &Action::Change(sent_on(whole)));
    if verdict != NEXT || !has_shortcuts(&skb) {
        return verdict;
    }
    room.backend = room.work.whole.backend.addr;
    request_by_any_way(&mut skb, room)
}

/// A packet leaves the node.
#[inline(always)]
pub fn exit(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    if skb.is_done() {
        return NEXT;
    }
    let Some(room) = read(&skb, LEAVES) else { return NEXT };
    if !room.headers.has_ports() {
        return aside(ctx, &room.headers, (Slow::PartLeaves, Slow::ErrorLeaves));
    }
    let Some(passage) = passage(&skb, (&room.headers, FROM), Origin::External) else { return NEXT };
    let action = leave(&Tables(ctx), &passage, &mut room.work);
    let verdict = carry_out(&mut skb, (&room.headers, LEAVES), &action);
    // It would look like a reply of the other flow to a device that it is still to pass.
    if let Action::Change(Change { is_request: false, .. }) = action
        && room.work.flow.has(Flow::DIRECT)
        && skb.is_unmarked()
    {
        skb.mark_done();
    }
    verdict
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

/// Flags of a TCP header; none of anything else.
#[inline(always)]
fn tcp(skb: &Skb<'_>, headers: &Headers) -> u8 {
    if headers.proto == Proto::TCP { skb.byte(headers.segment + FLAGS).unwrap_or(0) } else { 0 }
}

#[inline(always)]
fn passage<'a>(skb: &Skb<'_>, (headers, mac_at): (&'a Headers, u32), origin: Origin) -> Option<Passage<'a>> {
    let tcp = if headers.proto == Proto::TCP { skb.byte(headers.segment + FLAGS)? } else { 0 };
    let mac = if skb.link == 0 { NO_MAC } else { skb.mac(mac_at)? };
    Some(Passage { headers, tcp, origin, mac, now: clients::now(), is_request: skb.is_request() })
}

/// A reply of a pod goes past the stack. `None`: it is none, or goes the long way, on which it is changed as it leaves.
#[inline(always)]
fn reply(skb: &mut Skb<'_>, room: &mut Room) -> Option<i32> {
    let ends = (room.headers.src, room.headers.dst);
    let is_known = Tables(skb.ctx)
        .may_know(&End::new(ends.0, room.headers.src_port), &End::new(ends.1, room.headers.dst_port));
    if !is_known || !skb.is_unmarked() {
        return None;
    }
    match shortcut::way(skb, &room.headers, ends) {
        Way::Stack => None,
        Way::Short(route) => {
            let change = change_of_reply(skb, room)?;
            Some(go_short(skb, room, &change, route))
        }
        Way::Unknown => {
            change_of_reply(skb, room)?;
            flows::go_on(skb.ctx, Slow::ReplyPasses);
            None
        }
    }
}

/// Finds the way of a reply, and sends it there.
#[inline(always)]
pub fn reply_passes(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, ETHERNET);
    let ends = (room.headers.src, room.headers.dst);
    let Way::Short(route) = shortcut::find(&skb, room, ends, true) else { return NEXT };
    match change_of_reply(&skb, room) {
        Some(change) => go_short(&mut skb, room, &change, route),
        None => NEXT,
    }
}

/// What a reply is changed into. Its frame says nothing: pods of a bridge have no shortcuts.
#[inline(always)]
fn change_of_reply(skb: &Skb<'_>, room: &mut Room) -> Option<Change> {
    let mut passage = passage(skb, (&room.headers, FROM), Origin::External)?;
    passage.mac = NO_MAC;
    match leave(&Tables(skb.ctx), &passage, &mut room.work) {
        Action::Change(change) if !change.is_request => Some(change),
        _ => None,
    }
}

#[inline(always)]
fn go_short(skb: &mut Skb<'_>, room: &Room, change: &Change, route: &Route) -> i32 {
    if change_packet(skb, &room.headers, change)
        && let Some(taken) = shortcut::take(skb, &room.headers, route)
    {
        skb.mark_done();
        return taken;
    }
    maps::count_reason(DropReason::Unchangeable);
    DROP
}

/// A request has been changed, and goes past the stack if it may.
#[inline(always)]
fn request(skb: &mut Skb<'_>, room: &mut Room) -> i32 {
    if !has_shortcuts(skb) {
        return NEXT;
    }
    match shortcut::way(skb, &room.headers, (room.headers.src, room.backend)) {
        Way::Stack => {}
        Way::Short(route) => return shortcut::take(skb, &room.headers, route).unwrap_or(NEXT),
        Way::Unknown => flows::go_on(skb.ctx, Slow::RequestPasses),
    }
    NEXT
}

#[inline(always)]
fn has_shortcuts(skb: &Skb<'_>) -> bool {
    shortcut::are_wanted() && skb.link != 0
}

/// A request has been changed, and nothing is known of its way.
#[inline(always)]
pub fn request_passes(ctx: &TcContext) -> i32 {
    let Some(room) = flows::room() else { return NEXT };
    request_by_any_way(&mut Skb::new(ctx, ETHERNET), room)
}

/// Sends a request that has been changed by its way, which is found unless it is known.
#[inline(always)]
fn request_by_any_way(skb: &mut Skb<'_>, room: &mut Room) -> i32 {
    let ends = (room.headers.src, room.backend);
    let way = match shortcut::way(skb, &room.headers, ends) {
        Way::Unknown => shortcut::find(skb, room, ends, false),
        known => known,
    };
    match way {
        Way::Short(route) => shortcut::take(skb, &room.headers, route).unwrap_or(NEXT),
        Way::Stack | Way::Unknown => NEXT,
    }
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
        Action::Direct => {
            flows::go_on(skb.ctx, Slow::Direct);
            return NEXT;
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
