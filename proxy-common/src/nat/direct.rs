//! A client asks a backend itself, from a port from which it also reaches it through a frontend: the backend would take one for
//! the other, and what it answers would be given another source.
//!
//! Connection tracking gives the second of two such connections another port, and so does this. Most often the first is over
//! by then: then its records are taken away. A client that has asked the backend itself before it comes through the frontend
//! is not noticed: nobody keeps records of what is no frontend's.

use super::arrive::forward;
use super::begin::{draft, record, sent_on};
use super::leave::finds;
use super::{ACK, Action, Change, Flows, Passage, REFRESH, RST, SYN, Work};
use crate::addr::Proto;
use crate::flow::{End, Flow, Part};
use crate::packet::Headers;

/// Whether a packet that is for no owned address may be of a client that flows know to this backend: [`direct`] is to decide about
/// it. One mark lets go of most that open a connection; others are only asked about while there is anything to know of them.
#[inline(always)]
pub fn may_be_direct<F: Flows>(flows: &F, headers: &Headers, tcp: u8) -> bool {
    let opens = headers.proto == Proto::UDP || tcp & (SYN | ACK | RST) == SYN;
    let (src, dst) = (End::new(headers.src, headers.src_port), End::new(headers.dst, headers.dst_port));
    (opens || flows.has_direct()) && flows.may_know(&src, &dst)
}

/// Decides about a packet that a client has sent to a backend itself. What another device of this node has sent on
/// ([`Passage::is_request`]) is none; where that cannot be told (`is_blind`), it shows by a record that was just used.
#[inline(always)]
pub fn direct<F: Flows>(flows: &F, passage: &Passage<'_>, is_blind: bool, work: &mut Work) -> Action {
    if passage.is_request {
        return Action::Pass;
    }
    if flows.has_direct()
        && let Some(change) = known(flows, passage, work)
    {
        return Action::Change(change);
    }
    // Of SCTP no port can be changed.
    if passage.headers.proto != Proto::UDP && !passage.is_syn() {
        return Action::Pass;
    }
    passage.key(Part::Reply, true, &mut work.key);
    if finds(flows, passage, work).is_none() {
        return Action::Pass;
    }
    work.whole.recall(Part::Reply, &work.key, &work.flow);
    if passage.is_syn() && forgets(flows, work) {
        return Action::Pass;
    }
    // The program at the other device has seen to it that this record is not older than two refreshes.
    if is_blind && passage.now.saturating_sub(work.flow.used) < 3 * REFRESH {
        return Action::Pass;
    }
    give_other_port(flows, passage, work)
}

/// The change of a packet whose client has another port already. One that is over ends by a SYN: what comes is another
/// connection.
#[inline(always)]
fn known<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Option<Change> {
    passage.key(Part::Forward, false, &mut work.key);
    let place = finds(flows, passage, work)?;
    if !work.flow.has(Flow::DIRECT) {
        return None;
    }
    if passage.is_syn() && work.flow.flags & (Flow::FINISHED | Flow::RESET) != 0 {
        flows.remove(&work.key);
        return None;
    }
    forward(flows, passage, (place, work))
}

/// Takes the records of a connection away if it is over: both sides have finished it, one has reset it, or the client has begun
/// another by the same port and frontend.
#[inline(always)]
fn forgets<F: Flows>(flows: &F, work: &mut Work) -> bool {
    work.whole.key(Part::Forward, &mut work.twin_key);
    let is_there = flows.find(&work.twin_key, &mut work.twin).is_some();
    let is_own = is_there && work.whole.has(Part::Forward, &work.twin);
    let client = if is_own { work.twin.flags } else { Flow::FINISHED };
    let backend = work.flow.flags;
    let is_finished = client & backend & Flow::FINISHED != 0 || (client | backend) & Flow::RESET != 0;
    if !is_finished && (is_own || !is_there) {
        return false;
    }
    flows.remove(&work.key);
    if is_own {
        flows.remove(&work.twin_key);
    }
    if work.whole.has_snat() {
        work.whole.key(Part::Return, &mut work.twin_key);
        if flows.find(&work.twin_key, &mut work.twin).is_some() && work.whole.has(Part::Return, &work.twin) {
            flows.remove(&work.twin_key);
        }
    }
    true
}

/// The connection gets records as if the backend were its own frontend, and with them another port.
#[inline(always)]
fn give_other_port<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Action {
    if !flows.admit(passage.now) {
        return Action::Drop(work.whole.held.service, crate::reason::DropReason::Flood);
    }
    draft(flows, passage, work);
    work.whole.flags |= Flow::DIRECT;
    flows.say_direct();
    match record(flows, passage, work, false) {
        Ok(()) => Action::Change(sent_on(&work.whole)),
        Err(why) => Action::Drop(work.whole.held.service, why),
    }
}
