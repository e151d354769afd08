//! A packet leaves the node: the VIP instead of the backend, and SNAT towards remote backends.

use super::arrive::{keep, note, seen, seen_beside};
use super::{Action, Change, Claim, FIN, Flows, Passage, RST, TRIES, Work, is_alive};
use crate::addr::Proto;
use crate::flow::{End, Flow, NO_MAC, Part};
use crate::packet::{Headers, Side};
use crate::reason::DropReason;

/// Whether [`leave`] is to be asked of a packet: where not, it would pass.
#[inline(always)]
pub fn may_be_of_a_flow<F: Flows>(flows: &F, headers: &Headers) -> bool {
    flows.may_know(&End::new(headers.src, headers.src_port), &End::new(headers.dst, headers.dst_port))
}

/// Decides about a packet that leaves the node: a reply gets its VIP as source, and what goes to a backend on another node
/// for a client that is not on this one gets a source to which the reply comes back. So does a packet of a pod to itself, and with
/// `masqueradeAll` one to a pod of this node.
///
/// A reply that a bridge has switched past the stack shows by its frame, which does not come from whom the request was sent
/// to. Requests are sent to that sender from then on, so that netfilter sees both directions or neither.
///
/// Where something else has given the packet another source on the way, as a CNI that masquerades, no flow is found, and
/// there is nothing to do: whoever did that undoes it. One mark lets go of most packets that are of no flow, see
/// [`may_be_of_a_flow`].
#[inline(always)]
pub fn leave<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Action {
    let is_hairpin = passage.headers.src == passage.headers.dst;
    if passage.is_request && !is_hairpin && keeps_sources(flows) {
        return Action::Pass;
    }
    if !passage.is_request {
        passage.key(Part::Reply, false, &mut work.key);
        if let Some(place) = finds(flows, passage, work) {
            return Action::Change(back(flows, passage, (place, work)));
        }
        if !is_hairpin && keeps_sources(flows) {
            return Action::Pass;
        }
    }
    passage.key(Part::Reply, true, &mut work.key);
    if finds(flows, passage, work).is_none() || !is_hairpin && !needs_source(flows, &work.flow) {
        return Action::Pass;
    }
    work.whole.recall(Part::Reply, &work.key, &work.flow);
    if !work.whole.has_snat() {
        return Action::Reserve;
    }
    work.whole.key(Part::Return, &mut work.twin_key);
    if let Some(place) = flows.find(&work.twin_key, &mut work.twin) {
        // A connection that seemed to be over has lost its port to another, which would get its answers.
        if !work.whole.has(Part::Return, &work.twin) {
            return Action::Reserve;
        }
        let flags = seen_beside(work.twin.flags, passage.tcp);
        note(flows, passage, (&work.twin_key, flags), (place, &mut work.twin));
    } else {
        work.whole.record(Part::Return, passage.now, &mut work.twin);
        keep(flows, &work.twin_key, &mut work.twin);
    }
    by_other_source(passage, work)
}

/// Whether no packet of a flow gets another source at this device, but those of a pod to itself. It costs a look-up.
#[inline(always)]
fn keeps_sources<F: Flows>(flows: &F) -> bool {
    flows.leads_to_pods() && !flows.has_masqueraded()
}

/// Whether a packet of a flow to a backend gets another source where it leaves. What is known of it as a request does not matter: the
/// bridge that pods are at may have forgotten it.
#[inline(always)]
fn needs_source<F: Flows>(flows: &F, flow: &Flow) -> bool {
    flow.has(Flow::MASQUERADED) || flow.has(Flow::FROM_AFAR) && !flows.leads_to_pods()
}

/// The packet gets the source that its flow has towards the backend.
#[inline(always)]
const fn by_other_source(passage: &Passage<'_>, work: &Work) -> Action {
    let (to, far_port) = (work.whole.snat, passage.headers.dst_port);
    Action::Change(Change { side: Side::Source, to, far_port, mac: NO_MAC, is_request: true })
}

/// The record of the packet's key, if it is alive.
#[inline(always)]
pub(super) fn finds<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Option<F::Place> {
    let place = flows.find(&work.key, &mut work.flow)?;
    if is_alive(&work.flow, passage.headers.proto, &flows.timeouts(), passage.now) {
        Some(place)
    } else {
        None
    }
}

/// A reply of the backend.
#[inline(always)]
fn back<F: Flows>(flows: &F, passage: &Passage<'_>, (place, work): (F::Place, &mut Work)) -> Change {
    let old = work.flow.flags;
    let is_due = passage.is_due(&work.flow);
    // Until a flow is settled, others may push its records out, or what was there under their keys be swept away.
    let is_opening = old & (Flow::SETTLED | Flow::APART) != Flow::SETTLED;
    let sees_more = is_due || is_opening || passage.tcp & (RST | FIN) != 0;
    let was_switched = was_switched(flows, passage, &work.flow);
    if sees_more || was_switched {
        look_after(flows, passage, (work, was_switched));
    }
    work.flow.flags = seen(old, passage.tcp) | Flow::ANSWERED;
    if is_due || work.flow.flags != old {
        work.flow.used = passage.now;
        flows.note(&work.key, place, old, &work.flow);
    }
    let Flow { becomes: to, port: far_port, .. } = work.flow;
    Change { side: Side::Source, to, far_port, mac: NO_MAC, is_request: false }
}

/// Makes the client's record anew if it is lost, and writes to it what a reply says of it: a flow lives as long as either side
/// sends.
#[inline(always)]
fn look_after<F: Flows>(flows: &F, passage: &Passage<'_>, (work, was_switched): (&mut Work, bool)) {
    work.whole.recall(Part::Reply, &work.key, &work.flow);
    work.whole.key(Part::Forward, &mut work.twin_key);
    let found = flows.find(&work.twin_key, &mut work.twin);
    if found.is_none() {
        work.whole.record(Part::Forward, passage.now, &mut work.twin);
    } else if !work.whole.has(Part::Forward, &work.twin) {
        // The client has another backend by now, and this one is late.
        return;
    }
    let is_switched = was_switched && work.twin.mac != passage.mac;
    if is_switched {
        work.twin.mac = passage.mac;
    }
    let old = work.twin.flags;
    if passage.tcp & RST != 0 {
        work.twin.flags |= Flow::RESET;
    }
    if passage.tcp & FIN != 0 {
        work.twin.flags |= Flow::ENDED;
    }
    let is_news = work.twin.flags != old || passage.is_due(&work.twin);
    if is_news {
        work.twin.used = passage.now;
    }
    match found {
        Some(place) if !is_switched => {
            if is_news {
                flows.note(&work.twin_key, place, old, &work.twin);
            }
        }
        _ => {
            keep(flows, &work.twin_key, &mut work.twin);
        }
    }
}

/// Whether a reply comes to a pod by another neighbour than the one that its requests are sent to.
#[inline(always)]
fn was_switched<F: Flows>(flows: &F, passage: &Passage<'_>, reply: &Flow) -> bool {
    let is_known = reply.mac != NO_MAC && passage.mac != NO_MAC;
    is_known && reply.mac != passage.mac && flows.leads_to_pods()
}

/// Gives a flow another source, where [`leave`] says that it needs one.
#[inline(always)]
pub fn reserve<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Action {
    passage.key(Part::Reply, true, &mut work.key);
    if finds(flows, passage, work).is_none() {
        return Action::Pass;
    }
    work.whole.recall(Part::Reply, &work.key, &work.flow);
    if let Err(why) = find_source(flows, passage, work) {
        return Action::Drop(work.whole.held.service, why);
    }
    work.flow.other = work.whole.snat;
    flows.put(&work.key, &work.flow);
    work.whole.key(Part::Forward, &mut work.twin_key);
    if flows.find(&work.twin_key, &mut work.twin).is_none() {
        work.whole.record(Part::Forward, passage.now, &mut work.twin);
    } else if !work.whole.has(Part::Forward, &work.twin) {
        // The client has another backend by now, and this packet was still on its way to the first.
        return by_other_source(passage, work);
    }
    work.twin.other = work.whole.snat;
    flows.put(&work.twin_key, &work.twin);
    by_other_source(passage, work)
}

/// Whether a connection has been over for a while: its port may serve another, or there would be too few for clients that come
/// often. A backend takes a new SYN also where it still remembers the old connection (RFC 6191).
#[inline(always)]
const fn is_spent(flow: &Flow, now: u64) -> bool {
    let idle = now.saturating_sub(flow.used);
    flow.has(Flow::RESET) && idle >= 1_000_000_000 || flow.is_over() && idle >= 30_000_000_000
}

/// Finds a source that no other flow has towards this backend: the client's port if it is of the range, else any of it.
#[inline(always)]
fn find_source<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Result<(), DropReason> {
    let Some(addr) = flows.snat_address(passage.headers.is_v4) else { return Err(DropReason::NoAddress) };
    let ports = flows.ports();
    let must_keep = work.whole.proto == Proto::SCTP;
    let inside = work.whole.inside;
    // Where the main table is full, this record alone may lie apart.
    let mut apart = 0;
    let may_keep = must_keep || ports.has(inside);
    let Some(port) = (if may_keep { Some(inside) } else { ports.pick(flows.draw()) }) else {
        return Err(DropReason::NoPort);
    };
    work.whole.snat = End::new(addr, port);
    for _ in 0..TRIES {
        work.whole.key(Part::Return, &mut work.twin_key);
        work.whole.record(Part::Return, passage.now, &mut work.twin);
        work.twin.flags |= apart;
        let mut other = Flow::EMPTY;
        match flows.claim(&work.twin_key, &work.twin, &mut other) {
            Claim::Made => return Ok(()),
            Claim::Full if work.twin.has(Flow::APART) => return Err(DropReason::FlowTableFull),
            Claim::Full => apart = Flow::APART,
            Claim::Taken
                if is_spent(&other, passage.now)
                    || !is_alive(&other, work.whole.proto, &flows.timeouts(), passage.now) =>
            {
                let has_room = keep(flows, &work.twin_key, &mut work.twin);
                return if has_room { Ok(()) } else { Err(DropReason::FlowTableFull) };
            }
            Claim::Taken if must_keep => return Err(DropReason::NoPort),
            Claim::Taken => match ports.pick(flows.draw()) {
                Some(port) => work.whole.snat.port = port,
                None => return Err(DropReason::NoPort),
            },
        }
    }
    Err(DropReason::NoPort)
}
