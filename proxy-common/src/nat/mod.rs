//! The packet path: what becomes of a packet where it enters a node, and where it leaves it.
//!
//! Everything between the two, routing, netfilter and whatever a CNI does there, sees client and backend in both directions
//! and never a VIP. So DNAT is done as a packet enters, and undone as the reply leaves; the source is changed for a backend on
//! another node as the packet leaves, and changed back as the reply enters. [`arrive`] and [`leave`] decide by the tables of
//! [`Lookup`] and the flows of [`Flows`]; they change records, and say how the packet is to be changed. That is
//! [`crate::packet`]'s work. What only the first packet of a flow takes has functions of its own, [`begin`] and [`reserve`]: they
//! are programs of their own in the kernel, where a stack has 512 bytes.

mod arrive;
mod begin;
mod direct;
mod error;
pub mod fragment;
mod leave;
mod life;
mod ports;
mod settings;
mod steady;

pub use arrive::{arrive, is_for_the_node};
pub use begin::{begin, may_renew, sent_on};
pub use direct::{direct, may_be_direct};
pub use error::{ErrorChange, Report, error_arrives, error_leaves, is_icmp};
pub use leave::{leave, may_be_of_a_flow, reserve};
pub use life::{Timeouts, is_alive};
pub use ports::{Ports, TRIES};
pub use settings::{Device, Settings};
pub use steady::{Glance, Middle, middle};

use crate::addr::Addr;
use crate::flow::{End, Flow, FlowKey, Mac, Part, Whole};
use crate::packet::{Headers, Side};
use crate::reason::DropReason;

/// FIN, SYN, RST and ACK, as in the flags of a TCP header.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// What a chunk of SCTP, the first of its packet, says of its association, as the flags of a TCP header say it: INIT asks for one,
/// ABORT ends it, SHUTDOWN and SHUTDOWN ACK are what both sides say at its end (RFC 9260, 3.2).
#[inline(always)]
pub const fn flags_of_chunk(kind: u8) -> u8 {
    match kind {
        1 => SYN,
        6 => RST,
        7 | 8 => FIN,
        _ => 0,
    }
}

/// Nanoseconds after which a packet writes anew when its flow was last used, and sees to it that all records of the flow are
/// there. Those of the main table vanish only if they are over, so that this need not be done for each packet.
pub const REFRESH: u64 = 1 << 24;

/// Nanoseconds for which a record must live on, if it is to be written in place for another flow: whoever sweeps it away a moment
/// later would give its memory to somebody else.
const MARGIN: u64 = 1 << 30;

/// Room for what a decision looks at: memory of the program's CPU, since it is too much for a stack.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Key of the part that the packet shows.
    pub key: FlowKey,
    /// Its record.
    pub flow: Flow,
    /// Key of another part.
    pub twin_key: FlowKey,
    /// Its record.
    pub twin: Flow,
    /// The flow.
    pub whole: Whole,
    /// Not zero: [`arrive`] has found no record under the key of the packet.
    pub is_new: u64,
}

impl Work {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        key: FlowKey::EMPTY,
        flow: Flow::EMPTY,
        twin_key: FlowKey::EMPTY,
        twin: Flow::EMPTY,
        whole: Whole::EMPTY,
        is_new: 0,
    };
}

/// A packet at one of the two places.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Its headers, with ports.
    pub headers: &'a Headers,
    /// Flags of its TCP header, or what SCTP says in their place ([`flags_of_chunk`]); zero for anything else.
    pub tcp: u8,
    /// Whether it comes from a device of this node's pods, for a packet that may begin a flow.
    pub is_from_pods: bool,
    /// Of its frame, the address that it is sent to where it enters, and that it is sent from where it leaves; [`crate::flow::NO_MAC`]
    /// where there is none.
    pub mac: Mac,
    /// Nanoseconds of the kernel's monotonic clock.
    pub now: u64,
    /// Whether the packet was sent on to a backend as it entered this node, maybe by another device, where that is known: see
    /// [`Change::is_request`].
    pub is_request: bool,
}

impl Passage<'_> {
    /// Writes the key of a part that the packet shows, or of one that it shows when turned round.
    #[inline(always)]
    const fn key(&self, part: Part, is_turned: bool, key: &mut FlowKey) {
        (key.src, key.dst) = if is_turned { (self.dst(), self.src()) } else { (self.src(), self.dst()) };
        key.proto = self.headers.proto;
        key.part = part as u8;
        key.pad = 0;
    }

    #[inline(always)]
    const fn src(&self) -> End {
        End::new(self.headers.src, self.headers.src_port)
    }

    #[inline(always)]
    const fn dst(&self) -> End {
        End::new(self.headers.dst, self.headers.dst_port)
    }

    /// Whether a record was last used so long ago that it is to be written anew.
    #[inline(always)]
    const fn is_due(&self, flow: &Flow) -> bool {
        self.now.saturating_sub(flow.used) >= REFRESH
    }

    /// Whether it asks for a new connection.
    #[inline(always)]
    const fn is_syn(&self) -> bool {
        self.tcp & (SYN | ACK | RST) == SYN
    }
}

/// How a packet is to be changed: one end, and the port of the other, where that is another than it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The end that gets another address and port.
    pub side: Side,
    /// What it gets.
    pub to: End,
    /// What the port of the other end is to be.
    pub far_port: crate::addr::Port,
    /// Where the frame is to go, or [`crate::flow::NO_MAC`]: where it goes already.
    pub mac: Mac,
    /// Whether a client's packet is sent on to a backend: on its way through the node it can be no reply of a flow.
    pub is_request: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on as it is.
    Pass,
    /// It goes on, changed.
    Change(Change),
    /// It may begin a flow: [`begin`] decides.
    Begin,
    /// It needs another source: [`reserve`] finds one.
    Reserve,
    /// A client may ask a backend itself: [`direct`] decides.
    Direct,
    /// Its sender is told that nobody is there; the service is zero where none is involved.
    Refuse(u32, DropReason),
    /// It is dropped without a word.
    Drop(u32, DropReason),
}

/// What became of a record that was to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is there.
    Made,
    /// Another flow has the key; its record has been read.
    Taken,
    /// There is no room.
    Full,
}

/// The records of flows, and what the packet path knows besides. While many flows are opening, further ones lie apart, where a
/// flood of them pushes out its like only; which of the two tables has a record its flag [`Flow::APART`] says.
pub trait Flows {
    /// Where a record lies.
    type Place: Copy;
    /// Whether some flow may have these two as backend and client, or as VIP and client, in either order; `false` is certain (see
    /// [`crate::mark`]).
    fn may_know(&self, one: &End, other: &End) -> bool;
    /// Reads the record under a key, in either table; says where it is.
    fn find(&self, key: &FlowKey, flow: &mut Flow) -> Option<Self::Place>;
    /// Reads from the main table alone what of a record a packet in the middle of a connection depends on, see [`middle`].
    fn glance(&self, key: &FlowKey) -> Option<(Self::Place, Glance)>;
    /// Writes to a record that was found when it was used last, and its flags, of which others may be written just now: only what
    /// differs from `old` changes.
    fn note(&self, key: &FlowKey, place: Self::Place, old: u16, flow: &Flow);
    /// Writes a record over the one that its key has in the main table, if [`may_renew`] says so of the two; whether it does.
    fn renew(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Inserts a record, unless the key has one, which is then read into `other`.
    fn claim(&self, key: &FlowKey, flow: &Flow, other: &mut Flow) -> Claim;
    /// Writes a record, whatever was there; false: there is no room.
    fn put(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Removes a record from both tables.
    fn remove(&self, key: &FlowKey);
    /// Moves a record that lay apart, as it is now to be, into the main table; false: there is no room, and it stays where it is.
    fn settle(&self, key: &FlowKey, flow: &Flow) -> bool;
    /// Whether so many flows of the main table are opening that the next are to lie apart.
    fn is_crowded(&self) -> bool;
    /// One more flow of the main table is opening, or one less.
    fn count_opening(&self, is_more: bool);
    /// What a client is remembered by, and given, for affinity: see [`crate::lb::Sender::remembered`].
    fn remembered(&self, service: u32, client: Addr, seconds: u32) -> Option<crate::affinity::Memory>;
    /// Remembers a pick of a service port with affinity.
    fn remember(&self, pick: &crate::lb::Pick, client: Addr);
    /// 32 uniformly random bits.
    fn draw(&self) -> u32;
    /// The address that a packet gets which leaves by this device with another source.
    fn snat_address(&self, is_v4: bool) -> Option<Addr>;
    /// Whether this device leads to pods of this node.
    fn leads_to_pods(&self) -> bool;
    /// See [`Settings::MASQUERADES`].
    fn masquerades(&self) -> bool;
    /// See [`Settings::HAS_MASQUERADED`].
    fn has_masqueraded(&self) -> bool;
    /// How long records live.
    fn timeouts(&self) -> Timeouts;
    /// The ports set aside.
    fn ports(&self) -> Ports;
    /// Whether there are flows of [`Flow::DIRECT`].
    fn has_direct(&self) -> bool;
    /// There will be one in a moment.
    fn say_direct(&self);
    /// Whether an address is a pod's of any node.
    fn is_inside(&self, addr: Addr) -> bool;
    /// Whether one more flow may begin now.
    fn admit(&self, now: u64) -> bool;
}

#[cfg(test)]
mod tests;
