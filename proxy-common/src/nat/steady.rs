//! A packet in the middle of a connection: nothing is to be written but the packet, and perhaps that it was the last of its side.
//!
//! Most packets are such, and [`arrive`](super::arrive) and [`leave`](super::leave) say of each what is said of it here, in ten times
//! the code: where a program runs, its code is not in the nearest cache, and costs more than what it does.

#[cfg(doc)]
use super::Passage;
use super::arrive::seen;
use super::leave::may_be_of_a_flow;
use super::{Change, FIN, Flows, RST, SYN};
use crate::addr::{Port, Proto};
use crate::flow::{End, Flow, FlowKey, Mac, NO_MAC, Part};
use crate::packet::{Headers, Side};

/// Ticks that a record may be unused without being written anew: where the timer is the usual one of 250 Hz, [`super::REFRESH`].
const TICKS: u32 = 4;

/// What of a record a packet in the middle of a connection depends on: see [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// [`Flow::becomes`].
    pub becomes: End,
    /// [`Flow::port`].
    pub port: Port,
    /// [`Flow::flags`].
    pub flags: u16,
    /// Since [`Flow::used`], in ticks of the kernel's timer (1 to 10 ms by its configuration), which cost no call.
    pub idle: u32,
    /// [`Flow::mac`].
    pub mac: Mac,
}

/// What a packet is, as far as its ends and flags tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle<P> {
    /// Others decide.
    Other,
    /// It is in the middle of a connection that has no record: [`arrive`](super::arrive) and [`leave`](super::leave) let it pass.
    Stranger,
    /// The record of its connection: its key, where it lies, and what it says.
    Known(FlowKey, P, Glance),
}

/// Whether a packet is in the middle of a connection whose record has the key of this part of it. Whether it is for an address of
/// ours the caller has seen. A record that is there needs no mark.
#[inline(always)]
pub fn middle<F: Flows>(flows: &F, (headers, tcp): (&Headers, u8), part: Part) -> Middle<F::Place> {
    // What comes back to a port set aside is somebody's return, whatever else it looks like.
    if headers.proto != Proto::TCP
        || tcp & (SYN | RST) != 0
        // The client's record is to know that the backend has finished.
        || matches!(part, Part::Reply) && tcp & FIN != 0
        || matches!(part, Part::Forward) && flows.ports().has(headers.dst_port)
    {
        return Middle::Other;
    }
    let src = End::new(headers.src, headers.src_port);
    let key = FlowKey::new(part, src, End::new(headers.dst, headers.dst_port), headers.proto);
    match flows.glance(&key) {
        Some((place, glance)) => Middle::Known(key, place, glance),
        None if may_be_of_a_flow(flows, headers) => Middle::Other,
        None => Middle::Stranger,
    }
}

impl Glance {
    /// How a packet in the middle of this connection is changed, and the flags of the record from then on; `None`: others decide.
    ///
    /// The connection is settled, its record was used just now, and `mac`, what the packet's frame shows ([`Passage::mac`]), tells
    /// nothing of a bridge.
    #[inline(always)]
    pub const fn steady(&self, part: Part, (tcp, mac): (u8, Mac)) -> Option<(Change, u16)> {
        let (known, side, frame) = match part {
            Part::Forward => (Flow::SETTLED, Side::Destination, self.mac),
            Part::Reply | Part::Return => (Flow::SETTLED | Flow::ANSWERED, Side::Source, mac),
        };
        let says_nothing = frame[0] | frame[1] | frame[2] == 0;
        if self.flags & (known | Flow::APART | Flow::DIRECT | Flow::RESET | Flow::MASQUERADED) != known
            || self.idle >= TICKS
            || !says_nothing
        {
            return None;
        }
        let (to, far_port, is_request) = (self.becomes, self.port, matches!(part, Part::Forward));
        let change = Change { side, to, far_port, mac: NO_MAC, is_request };
        Some((change, seen(self.flags, tcp)))
    }

    /// Writes what the packet says of its flow, if it says anything; only then the clock is asked.
    #[inline(always)]
    pub fn keep<F: Flows>(
        &self,
        flows: &F,
        (key, place): (&FlowKey, F::Place),
        (flags, now): (u16, impl FnOnce() -> u64),
    ) {
        if flags != self.flags {
            flows.note(key, place, self.flags, &Flow { flags, used: now(), ..Flow::EMPTY });
        }
    }
}
