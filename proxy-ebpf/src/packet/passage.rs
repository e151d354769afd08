//! A packet passes: it is read, decided about, and changed.

use aya_ebpf::programs::TcContext;
use proxy_common::addr::Proto;
use proxy_common::counter::ServiceCounter;
use proxy_common::flow::{End, Flow, NO_MAC, Part};
use proxy_common::lb::is_foreign;
use proxy_common::nat::fragment::{ENTERS, FragmentKey, FragmentValue, LEAVES};
use proxy_common::nat::{
    Action, Change, Flows, Passage, arrive, begin, direct, flags_of_chunk, is_for_the_node, is_icmp, leave,
    may_be_direct, may_be_of_a_flow, reserve, sent_on,
};
use proxy_common::packet::usual::{V4_BYTES, V6_BYTES, usual_v4, usual_v6};
use proxy_common::packet::{Bytes, ETHER_IPV4, ETHER_IPV6, Fragment, Headers, parse, rewrite};
use proxy_common::reason::DropReason;
use proxy_common::shortcut::Route;

use crate::flows::{self, Desk, Room, Slow, Tables};
use crate::maps::{self, Kernel, clients};
use crate::middle::{self, Taken};
use crate::shortcut::{self, Neighbour, Way};
use crate::skb::Skb;

/// `TCX_NEXT`: the chain goes on.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const DROP: i32 = 2;
/// `TCX_REDIRECT`.
pub const REDIRECT: i32 = 7;
/// Where an Ethernet header has the receiver's address.
pub const TO: u32 = 0;
/// Where it has the sender's.
pub const FROM: u32 = 6;
/// Where a TCP header has its flags.
const FLAGS: u32 = 13;
/// Where the first chunk of an SCTP packet has its type.
const CHUNK: u32 = 12;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;

/// A packet enters the node.
#[inline(always)]
pub fn enter(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    let is_sent_on = skb.unmark();
    if let Some(headers) = usual(&skb, ETHER_IPV4) {
        return enter_usual(&mut skb, &headers, is_sent_on);
    }
    if let Some(headers) = usual(&skb, ETHER_IPV6) {
        return enter_usual(&mut skb, &headers, is_sent_on);
    }
    let Some(room) = flows::room() else { return NEXT };
    said(&mut room.desk, (is_sent_on, false));
    match read(&skb, room, ENTERS) {
        Some((headers, _)) if is_foreign(&Kernel, headers.dst) => past(&skb, headers, (is_sent_on, false)),
        Some((headers, desk)) => go_in(&mut skb, headers, desk),
        None => NEXT,
    }
}

/// One as most are.
#[inline(always)]
fn enter_usual(skb: &mut Skb<'_>, headers: &Headers, is_sent_on: bool) -> i32 {
    if is_foreign(&Kernel, headers.dst) {
        return past(skb, headers, (is_sent_on, false));
    }
    match middle::take(skb, headers, Part::Forward) {
        Taken::Gone(verdict) => return verdict,
        Taken::Stranger => return NEXT,
        Taken::Not => {}
    }
    match lay_out(skb, headers, (is_sent_on, false)) {
        Some(desk) => go_in(skb, headers, desk),
        None => NEXT,
    }
}

/// The same for one that a pod sends.
#[inline(always)]
pub fn enter_from_pod(ctx: &TcContext) -> i32 {
    let mut skb = Skb::new(ctx, ETHERNET);
    let is_sent_on = skb.unmark();
    if let Some(headers) = usual(&skb, ETHER_IPV4) {
        if skb.is_unmarked()
            && let Taken::Gone(verdict) = middle::take(&mut skb, &headers, Part::Reply)
        {
            return verdict;
        }
        return match lay_out(&skb, &headers, (is_sent_on, true)) {
            Some(desk) => go_in_from_pod(&mut skb, &headers, desk),
            None => NEXT,
        };
    }
    let Some(room) = flows::room() else { return NEXT };
    said(&mut room.desk, (is_sent_on, true));
    match read(&skb, room, ENTERS) {
        Some((headers, desk)) => go_in_from_pod(&mut skb, headers, desk),
        None => NEXT,
    }
}

#[inline(always)]
fn go_in_from_pod(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> i32 {
    match reply(skb, headers, desk) {
        Some(taken) => taken,
        None if is_foreign(&Kernel, headers.dst) => past(skb, headers, (desk.sent_on != 0, true)),
        None => go_in(skb, headers, desk),
    }
}

/// It is for an owned address.
#[inline(always)]
fn go_in(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> i32 {
    let ctx = skb.ctx;
    if !headers.has_ports() {
        return aside(ctx, headers, (Slow::PartArrives, Slow::ErrorArrives));
    }
    if is_for_the_node(&Kernel, &Tables(ctx), headers) {
        return NEXT;
    }
    let is_request = desk.sent_on != 0;
    let Some(passage) = passage(skb, (headers, TO), is_request, clients::now()) else { return NEXT };
    let action = arrive(&Kernel, &Tables(ctx), &passage, &mut desk.work);
    desk.may_pass = u8::from(may_pass(&action));
    let verdict = carry_out(skb, (headers, ENTERS), &action);
    skb.barrier();
    // What gets another source as it leaves goes to another node, or is to be seen where it leaves.
    if verdict == NEXT
        && desk.may_pass != 0
        && desk.work.flow.other.is_none()
        && !desk.work.flow.has(Flow::MASQUERADED)
    {
        desk.backend = desk.work.flow.becomes.addr;
        return request(skb, headers, desk);
    }
    verdict
}

/// It is for no owned address, but may have to do with flows all the same.
#[inline(always)]
fn past(skb: &Skb<'_>, headers: &Headers, (is_sent_on, from_pods): (bool, bool)) -> i32 {
    let ctx = skb.ctx;
    if !headers.has_ports() {
        // An error about what a backend has sent to a client with another port.
        if is_icmp(headers) && Tables(ctx).has_direct() {
            flows::go_on(ctx, Slow::ErrorArrives);
        }
    } else if !is_sent_on
        && let Some(tcp) = tcp(skb, headers)
        && may_be_direct(&Tables(ctx), headers, tcp)
        && lay_out(skb, headers, (is_sent_on, from_pods)).is_some()
    {
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
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, desk.link);
    let is_request = skb.is_request();
    let Some(mut passage) = passage(&skb, (headers, TO), is_request, clients::now()) else { return NEXT };
    passage.is_from_pods = is_from_pods(&skb, desk);
    let action = begin(&Kernel, &Tables(ctx), &passage, &mut desk.work);
    if matches!(action, Action::Change(_)) {
        // What is written of it is read again from memory.
        skb.barrier();
        return send_on(&mut skb, headers, desk);
    }
    carry_out(&mut skb, (headers, ENTERS), &action)
}

/// A client may be asking a backend itself.
#[inline(always)]
pub fn ask(ctx: &TcContext) -> i32 {
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, desk.link);
    let is_request = desk.sent_on != 0;
    let Some(mut passage) = passage(&skb, (headers, TO), is_request, clients::now()) else { return NEXT };
    passage.is_from_pods = is_from_pods(&skb, desk);
    // Somebody else has put a number where programs say so.
    let is_blind = !skb.is_unmarked();
    let action = direct(&Tables(ctx), &passage, is_blind, &mut desk.work);
    carry_out(&mut skb, (headers, ENTERS), &action)
}

/// The first packet of a flow that has its records is sent on.
#[inline(always)]
fn send_on(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> i32 {
    let whole = &desk.work.whole;
    maps::count_service(whole.held.service, ServiceCounter::Picked);
    let verdict = carry_out(skb, (headers, ENTERS), &Action::Change(sent_on(whole)));
    if verdict != NEXT || whole.flags & Flow::MASQUERADED != 0 || !has_shortcuts(skb) {
        return verdict;
    }
    desk.backend = desk.work.whole.backend.addr;
    request_by_any_way(skb, headers, desk)
}

/// A packet leaves the node.
#[inline(always)]
pub fn exit(ctx: &TcContext, link: u32) -> i32 {
    let mut skb = Skb::new(ctx, link);
    if skb.is_done() {
        return NEXT;
    }
    let Some(room) = flows::room() else { return NEXT };
    let Some((headers, desk)) = read(&skb, room, LEAVES) else { return NEXT };
    if !headers.has_ports() {
        return aside(ctx, headers, (Slow::PartLeaves, Slow::ErrorLeaves));
    }
    // What goes on needs no other program: a table of those that is lost costs new flows only.
    if !may_be_of_a_flow(&Tables(ctx), headers) {
        return NEXT;
    }
    let is_request = skb.is_request();
    let Some(passage) = passage(&skb, (headers, FROM), is_request, clients::now()) else { return NEXT };
    let action = leave(&Tables(ctx), &passage, &mut desk.work);
    let verdict = carry_out(&mut skb, (headers, LEAVES), &action);
    // It would look like a reply of the other flow to a device that it is still to pass.
    if let Action::Change(Change { is_request: false, .. }) = action
        && desk.work.flow.has(Flow::DIRECT)
        && skb.is_unmarked()
    {
        skb.mark_done();
    }
    verdict
}

/// It needs another source.
#[inline(always)]
pub fn source(ctx: &TcContext) -> i32 {
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, desk.link);
    let is_request = skb.is_request();
    let Some(passage) = passage(&skb, (headers, FROM), is_request, clients::now()) else { return NEXT };
    let action = reserve(&Tables(ctx), &passage, &mut desk.work);
    carry_out(&mut skb, (headers, LEAVES), &action)
}

/// Reads the headers of a packet as most are. What is done about such a packet is compiled for it alone, and half as long.
#[inline(always)]
fn usual(skb: &Skb<'_>, ether_type: u16) -> Option<Headers> {
    if skb.link != ETHERNET || skb.ether_type() != ether_type {
        return None;
    }
    match ether_type {
        ETHER_IPV4 => usual_v4(&skb.near(V4_BYTES)?),
        _ => usual_v6(&skb.near(V6_BYTES)?),
    }
}

/// Lays the headers of a packet that enters into the room of this CPU, for the programs that follow.
#[inline(always)]
fn lay_out(skb: &Skb<'_>, headers: &Headers, what: (bool, bool)) -> Option<&'static mut Desk> {
    let Room { headers: place, desk } = flows::room()?;
    *place = *headers;
    lies_at(desk, skb, ENTERS);
    said(desk, what);
    Some(desk)
}

/// Notes where a packet is, and what is ahead of its headers.
#[inline(always)]
fn lies_at(desk: &mut Desk, skb: &Skb<'_>, place: u8) {
    desk.link = skb.link;
    desk.place = place;
}

/// Notes what is known of a packet that enters: whether a program at another device has sent it on, and whether it has come by a
/// device of pods.
#[inline(always)]
fn said(desk: &mut Desk, (is_sent_on, is_from_pods): (bool, bool)) {
    desk.sent_on = u8::from(is_sent_on);
    desk.from_pods = u8::from(is_from_pods);
}

/// Whether a packet has come by a device of pods: which program that was tells, but where there are no frames.
#[inline(always)]
fn is_from_pods(skb: &Skb<'_>, desk: &Desk) -> bool {
    desk.from_pods != 0 || skb.link == 0 && Tables(skb.ctx).leads_to_pods()
}

/// Reads those of any packet into the room of this CPU.
#[inline(always)]
fn read<'a>(skb: &Skb<'_>, room: &'a mut Room, place: u8) -> Option<(&'a Headers, &'a mut Desk)> {
    skb.pull();
    lies_at(&mut room.desk, skb, place);
    let Room { headers, desk } = room;
    if parse(skb, skb.link, skb.ether_type(), headers) { Some((headers, desk)) } else { None }
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

/// Flags of a TCP header, or what SCTP says in their place; zero for anything else.
#[inline(always)]
pub fn tcp<B: Bytes>(bytes: &B, headers: &Headers) -> Option<u8> {
    match headers.proto {
        Proto::TCP => bytes.byte(headers.segment + FLAGS),
        Proto::SCTP => Some(flags_of_chunk(bytes.byte(headers.segment + CHUNK)?)),
        _ => Some(0),
    }
}

#[inline(always)]
fn passage<'a>(
    skb: &Skb<'_>,
    (headers, mac_at): (&'a Headers, u32),
    is_request: bool,
    now: u64,
) -> Option<Passage<'a>> {
    let tcp = tcp(skb, headers)?;
    let mac = if skb.link == 0 { NO_MAC } else { skb.mac(mac_at)? };
    Some(Passage { headers, tcp, is_from_pods: false, mac, now, is_request })
}

/// A reply of a pod goes past the stack. `None`: it is none, or goes the long way, on which it is changed as it leaves.
#[inline(always)]
fn reply(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> Option<i32> {
    if !shortcut::are_wanted() || !headers.has_ports() {
        return None;
    }
    if !may_be_of_a_flow(&Tables(skb.ctx), headers) || !skb.is_unmarked() {
        return None;
    }
    match shortcut::way(skb, headers, (headers.src, headers.dst)) {
        Way::Stack => None,
        Way::Short(route) => {
            let change = change_of_reply(skb, headers, (desk, clients::now()))?;
            Some(go_short(skb, headers, &change, (route, Neighbour::Known)))
        }
        Way::Unknown => {
            change_of_reply(skb, headers, (desk, clients::now()))?;
            flows::go_on(skb.ctx, Slow::ReplyPasses);
            None
        }
    }
}

/// Finds the way of a reply, and sends it there.
#[inline(always)]
pub fn reply_passes(ctx: &TcContext) -> i32 {
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, ETHERNET);
    let (ends, now) = ((headers.src, headers.dst), clients::now());
    let Way::Short(route) = shortcut::find(&skb, headers, (desk, now), (ends, true)) else { return NEXT };
    match change_of_reply(&skb, headers, (desk, now)) {
        // Now and then the kernel is to see that the neighbour is used, or it would think it gone.
        Some(change) => go_short(&mut skb, headers, &change, (route, Neighbour::Asked)),
        None => NEXT,
    }
}

/// What a reply is changed into. Its frame says nothing: pods of a bridge have no shortcuts.
#[inline(always)]
fn change_of_reply(skb: &Skb<'_>, headers: &Headers, (desk, now): (&mut Desk, u64)) -> Option<Change> {
    let (tcp, mac) = (tcp(skb, headers)?, NO_MAC);
    let passage = Passage { headers, tcp, is_from_pods: false, mac, now, is_request: false };
    match leave(&Tables(skb.ctx), &passage, &mut desk.work) {
        Action::Change(change) if !change.is_request => Some(change),
        _ => None,
    }
}

/// A packet goes past the stack, changed.
#[inline(always)]
pub fn go_short(skb: &mut Skb<'_>, headers: &Headers, change: &Change, by: (&Route, Neighbour)) -> i32 {
    if change_packet(skb, headers, change)
        && let Some(taken) = shortcut::take(skb, headers, by)
    {
        if change.is_request {
            skb.mark_request();
        } else {
            skb.mark_done();
        }
        return taken;
    }
    maps::count_reason(DropReason::Unchangeable);
    DROP
}

/// A request has been changed, and goes past the stack if it may.
#[inline(always)]
fn request(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> i32 {
    if !has_shortcuts(skb) {
        return NEXT;
    }
    match shortcut::way(skb, headers, (headers.src, desk.backend)) {
        Way::Stack => {}
        Way::Short(route) => {
            return shortcut::take(skb, headers, (route, Neighbour::Known)).unwrap_or(NEXT);
        }
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
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    request_by_any_way(&mut Skb::new(ctx, ETHERNET), headers, desk)
}

/// Sends a request that has been changed by its way, which is found unless it is known.
#[inline(always)]
fn request_by_any_way(skb: &mut Skb<'_>, headers: &Headers, desk: &mut Desk) -> i32 {
    let ends = (headers.src, desk.backend);
    let way = match shortcut::way(skb, headers, ends) {
        Way::Unknown => shortcut::find(skb, headers, (desk, clients::now()), (ends, false)),
        known => known,
    };
    match way {
        Way::Short(route) => shortcut::take(skb, headers, (route, Neighbour::Known)).unwrap_or(NEXT),
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
