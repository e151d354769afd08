//! ICMP errors: each belongs to the flow of the packet that it quotes, and is about one end of it.

use super::{Flows, Work, is_alive};
use crate::addr::{Addr, Port, Proto};
use crate::flow::{End, FlowKey, Part};
use crate::packet::{Headers, Side};

/// An ICMP error at one of the two places.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Its own headers.
    pub outer: &'a Headers,
    /// Those of the packet that it quotes.
    pub inner: &'a Headers,
    /// Nanoseconds of the kernel's monotonic clock.
    pub now: u64,
}

/// How an error is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorChange {
    /// The end of its own that gets another address.
    pub side: Side,
    /// Which one; the one it has where nothing is to be changed.
    pub addr: Addr,
    /// The end of the quoted packet that gets another address and port.
    pub quoted_side: Side,
    /// What it gets.
    pub quoted: End,
    /// What the port of the quoted packet's other end is to be.
    pub quoted_far_port: Port,
}

impl Report<'_> {
    const fn src(&self) -> End {
        End::new(self.inner.src, self.inner.src_port)
    }

    const fn dst(&self) -> End {
        End::new(self.inner.dst, self.inner.dst_port)
    }

    /// The key of a part that the quoted packet shows, or shows when turned round.
    #[inline(always)]
    const fn key(&self, part: Part, is_turned: bool, key: &mut FlowKey) {
        (key.src, key.dst) = if is_turned { (self.dst(), self.src()) } else { (self.src(), self.dst()) };
        key.proto = self.inner.proto;
        key.part = part as u8;
        key.pad = 0;
    }
}

/// Decides about an error that enters the node: about a reply, it is for the backend, which knows nothing of a VIP; about what
/// left to a backend on another node by another source, it is for the client. `None`: it is of no flow, and goes on as it is.
#[inline(always)]
pub fn error_arrives<F: Flows>(flows: &F, report: &Report<'_>, work: &mut Work) -> Option<ErrorChange> {
    report.key(Part::Forward, true, &mut work.key);
    if finds(flows, report, work) {
        work.whole.recall(Part::Forward, &work.key, &work.flow);
        return Some(ErrorChange {
            side: Side::Destination,
            addr: work.whole.backend.addr,
            quoted_side: Side::Source,
            quoted: work.whole.backend,
            quoted_far_port: work.whole.inside,
        });
    }
    report.key(Part::Return, true, &mut work.key);
    if !finds(flows, report, work) {
        return None;
    }
    let client = work.flow.becomes;
    Some(ErrorChange {
        side: Side::Destination,
        addr: client.addr,
        quoted_side: Side::Source,
        quoted: client,
        quoted_far_port: report.inner.dst_port,
    })
}

/// Decides about an error that leaves the node: towards the client it quotes what the client has sent, to the VIP; towards a
/// backend that sees another source, as one on another node, it quotes what that has sent, to the SNAT address. `None` as above.
#[inline(always)]
pub fn error_leaves<F: Flows>(flows: &F, report: &Report<'_>, work: &mut Work) -> Option<ErrorChange> {
    if !flows.may_know(&report.src(), &report.dst()) {
        return None;
    }
    report.key(Part::Reply, true, &mut work.key);
    if finds(flows, report, work) {
        work.whole.recall(Part::Reply, &work.key, &work.flow);
        // A router on the way keeps its name, as traceroute wants; the backend itself has none that the client knows.
        let is_backend = report.outer.src == work.whole.backend.addr;
        return Some(ErrorChange {
            side: Side::Source,
            addr: if is_backend { work.whole.vip.addr } else { report.outer.src },
            quoted_side: Side::Destination,
            quoted: work.whole.vip,
            quoted_far_port: work.whole.client.port,
        });
    }
    report.key(Part::Reply, false, &mut work.key);
    if !finds(flows, report, work) {
        return None;
    }
    work.whole.recall(Part::Reply, &work.key, &work.flow);
    if !work.whole.has_snat() {
        return None;
    }
    Some(ErrorChange {
        side: Side::Source,
        addr: report.outer.src,
        quoted_side: Side::Destination,
        quoted: work.whole.snat,
        quoted_far_port: report.inner.src_port,
    })
}

#[inline(always)]
fn finds<F: Flows>(flows: &F, report: &Report<'_>, work: &mut Work) -> bool {
    flows.find(&work.key, &mut work.flow).is_some()
        && is_alive(&work.flow, report.inner.proto, &flows.timeouts(), report.now)
}

/// Whether a packet is of the protocol of errors of its family.
#[inline(always)]
pub const fn is_icmp(headers: &Headers) -> bool {
    matches!((headers.proto, headers.is_v4), (Proto::ICMP, true) | (Proto::ICMPV6, false))
}
