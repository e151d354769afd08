//! Flows of the packet path: who talks to whom through which frontend, and under which address the backend sees it.
//!
//! A flow is found by what a packet shows at the place where it has to be changed, so it has up to three keys:
//!
//! | part | the packet | place | becomes |
//! |---|---|---|---|
//! | [`Part::Forward`] | client to VIP | where it enters the node | client to backend: DNAT |
//! | [`Part::Reply`] | backend to client | where it leaves towards the client | VIP to client: un-DNAT |
//! | [`Part::Return`] | backend to SNAT address | where it enters from a remote backend | backend to client: un-SNAT |
//!
//! SNAT itself (client to backend, where it leaves towards a remote backend) finds the flow by its reply, turned round. Key
//! and record of any part hold the whole flow: whichever is left makes the others anew, at the next packet that looks after
//! them ([`crate::nat::REFRESH`]).

use crate::addr::{Addr, Port, Proto};
use crate::lb::Held;

/// Which of the keys of a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Client to VIP.
    Forward = 1,
    /// Backend to client. It is made first: whoever inserts it has the tuple.
    Reply = 2,
    /// Backend to SNAT address; only flows with SNAT have it.
    Return = 3,
}

/// An address with a port.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// Address.
    pub addr: Addr,
    /// Port, network byte order.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

impl End {
    /// No end: the SNAT end of a flow without SNAT.
    pub const NONE: Self = Self::new(Addr::UNSPECIFIED, Port::ANY);

    /// An address with a port.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self { addr, port, pad: 0 }
    }

    /// Whether this is [`End::NONE`].
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.addr.is_unspecified() && self.port.to_be() == 0
    }
}

/// Key of `FLOWS`: what a packet shows where it is to be changed.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Where the packet comes from.
    pub src: End,
    /// Where it goes.
    pub dst: End,
    /// Protocol.
    pub proto: Proto,
    /// [`Part`], as a number.
    pub part: u8,
    /// Zero.
    pub pad: u16,
}

impl FlowKey {
    /// Nobody's.
    pub const EMPTY: Self = Self { src: End::NONE, dst: End::NONE, proto: Proto::ANY, part: 0, pad: 0 };

    /// The key of a packet at the place of a part.
    #[inline(always)]
    pub const fn new(part: Part, src: End, dst: End, proto: Proto) -> Self {
        Self { src, dst, proto, part: part as u8, pad: 0 }
    }
}

/// A link-layer address as it lies in a frame, in halves of two bytes.
pub type Mac = [u16; 3];
/// None.
pub const NO_MAC: Mac = [0; 3];

/// Value of `FLOWS`: what the key does not name, and what the flow is.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What the packet's end becomes at this place: backend, VIP or client, in the order of [`Part`].
    pub becomes: End,
    /// The end that neither the packet nor its change shows: SNAT end, SNAT end, VIP.
    pub other: End,
    /// Index of the service's cell.
    pub service: u32,
    /// Id of the backend's row when it was picked.
    pub backend: u32,
    /// Generation of the row.
    pub generation: u32,
    /// The client's other port: inside of the node for [`Part::Forward`], its own for the rest. They differ only where another
    /// flow has the client's own towards the same backend.
    pub port: Port,
    /// What is known of the flow, as this part has seen it: [`Flow::SETTLED`] and its like.
    pub flags: u16,
    /// When a packet of the flow last came, within [`crate::nat::REFRESH`]: nanoseconds of the kernel's monotonic clock.
    pub used: u64,
    /// Link-layer address, or zero. Of [`Part::Forward`]: where the client's frames are to go, if that is not where it sends
    /// them. Of [`Part::Reply`]: where the client has sent its last one.
    pub mac: Mac,
    /// Zero.
    pub pad: u16,
}

impl Flow {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        becomes: End::NONE,
        other: End::NONE,
        service: 0,
        backend: 0,
        generation: 0,
        port: Port::ANY,
        flags: 0,
        used: 0,
        mac: NO_MAC,
        pad: 0,
    };
    /// The client is not on this node: where the flow leaves to a backend that is not either, its source is changed, so that
    /// replies come back this way.
    pub const FROM_AFAR: u16 = 1;
    /// A backend has answered, and the client has answered that.
    pub const SETTLED: u16 = 2;
    /// The other side of this part has been seen to answer.
    pub const ANSWERED: u16 = 4;
    /// A FIN has been seen in the direction of this part.
    pub const FINISHED: u16 = 8;
    /// An RST has been seen in the direction of this part.
    pub const RESET: u16 = 16;
    /// The flow has begun while too many others were opening: its records lie apart until it is settled.
    pub const APART: u16 = 32;
    /// The client asks the backend itself, and has got another port since a flow has its own: the VIP is the backend.
    pub const DIRECT: u16 = 64;
    /// The flow's source is changed wherever it leaves the node, also to a backend here, see
    /// [`MASQUERADES`](crate::nat::Settings::MASQUERADES).
    pub const MASQUERADED: u16 = 128;
    /// A FIN has been seen in the other direction, for all but [`Part::Reply`].
    pub const ENDED: u16 = 256;
    /// What all parts of a flow have in common.
    const SHARED: u16 = Self::FROM_AFAR | Self::SETTLED | Self::APART | Self::DIRECT | Self::MASQUERADED;

    /// What was picked when the flow began.
    #[inline(always)]
    pub const fn held(&self) -> Held {
        Held { service: self.service, backend: self.backend, generation: self.generation }
    }

    /// Whether no side of it can have more to say: both have finished, or one has reset it.
    #[inline(always)]
    pub const fn is_over(&self) -> bool {
        self.flags & (Self::FINISHED | Self::ENDED) == Self::FINISHED | Self::ENDED || self.has(Self::RESET)
    }

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Bit of what the sweep says of a record: it lives.
pub const SWEPT_LIVES: u8 = 0x80;
/// Bit of what the sweep says of a record: [`Flow::SETTLED`].
pub const SWEPT_SETTLED: u8 = 0x40;
/// Bit of what the sweep says of a record: [`Flow::DIRECT`].
pub const SWEPT_DIRECT: u8 = 0x20;

/// What the sweep says of a record: its part, as a number, and bits.
#[inline(always)]
pub const fn swept(part: u8, lives: bool, flow: &Flow) -> u8 {
    part & 3
        | if lives { SWEPT_LIVES } else { 0 }
        | if flow.has(Flow::SETTLED) { SWEPT_SETTLED } else { 0 }
        | if flow.has(Flow::DIRECT) { SWEPT_DIRECT } else { 0 }
}

/// A flow with all its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Who dialled.
    pub client: End,
    /// The client's port as everybody but the client sees it.
    pub inside: Port,
    /// What it dialled.
    pub vip: End,
    /// Who serves it.
    pub backend: End,
    /// What the backend sees instead of the client, or [`End::NONE`].
    pub snat: End,
    /// Protocol.
    pub proto: Proto,
    /// What was picked.
    pub held: Held,
    /// Flags that all parts have in common.
    pub flags: u16,
}

impl Whole {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        client: End::NONE,
        inside: Port::ANY,
        vip: End::NONE,
        backend: End::NONE,
        snat: End::NONE,
        proto: Proto::ANY,
        held: Held { service: 0, backend: 0, generation: 0 },
        flags: 0,
    };

    /// Whether the backend sees another address than the client's.
    #[inline(always)]
    pub const fn has_snat(&self) -> bool {
        !self.snat.is_none()
    }

    /// The client as the node and its backends see it.
    #[inline(always)]
    pub const fn client_inside(&self) -> End {
        End::new(self.client.addr, self.inside)
    }

    /// The key of one part. Written in place, as all of this: programs have a stack of 512 bytes.
    #[inline(always)]
    pub const fn key(&self, part: Part, key: &mut FlowKey) {
        let near = self.client_inside();
        (key.src, key.dst) = match part {
            Part::Forward => (self.client, self.vip),
            Part::Reply => (self.backend, near),
            Part::Return => (self.backend, self.snat),
        };
        key.proto = self.proto;
        key.part = part as u8;
        key.pad = 0;
    }

    /// The record of one part, last used at `used`.
    #[inline(always)]
    pub const fn record(&self, part: Part, used: u64, flow: &mut Flow) {
        (flow.becomes, flow.other, flow.port) = match part {
            Part::Forward => (self.backend, self.snat, self.inside),
            Part::Reply => (self.vip, self.snat, self.client.port),
            Part::Return => (self.client_inside(), self.vip, self.client.port),
        };
        flow.service = self.held.service;
        flow.backend = self.held.backend;
        flow.generation = self.held.generation;
        flow.flags = self.flags;
        flow.used = used;
        flow.mac = NO_MAC;
        flow.pad = 0;
    }

    /// Whether a record under the key of one part is this flow's: another may have the key by now.
    #[inline(always)]
    pub fn has(&self, part: Part, flow: &Flow) -> bool {
        match part {
            Part::Forward => flow.becomes == self.backend && flow.port == self.inside,
            Part::Reply => flow.becomes == self.vip && flow.port == self.client.port,
            Part::Return => flow.becomes == self.client_inside() && flow.other == self.vip,
        }
    }

    /// Becomes the flow that one part is of.
    #[inline(always)]
    pub const fn recall(&mut self, part: Part, key: &FlowKey, flow: &Flow) {
        match part {
            Part::Forward => {
                self.client = key.src;
                self.inside = flow.port;
                self.vip = key.dst;
                self.backend = flow.becomes;
                self.snat = flow.other;
            }
            Part::Reply => {
                self.client = End::new(key.dst.addr, flow.port);
                self.inside = key.dst.port;
                self.vip = flow.becomes;
                self.backend = key.src;
                self.snat = flow.other;
            }
            Part::Return => {
                self.client = End::new(flow.becomes.addr, flow.port);
                self.inside = flow.becomes.port;
                self.vip = flow.other;
                self.backend = key.src;
                self.snat = key.dst;
            }
        }
        self.proto = key.proto;
        self.held = flow.held();
        self.flags = flow.flags & Flow::SHARED;
    }
}

const _: () = assert!(size_of::<FlowKey>() == 44 && size_of::<Flow>() == 72);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_end() -> impl Strategy<Value = End> {
        (any::<[u32; 4]>(), 1_u16..)
            .prop_map(|(words, port)| End::new(Addr::from_words(words), Port::new(port)))
    }

    proptest! {
        #[test]
        fn any_part_makes_the_others(
            ends in (any_end(), any_end(), any_end(), prop_oneof![any_end(), Just(End::NONE)]),
            held in any::<[u32; 3]>(),
            (used, inside, flags) in (any::<u64>(), any::<u16>(), 0..4_u16),
            is_apart in any::<bool>(),
        ) {
            let (client, vip, backend, snat) = ends;
            let held = Held { service: held[0], backend: held[1], generation: held[2] };
            let inside = Port::new(inside);
            let flags = flags | if is_apart { Flow::APART } else { 0 };
            let whole = Whole { client, inside, vip, backend, snat, proto: Proto::TCP, held, flags };
            prop_assert_eq!(whole.has_snat(), snat != End::NONE);
            for part in [Part::Forward, Part::Reply, Part::Return] {
                let (mut key, mut flow, mut again) = (FlowKey::EMPTY, Flow::EMPTY, Whole::EMPTY);
                whole.key(part, &mut key);
                whole.record(part, used, &mut flow);
                again.recall(part, &key, &flow);
                prop_assert_eq!(again, whole);
                prop_assert!(whole.has(part, &flow));
                let another = Whole { inside: Port::new(inside.get() ^ 1), vip: backend, backend: vip, ..whole };
                prop_assert!(!another.has(part, &flow));
                prop_assert_eq!((flow.used, key.part), (used, part as u8));
            }
        }
    }

    #[test]
    fn keys_are_what_packets_show() {
        let end = |last: u8, port| End::new(std::net::Ipv4Addr::new(192, 0, 2, last).into(), Port::new(port));
        let (client, vip, backend, snat) = (end(1, 40_000), end(2, 80), end(3, 8080), end(4, 61_000));
        let held = Held { service: 5, backend: 6, generation: 7 };
        let inside = Port::new(61_001);
        let whole = Whole { client, inside, vip, backend, snat, proto: Proto::UDP, held, flags: 0 };
        let seen = |part| {
            let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
            whole.key(part, &mut key);
            whole.record(part, 0, &mut flow);
            (key.src, key.dst, flow.becomes)
        };
        assert_eq!(seen(Part::Forward), (client, vip, backend));
        let near = end(1, 61_001);
        assert_eq!(seen(Part::Reply), (backend, near, vip));
        assert_eq!(seen(Part::Return), (backend, snat, near));
    }
}
