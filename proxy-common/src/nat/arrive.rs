//! A packet enters the node: DNAT, and the client instead of the SNAT end.

use super::leave::finds;
use super::{ACK, Action, Change, FIN, Flows, Passage, RST, SYN, Work, is_alive};
use crate::addr::Proto;
use crate::flow::{Flow, FlowKey, NO_MAC, Part};
use crate::lb::{Lookup, row_of};
use crate::packet::{Headers, Side};

/// Nanoseconds of silence after which a connection that was over ends by a SYN: its client has another to ask for.
const AFTER_ITS_END: u64 = 500_000_000;
/// The same for one that was not, and whose backend is gone: its client has forgotten it.
const AFTER_SILENCE: u64 = 10_000_000_000;

/// Whether it is a datagram for an address of the node, at a port that no frontend has and that no client was given: as the outer
/// packets of a tunnel. [`arrive`] would pass it too, and takes twice as long to say so; but a flow to a NodePort that is gone ends here,
/// as one to a VIP that is gone does at the filter.
#[inline(always)]
pub fn is_for_the_node<L: Lookup, F: Flows>(lookup: &L, flows: &F, headers: &Headers) -> bool {
    let Headers { dst, dst_port, proto, .. } = *headers;
    proto == Proto::UDP
        && !lookup.may_serve(dst_port, proto)
        && !flows.ports().has(dst_port)
        && lookup.node_addr(dst).is_some()
}

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
    // A client of SCTP keeps its port towards another node, wherever that lies.
    let may_return = (passage.headers.proto == Proto::SCTP) | flows.ports().has(passage.headers.dst_port);
    if may_return && let Some(change) = give_back(flows, passage, work) {
        return Action::Change(change);
    }
    passage.key(Part::Forward, false, &mut work.key);
    // What asks for a connection is about to be a flow: its mark would be one cache miss more.
    let may_be_there = passage.is_syn() || flows.may_know(&work.key.src, &work.key.dst);
    let found = if may_be_there { flows.find(&work.key, &mut work.flow) } else { None };
    work.is_new = u64::from(found.is_none());
    if let Some(place) = found
        // What another device has sent on for the flow through the frontend looks like the other's, see `direct`.
        && !(passage.is_request && work.flow.has(Flow::DIRECT))
        && goes_on(lookup, flows, passage, &work.flow)
        && let Some(change) = forward(flows, passage, (place, work))
    {
        return Action::Change(change);
    }
    if passage.headers.proto == Proto::TCP && !passage.is_syn() { Action::Pass } else { Action::Begin }
}

/// The reply of a remote backend is for the client.
#[inline(always)]
fn give_back<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Option<Change> {
    passage.key(Part::Return, false, &mut work.key);
    let place = finds(flows, passage, work)?;
    refresh(flows, passage, &work.key, (place, &mut work.flow));
    Some(Change {
        side: Side::Destination,
        to: work.flow.becomes,
        far_port: passage.headers.src_port,
        mac: NO_MAC,
        is_request: false,
    })
}

/// Whether a packet belongs to the flow of a record. One that asks for a connection does not where that was over, or where its
/// backend is gone. But it may be forged, or late: an open connection whose backend drains is not to lose it by that, nor one whose
/// end was forged just before, since the next packet of its own takes that back.
#[inline(always)]
fn goes_on<L: Lookup, F: Flows>(lookup: &L, flows: &F, passage: &Passage<'_>, flow: &Flow) -> bool {
    let proto = passage.headers.proto;
    if !is_alive(flow, proto, &flows.timeouts(), passage.now) {
        return false;
    }
    let has_state = proto != Proto::UDP;
    if has_state && !passage.is_syn() {
        return true;
    }
    // Whose mark is lost is known again by being made anew; what is no SYN has been asked for it.
    if passage.is_syn() && !flows.may_know(&passage.src(), &passage.dst()) {
        return false;
    }
    let is_serving = row_of(lookup, &flow.held()).is_some_and(|row| row.state().is_serving());
    if has_state && flow.has(Flow::SETTLED) {
        let is_over = flow.is_over();
        let patience = if is_over { AFTER_ITS_END } else { AFTER_SILENCE };
        return is_serving && !is_over || passage.now.saturating_sub(flow.used) < patience;
    }
    is_serving && !flow.has(Flow::FINISHED | Flow::RESET)
}

/// Sends on a flow that goes on. `None`: somebody else has its reply.
#[inline(always)]
pub(super) fn forward<F: Flows>(
    flows: &F,
    passage: &Passage<'_>,
    (place, work): (F::Place, &mut Work),
) -> Option<Change> {
    let Flow { becomes: to, port: far_port, mac, flags, .. } = work.flow;
    // The other side of what is reset says nothing any more by which its record would know.
    let is_reset = flags & Flow::RESET != 0 || passage.tcp & RST != 0;
    if flags & Flow::SETTLED != 0 && !is_reset && !passage.is_due(&work.flow) {
        refresh(flows, passage, &work.key, (place, &mut work.flow));
    } else if !look_after(flows, passage, (place, work)) {
        return None;
    }
    Some(Change { side: Side::Destination, to, far_port, mac, is_request: true })
}

/// Writes what a packet says of its flow to all records of it, and makes anew one that is lost. False: somebody else has the reply.
#[inline(always)]
fn look_after<F: Flows>(flows: &F, passage: &Passage<'_>, (place, work): (F::Place, &mut Work)) -> bool {
    work.whole.recall(Part::Forward, &work.key, &work.flow);
    work.whole.key(Part::Reply, &mut work.twin_key);
    let Some(twin) = flows.find(&work.twin_key, &mut work.twin) else {
        work.whole.record(Part::Reply, passage.now, &mut work.twin);
        work.twin.mac = passage.mac;
        keep(flows, &work.twin_key, &mut work.twin);
        refresh(flows, passage, &work.key, (place, &mut work.flow));
        return true;
    };
    if !work.whole.has(Part::Reply, &work.twin) {
        return false;
    }
    // A client that answers an answer is no flood's. Its first ACK says so for TCP, its second datagram for UDP.
    let is_answer = passage.headers.proto != Proto::TCP || passage.tcp & (SYN | ACK) == ACK;
    let settles = !work.flow.has(Flow::SETTLED) && work.twin.has(Flow::ANSWERED) && is_answer;
    if settles && work.flow.has(Flow::APART) && move_in(flows, passage, work) {
        return true;
    }
    let settles = settles && !work.flow.has(Flow::APART);
    let settled = if settles { Flow::SETTLED } else { 0 };
    let (old, other) = (work.flow.flags, work.twin.flags);
    work.flow.flags = seen(old, passage.tcp) | settled;
    work.twin.flags = seen(other, passage.tcp & RST) | settled;
    if work.flow.flags != old || passage.is_due(&work.flow) {
        work.flow.used = passage.now;
        flows.note(&work.key, place, old, &work.flow);
    }
    if work.twin.flags != other || passage.is_due(&work.twin) {
        work.twin.used = passage.now;
        flows.note(&work.twin_key, twin, other, &work.twin);
    }
    if settles {
        flows.count_opening(false);
        settle_return(flows, passage, work);
    }
    true
}

/// The record of a remote backend's replies is settled with the others, if it is still the flow's.
#[inline(always)]
fn settle_return<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) {
    if !work.whole.has_snat() {
        return;
    }
    work.whole.key(Part::Return, &mut work.twin_key);
    let Some(place) = flows.find(&work.twin_key, &mut work.twin) else { return };
    if !work.whole.has(Part::Return, &work.twin) {
        return;
    }
    let old = work.twin.flags;
    work.twin.flags = (old & !Flow::APART) | Flow::SETTLED;
    work.twin.used = passage.now;
    if old & Flow::APART != 0 {
        settle_or_stay(flows, &work.twin_key, &mut work.twin);
    } else {
        flows.note(&work.twin_key, place, old, &work.twin);
    }
}

/// Moves the parts of a flow that lay apart into the main table; false: there is no room, and they stay as they are.
#[inline(always)]
fn move_in<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> bool {
    let (flags, used) = (work.flow.flags, work.flow.used);
    work.flow.flags = (seen(flags, passage.tcp) & !Flow::APART) | Flow::SETTLED;
    work.flow.used = passage.now;
    if !flows.settle(&work.key, &work.flow) {
        (work.flow.flags, work.flow.used) = (flags, used);
        return false;
    }
    work.twin.flags = (work.twin.flags & !Flow::APART) | Flow::SETTLED;
    work.twin.used = passage.now;
    settle_or_stay(flows, &work.twin_key, &mut work.twin);
    if work.whole.has_snat() {
        work.whole.flags = (work.whole.flags & !Flow::APART) | Flow::SETTLED;
        work.whole.key(Part::Return, &mut work.twin_key);
        // What lies apart may have been pushed out, and another may have the port by now: then `leave` finds one anew.
        if flows.find(&work.twin_key, &mut work.twin).is_none() || work.whole.has(Part::Return, &work.twin) {
            work.whole.record(Part::Return, passage.now, &mut work.twin);
            settle_or_stay(flows, &work.twin_key, &mut work.twin);
        }
    }
    true
}

/// Moves a record into the main table, or settles it where it lies.
#[inline(always)]
fn settle_or_stay<F: Flows>(flows: &F, key: &FlowKey, flow: &mut Flow) {
    if !flows.settle(key, flow) {
        flow.flags |= Flow::APART;
        flows.put(key, flow);
    }
}

/// Writes a record of a flow that goes on; where the main table is full, it lies apart.
#[inline(always)]
pub(super) fn keep<F: Flows>(flows: &F, key: &FlowKey, flow: &mut Flow) -> bool {
    if flows.put(key, flow) {
        return true;
    }
    flow.flags |= Flow::APART;
    flows.put(key, flow)
}

/// Flags of a part after a packet. An RST counts until another packet comes: whoever is really reset sends none, and nobody here
/// knows whether it was within the window.
#[inline(always)]
pub(super) const fn seen(flags: u16, tcp: u8) -> u16 {
    let finished = if tcp & FIN != 0 { Flow::FINISHED } else { 0 };
    let reset = if tcp & RST != 0 { Flow::RESET } else { 0 };
    // Whoever begins once more with what goes on is not at an end.
    let begins = if tcp & SYN != 0 { Flow::FINISHED | Flow::ENDED } else { 0 };
    (flags & !(Flow::RESET | begins)) | finished | reset
}

/// The same of what goes the other way.
#[inline(always)]
pub(super) const fn seen_beside(flags: u16, tcp: u8) -> u16 {
    seen(flags, tcp & !FIN) | if tcp & FIN != 0 { Flow::ENDED } else { 0 }
}

/// Keeps a record alive that a packet has come by.
#[inline(always)]
pub(super) fn refresh<F: Flows>(
    flows: &F,
    passage: &Passage<'_>,
    key: &FlowKey,
    (place, flow): (F::Place, &mut Flow),
) {
    let flags = seen(flow.flags, passage.tcp);
    note(flows, passage, (key, flags), (place, flow));
}

/// The same with flags that are known.
#[inline(always)]
pub(super) fn note<F: Flows>(
    flows: &F,
    passage: &Passage<'_>,
    (key, flags): (&FlowKey, u16),
    (place, flow): (F::Place, &mut Flow),
) {
    let old = flow.flags;
    flow.flags = flags;
    if flags != old || passage.is_due(flow) {
        flow.used = passage.now;
        flows.note(key, place, old, flow);
    }
}
