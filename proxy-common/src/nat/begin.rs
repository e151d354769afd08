//! The first packet of a flow: a backend is picked, and the flow gets its records.

use super::direct::may_be_direct;
use super::{Action, Change, Claim, Flows, MARGIN, Passage, TRIES, Timeouts, Work, is_alive};
use crate::addr::{Addr, Proto};
use crate::affinity::Memory;
use crate::flow::{End, Flow, FlowKey, NO_MAC, Part, Whole};
use crate::lb::{Held, Lookup, Origin, Packet, Sender, Tuple, Verdict, admits, translate};
use crate::packet::Side;
use crate::reason::DropReason;

/// The sender of a packet, of which its address is known.
struct Client<'a, F> {
    flows: &'a F,
    addr: Addr,
}

impl<F: Flows> Sender for Client<'_, F> {
    #[inline(always)]
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }

    #[inline(always)]
    fn remembered(&self, service: u32, _: bool, seconds: u32) -> Option<Memory> {
        self.flows.remembered(service, self.addr, seconds)
    }

    #[inline(always)]
    fn draw(&self) -> u32 {
        self.flows.draw()
    }

    #[inline(always)]
    fn is_inside(&self) -> bool {
        self.flows.is_inside(self.addr)
    }
}

/// Decides about a packet that may begin a flow, where [`super::arrive`] says so.
#[inline(always)]
pub fn begin<L: Lookup, F: Flows>(lookup: &L, flows: &F, passage: &Passage<'_>, work: &mut Work) -> Action {
    let headers = passage.headers;
    let tuple = Tuple { addr: headers.dst, port: headers.dst_port, proto: headers.proto };
    let origin = if passage.is_from_pods { Origin::Pod } else { Origin::External };
    let packet = Packet { tuple, origin };
    let client = Client { flows, addr: headers.src };
    let pick = match translate(lookup, &packet, &client) {
        // The filter has let in what is for no frontend.
        Verdict::Pass if may_be_direct(flows, headers, passage.tcp) => return Action::Direct,
        Verdict::Pass => return Action::Pass,
        Verdict::Reject(service, reason) => return Action::Refuse(service, reason),
        Verdict::Drop(service, reason) => return Action::Drop(service, reason),
        Verdict::Forward(pick) => pick,
    };
    if !admits(lookup, &pick, headers.src) {
        return Action::Drop(pick.service, DropReason::SourceNotAllowed);
    }
    if !flows.admit(passage.now) {
        return Action::Drop(pick.service, DropReason::Flood);
    }
    if headers.proto == Proto::SCTP && pick.port != headers.dst_port {
        return Action::Drop(pick.service, DropReason::SctpPort);
    }
    work.whole.backend = End::new(pick.addr, pick.port);
    work.whole.held = Held { service: pick.service, backend: pick.backend, generation: pick.generation };
    draft(flows, passage, work);
    if flows.masquerades() && !pick.keeps_source() {
        work.whole.flags |= Flow::MASQUERADED;
    }
    if let Err(why) = record(flows, passage, work, true) {
        return Action::Drop(pick.service, why);
    }
    if pick.is_sticky() {
        flows.remember(&pick, headers.src);
    }
    Action::Change(sent_on(&work.whole))
}

/// How the first packet of a flow is changed.
#[inline(always)]
pub const fn sent_on(flow: &Whole) -> Change {
    let (to, far_port) = (flow.backend, flow.inside);
    Change { side: Side::Destination, to, far_port, mac: NO_MAC, is_request: true }
}

/// The flow as it is to be, if nobody else is in its way; its backend is there already.
#[inline(always)]
pub(super) fn draft<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) {
    work.whole.client = passage.src();
    work.whole.inside = passage.headers.src_port;
    work.whole.vip = passage.dst();
    work.whole.snat = End::NONE;
    work.whole.proto = passage.headers.proto;
    let from_afar = if passage.is_from_pods { 0 } else { Flow::FROM_AFAR };
    work.whole.flags = from_afar | if flows.is_crowded() { Flow::APART } else { 0 };
}

/// Makes the records of a flow. Where the main table is full, they lie apart; there, with `may_wait`, the client's record is made by
/// the answer to its SYN.
#[inline(always)]
pub(super) fn record<F: Flows>(
    flows: &F,
    passage: &Passage<'_>,
    work: &mut Work,
    may_wait: bool,
) -> Result<(), DropReason> {
    for _ in 0..2 {
        match reply(flows, passage, work) {
            Ok(()) if finish(flows, passage, work, may_wait) => return Ok(()),
            Ok(()) | Err(DropReason::FlowTableFull) => {}
            Err(why) => return Err(why),
        }
        if work.whole.flags & Flow::APART != 0 {
            break;
        }
        work.whole.flags |= Flow::APART;
    }
    Err(DropReason::FlowTableFull)
}

/// Makes the record of replies, for which a flow may get another port of the client inside of the node.
#[inline(always)]
fn reply<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work) -> Result<(), DropReason> {
    work.whole.record(Part::Reply, passage.now, &mut work.flow);
    work.flow.mac = passage.mac;
    work.whole.key(Part::Reply, &mut work.key);
    if renews(flows, &work.key, &work.flow) {
        return Ok(());
    }
    for _ in 0..TRIES {
        match flows.claim(&work.key, &work.flow, &mut work.twin) {
            Claim::Made => return Ok(()),
            Claim::Full => return Err(DropReason::FlowTableFull),
            Claim::Taken if is_free(flows, passage, work) => {
                return if flows.put(&work.key, &work.flow) {
                    Ok(())
                } else {
                    Err(DropReason::FlowTableFull)
                };
            }
            // Another client's port, or the same client through another frontend: the backend would mistake one for the
            // other.
            Claim::Taken if work.whole.proto == Proto::SCTP => return Err(DropReason::NoPort),
            Claim::Taken => {
                let Some(port) = flows.ports().pick(flows.draw()) else { return Err(DropReason::NoPort) };
                work.whole.inside = port;
                work.whole.key(Part::Reply, &mut work.key);
            }
        }
    }
    Err(DropReason::NoPort)
}

/// Uses a record anew that the same ends have left a moment ago, as a client does that goes through its ports: an insert and a
/// removal less. False: there is none, or none that surely stays.
#[inline(always)]
fn renews<F: Flows>(flows: &F, key: &FlowKey, flow: &Flow) -> bool {
    !flow.has(Flow::APART) && flows.may_know(&key.src, &key.dst) && flows.renew(key, flow)
}

/// Whether a record may be written in place for another flow between the same ends, which begins when that was last used.
#[inline(always)]
pub fn may_renew(old: &Flow, new: &Flow, proto: Proto, timeouts: &Timeouts) -> bool {
    let has_same_ends = old.becomes == new.becomes && old.other == new.other && old.port == new.port;
    has_same_ends && !old.has(Flow::APART) && is_alive(old, proto, timeouts, new.used + MARGIN)
}

/// Whether a record of replies that is there is the same client's through the same frontend, or is over.
#[inline(always)]
fn is_free<F: Flows>(flows: &F, passage: &Passage<'_>, work: &Work) -> bool {
    work.whole.has(Part::Reply, &work.twin)
        || !is_alive(&work.twin, work.whole.proto, &flows.timeouts(), passage.now)
}

/// Writes the other record, over whatever was there: it is over, or it would have gone on. False: there is no room.
#[inline(always)]
fn finish<F: Flows>(flows: &F, passage: &Passage<'_>, work: &mut Work, may_wait: bool) -> bool {
    work.whole.key(Part::Forward, &mut work.twin_key);
    work.whole.record(Part::Forward, passage.now, &mut work.twin);
    // In a flood most are never answered: of a connection that lies apart, the answer makes this record. Not of datagrams, which may
    // follow each other without one, and not where an old record is in its place.
    if may_wait && work.whole.flags & Flow::APART != 0 && passage.is_syn() && work.is_new != 0 {
        return true;
    }
    let is_renewed = renews(flows, &work.twin_key, &work.twin);
    let has_room = is_renewed || flows.put(&work.twin_key, &work.twin);
    if !has_room {
        flows.remove(&work.key);
    } else if work.whole.flags & Flow::APART == 0 {
        flows.count_opening(true);
    }
    has_room
}
