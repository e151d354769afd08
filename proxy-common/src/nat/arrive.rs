//! A packet enters the node: DNAT, and the client instead of the SNAT end.

use super::{ACK, Action, Change, FIN, Flows, Passage, RST, SYN, Work, is_alive};
use crate::addr::Proto;
use crate::flow::{Flow, FlowKey, NO_MAC, Part};
use crate::lb::{Lookup, row_of};
use crate::packet::Side;

/// A record is written anew by a packet only if the last one was this long ago, in nanoseconds.
const REFRESH: u64 = 1_000_000_000;

/// Decides about a packet that enters the node.
///
/// One test of the filter lets go of what is not for an owned address. A flow that is known goes on, TCP also to a backend
/// that is gone from its service: it may drain. A UDP flow whose backend no longer serves begins anew at once. Packets in the
/// middle of a TCP connection without a record go on to the stack: who served it before us may know it.
#[inline(always)]
pub fn arrive<L: Lookup, F: Flows>(lookup: &L, flows: &F, passage: &Passage<'_>, work: &mut Work) -> Action {
    if !lookup.may_own(passage.headers.dst) {
        return Action::Pass;
    }
    if flows.ports().has(passage.headers.dst_port)
        && let Some(change) = give_back(flows, passage, work)
    {
        return Action::Change(change);
    }
    passage.key(Part::Forward, false, &mut work.key);
    if flows.may_know(&work.key.src, &work.key.dst)
        && flows.find(&work.key, &mut work.flow)
        && goes_on(lookup, flows, passage, &work.flow)
        && let Some(change) = forward(flows, passage, work)
    {
        return Action::Change(change);
    }
    if passage.headers.proto == Proto::TCP && !passage.is_syn() { Action::Pass } else { Action::Begin }
}

/// The reply of a remote backend is for the client.
#[inline(always)]
fn give_back<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Option<Change> {
    passage.key(Part::Return, false, &mut work.key);
    if !flows.find(&work.key, &mut work.flow)
        || !is_alive(&work.flow, passage.headers.proto, &flows.timeouts(), passage.now)
    {
        return None;
    }
    refresh(flows, passage, (&work.key, &mut work.flow));
    Some(Change {
        side: Side::Destination,
        to: work.flow.becomes,
        far_port: passage.headers.src_port,
        mac: NO_MAC,
    })
}

#[inline(always)]
fn goes_on<L: Lookup, F: Flows>(lookup: &L, flows: &F, passage: &Passage<'_>, flow: &Flow) -> bool {
    let proto = passage.headers.proto;
    if !is_alive(flow, proto, &flows.timeouts(), passage.now) {
        return false;
    }
    let may_stay = match proto {
        Proto::TCP => !passage.is_syn(),
        Proto::UDP => false,
        _ => true,
    };
    if may_stay {
        return true;
    }
    let is_over = flow.flags & (Flow::FINISHED | Flow::RESET) != 0;
    !is_over && row_of(lookup, &flow.held()).is_some_and(|row| row.state().is_serving())
}

/// Sends on a flow that goes on. `None`: somebody else has its reply.
#[inline(always)]
fn forward<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Option<Change> {
    work.whole.recall(Part::Forward, &work.key, &work.flow);
    work.whole.key(Part::Reply, &mut work.twin_key);
    if !flows.find(&work.twin_key, &mut work.twin) {
        work.whole.record(Part::Reply, passage.now, &mut work.twin);
        work.twin.mac = passage.mac;
        flows.put(&work.twin_key, &work.twin);
    } else if work.twin.becomes != work.whole.vip || work.twin.port != work.whole.client.port {
        return None;
    }
    let mac = work.flow.mac;
    let change = Change { side: Side::Destination, to: work.whole.backend, far_port: work.whole.inside, mac };
    // A client that answers an answer is no flood's. Its first ACK says so for TCP, its second datagram for UDP.
    let is_answer = passage.headers.proto != Proto::TCP || passage.tcp & (SYN | ACK) == ACK;
    if !work.flow.has(Flow::SETTLED) && work.twin.has(Flow::ANSWERED) && is_answer {
        settle(flows, passage, work);
    } else {
        refresh(flows, passage, (&work.key, &mut work.flow));
        // The other side of what is reset says nothing any more by which its record would know.
        let flags = seen(work.twin.flags, passage.tcp & RST);
        if flags != work.twin.flags || passage.now.saturating_sub(work.twin.used) >= REFRESH {
            work.twin.flags = flags;
            work.twin.used = passage.now;
            flows.put(&work.twin_key, &work.twin);
        }
    }
    Some(change)
}

/// Moves the parts of a flow into the main table; where there is no room, they stay where they are.
#[inline(always)]
fn settle<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) {
    work.twin.flags |= Flow::SETTLED;
    work.twin.used = passage.now;
    if !flows.settle(&work.twin_key, &work.twin) {
        return;
    }
    work.flow.flags = seen(work.flow.flags, passage.tcp) | Flow::SETTLED;
    work.flow.used = passage.now;
    flows.settle(&work.key, &work.flow);
    if work.whole.has_snat() {
        work.whole.flags |= Flow::SETTLED;
        work.whole.key(Part::Return, &mut work.twin_key);
        work.whole.record(Part::Return, passage.now, &mut work.twin);
        flows.settle(&work.twin_key, &work.twin);
    }
}

/// Flags of a part after a packet. An RST counts until another packet comes: whoever is really reset sends none, and nobody here
/// knows whether it was within the window.
#[inline(always)]
pub(super) const fn seen(flags: u16, tcp: u8) -> u16 {
    let finished = if tcp & FIN != 0 { Flow::FINISHED } else { 0 };
    let reset = if tcp & RST != 0 { Flow::RESET } else { 0 };
    (flags & !Flow::RESET) | finished | reset
}

/// Keeps a record alive that a packet has come by.
#[inline(always)]
pub(super) fn refresh<F: Flows>(flows: &F, passage: &Passage<'_>, (key, flow): (&FlowKey, &mut Flow)) {
    let flags = seen(flow.flags, passage.tcp);
    if flags != flow.flags || passage.now.saturating_sub(flow.used) >= REFRESH {
        flow.flags = flags;
        flow.used = passage.now;
        flows.put(key, flow);
    }
}
