//! Packets that are of a flow and have no ports of their own: ICMP errors, and all parts of a datagram but the first. And the
//! refusal of one that nobody serves.

use aya_ebpf::programs::TcContext;
use proxy_common::addr::Port;
use proxy_common::lb::{Lookup, owns_vip};
use proxy_common::nat::fragment::{ENTERS, FragmentKey};
use proxy_common::nat::{ErrorChange, Report, Work, error_arrives, error_leaves};
use proxy_common::packet::quoted::{self, rewrite_quoted};
use proxy_common::packet::refusal::refuse;
use proxy_common::packet::rewrite;
use proxy_common::reason::DropReason;

use crate::flows::{self, Desk, Room, Tables};
use crate::maps::{self, Kernel, clients};
use crate::passage::{DROP, NEXT, REDIRECT};
use crate::skb::{ERROR, Skb};

/// An ICMP error enters the node.
#[inline(always)]
pub fn error_enters(ctx: &TcContext) -> i32 {
    let Some((mut skb, report, work)) = read_quoted(ctx) else { return NEXT };
    let change = error_arrives(&Tables(ctx), &report, work);
    tell(&mut skb, &report, change)
}

/// An ICMP error leaves the node.
#[inline(always)]
pub fn error_exits(ctx: &TcContext) -> i32 {
    let Some((mut skb, report, work)) = read_quoted(ctx) else { return NEXT };
    let change = error_leaves(&Tables(ctx), &report, work);
    tell(&mut skb, &report, change)
}

#[inline(always)]
fn read_quoted(ctx: &TcContext) -> Option<(Skb<'_>, Report<'static>, &'static mut Work)> {
    let Room { headers, desk: Desk { link, quoted: inner, work, .. } } = flows::room()?;
    let skb = Skb::new(ctx, *link);
    skb.pull_to(ERROR);
    if !quoted::quoted(&skb, headers, inner) {
        return None;
    }
    Some((skb, Report { outer: headers, inner, now: clients::now() }, work))
}

#[inline(always)]
fn tell(skb: &mut Skb<'_>, report: &Report<'_>, change: Option<ErrorChange>) -> i32 {
    let Some(change) = change else { return NEXT };
    if change_error(skb, report, &change) {
        return NEXT;
    }
    maps::count_reason(DropReason::Unchangeable);
    DROP
}

#[inline(always)]
fn change_error(skb: &mut Skb<'_>, report: &Report<'_>, change: &ErrorChange) -> bool {
    let both = (report.outer, report.inner);
    let far = change.quoted_side.far();
    let (far_addr, far_port) = far.of(report.inner);
    let (addr, _) = change.side.of(report.outer);
    rewrite_quoted(skb, both, change.quoted_side, (change.quoted.addr, change.quoted.port))
        && (change.quoted_far_port == far_port
            || rewrite_quoted(skb, both, far, (far_addr, change.quoted_far_port)))
        && (change.addr == addr || rewrite(skb, report.outer, change.side, (change.addr, Port::ANY)))
}

/// A part of a datagram without ports.
#[inline(always)]
pub fn part(ctx: &TcContext) -> i32 {
    let Some(Room { headers, desk }) = flows::room() else { return NEXT };
    let mut skb = Skb::new(ctx, desk.link);
    let change =
        flows::part(&FragmentKey::of(headers, desk.place)).and_then(|part| part.change(clients::now()));
    if let Some((side, addr)) = change {
        if rewrite(&mut skb, headers, side, (addr, Port::ANY)) {
            return NEXT;
        }
        maps::count_reason(DropReason::Unchangeable);
        return DROP;
    }
    // What is for the node itself its own stack puts together; what leaves is of no flow.
    if desk.place != ENTERS || Kernel.node_addr(headers.dst).is_some() || !owns_vip(&Kernel, headers.dst) {
        return NEXT;
    }
    maps::count_reason(DropReason::LostFragment);
    DROP
}

/// Nobody serves a packet: its sender is told.
#[inline(always)]
pub fn refusal(ctx: &TcContext) -> i32 {
    let Some(Room { headers, desk }) = flows::room() else { return DROP };
    let mut skb = Skb::new(ctx, desk.link);
    if !Tables(ctx).may_refuse() {
        maps::count_reason(DropReason::RefusalLimit);
        return DROP;
    }
    if refuse(&skb, headers, &mut desk.answer) && skb.turn_into(&desk.answer) {
        skb.send_back();
        return REDIRECT;
    }
    DROP
}
