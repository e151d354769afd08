//! What is kept of a UDP socket that was given a backend: which frontends it talks to, and through which backends.
//!
//! A socket may talk to several services at once, and a datagram that comes back tells its sender only. So the record is a
//! small table of pairs. It lies on the socket and dies with it.

use crate::addr::{Addr, Port};
#[cfg(doc)]
use crate::lb::Fate;
use crate::lb::{Held, Pick};

/// Pairs of one socket at most; a power of two.
pub const PAIRS: usize = 8;
const PLACES: u32 = PAIRS as u32;

/// One frontend and the backend that serves it to this socket.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The address that the application sends to.
    pub frontend: Addr,
    /// The address that its datagrams go to.
    pub backend: Addr,
    /// Network byte order.
    pub frontend_port: Port,
    /// Network byte order.
    pub backend_port: Port,
    /// Index of the service's cell.
    pub service: u32,
    /// Id of the backend's row; zero: nobody has this place; [`Pair::WAITING`]: there was none to pick.
    pub row: u32,
    /// Generation of the row when it was picked.
    pub generation: u32,
    /// [`Pair::CHECK_SOURCE`], or nothing.
    pub flags: u32,
}

impl Pair {
    const NONE: Self = Self {
        frontend: Addr::from_words([0; 4]),
        backend: Addr::from_words([0; 4]),
        frontend_port: Port::new(0),
        backend_port: Port::new(0),
        service: 0,
        row: 0,
        generation: 0,
        flags: 0,
    };

    /// The row of a pair whose socket waits for a backend, connected to the frontend itself or to a backend that is gone.
    /// The egress guard drops what it sends.
    pub const WAITING: u32 = u32::MAX;
    /// Flag: source ranges bind the frontend, and no datagram of this pair has been found to come from within them yet.
    pub const CHECK_SOURCE: u32 = 1;

    /// The pair that a pick makes.
    #[inline(always)]
    pub const fn new((frontend, frontend_port): (Addr, Port), pick: &Pick) -> Self {
        Self {
            frontend,
            backend: pick.addr,
            frontend_port,
            backend_port: pick.port,
            service: pick.service,
            row: pick.backend,
            generation: pick.generation,
            flags: if pick.must_check_source() { Self::CHECK_SOURCE } else { 0 },
        }
    }

    /// The pair of a socket that waits for a backend.
    #[inline(always)]
    pub const fn waiting((frontend, frontend_port): (Addr, Port), service: u32) -> Self {
        Self {
            frontend,
            backend: frontend,
            frontend_port,
            backend_port: frontend_port,
            service,
            row: Self::WAITING,
            generation: 0,
            flags: 0,
        }
    }

    /// Whether the socket waits for a backend.
    #[inline(always)]
    pub const fn is_waiting(&self) -> bool {
        self.row == Self::WAITING
    }

    #[inline(always)]
    const fn is_guarded(&self) -> bool {
        self.row != 0 && (self.flags != 0 || self.is_waiting())
    }

    /// What there is to check before the backend gets another datagram.
    #[inline(always)]
    pub const fn held(&self) -> Held {
        Held { service: self.service, backend: self.row, generation: self.generation }
    }

    #[inline(always)]
    fn is_to(&self, (addr, port): (Addr, Port)) -> bool {
        self.row != 0 && self.frontend_port == port && self.frontend == addr
    }

    #[inline(always)]
    fn is_from(&self, (addr, port): (Addr, Port)) -> bool {
        self.row != 0 && self.backend_port == port && self.backend == addr
    }
}

/// The pairs of a socket. All zero: none yet, which is what a fresh record is.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// That through which the socket is connected, or was last. It has a place of its own, so that no other takes it, and
    /// so that the iterator finds it: a program may read its buffer only at places that are constants.
    pub peer: Pair,
    /// All others, in the places that they were given.
    pub places: [Pair; PAIRS],
    /// Place of the next new pair.
    next: u32,
    /// Not zero: a pair waits or has a flag, so the egress guard looks at them all.
    guarded: u32,
    /// Not zero: the socket is connected through [`Self::peer`].
    pub connected: u32,
}

/// What became of the place that a pair took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was free, or had the same frontend.
    Quietly,
    /// Another frontend had it; a reply to that one is not recognised any more.
    InPlaceOfAnother,
}

impl Pairs {
    /// No pairs.
    pub const NONE: Self =
        Self { peer: Pair::NONE, places: [Pair::NONE; PAIRS], next: 0, guarded: 0, connected: 0 };

    /// The pair of a frontend.
    #[inline(always)]
    pub fn to(&self, frontend: (Addr, Port)) -> Option<Pair> {
        self.latest(|pair| pair.is_to(frontend))
    }

    /// The pair of a backend. If two frontends are served by it, the peer's or else the later one: which of them a reply
    /// is for cannot be told, so picks avoid that, see [`Self::is_taken`].
    #[inline(always)]
    pub fn from(&self, backend: (Addr, Port)) -> Option<Pair> {
        self.latest(|pair| pair.is_from(backend))
    }

    /// Whether a backend serves another frontend to this socket already.
    #[inline(always)]
    pub fn is_taken(&self, backend: (Addr, Port), frontend: (Addr, Port)) -> bool {
        self.latest(|pair| pair.is_from(backend) && !pair.is_to(frontend)).is_some()
    }

    /// The latest pair through which datagrams to `addr` may not go yet, if there is any.
    #[inline(always)]
    pub fn guarded(&self, addr: Addr) -> Option<Pair> {
        self.latest(|pair| pair.backend == addr && pair.is_guarded())
    }

    /// Whether [`Self::guarded`] may find one.
    #[inline(always)]
    pub const fn is_guarded(&self) -> bool {
        self.guarded != 0
    }

    /// The sender has been found to be within the source ranges that bind the pair of a frontend.
    #[inline(always)]
    pub fn admit(&mut self, frontend: (Addr, Port)) {
        if self.peer.is_to(frontend) {
            self.peer.flags = 0;
        } else if let Some(place) = self.find(|pair| pair.is_to(frontend)) {
            self.places[place as usize % PAIRS].flags = 0;
        }
    }

    /// The pair through which the socket is connected.
    #[inline(always)]
    pub fn connected(&self) -> Option<Pair> {
        if self.connected == 0 { None } else { Some(self.peer) }
    }

    /// The socket is connected through the pair of a frontend.
    #[inline(always)]
    pub fn connect(&mut self, frontend: (Addr, Port)) {
        if !self.peer.is_to(frontend) {
            let Some(place) = self.find(|pair| pair.is_to(frontend)) else { return };
            core::mem::swap(&mut self.peer, &mut self.places[place as usize % PAIRS]);
        }
        self.connected = 1;
    }

    /// The application has disconnected the socket, of which no hook hears: the peer's pair is one of many.
    #[inline(always)]
    pub const fn is_not_connected(&mut self) {
        self.connected = 0;
    }

    /// The socket stays connected to a backend that is gone, and waits for another.
    #[inline(always)]
    pub fn suspend(&mut self, frontend: (Addr, Port)) {
        if self.connected != 0 && self.peer.is_to(frontend) {
            self.peer.row = Pair::WAITING;
            self.guarded = 1;
        }
    }

    /// The socket is about to be connected to `addr` itself, through no frontend. Whether that succeeds is not known yet, so
    /// what there is stays, unless the peer would be the same and the frontend not meant any more.
    #[inline(always)]
    pub fn disconnect(&mut self, addr: (Addr, Port)) {
        if self.peer.is_from(addr) {
            self.connected = 0;
        }
    }

    /// Who sent a datagram to a connected socket; the kernel lets nobody but the peer.
    #[inline(always)]
    pub fn from_peer(&self, backend: (Addr, Port)) -> Option<Pair> {
        if self.connected != 0 && self.peer.is_from(backend) { Some(self.peer) } else { None }
    }

    /// Keeps a pair: in the place of its frontend, or else the oldest's; as the peer if it `connects`. Whoever was the peer
    /// until then becomes one of the others.
    #[inline(always)]
    pub fn put(&mut self, pair: &Pair, connects: bool) -> Placed {
        let frontend = (pair.frontend, pair.frontend_port);
        if pair.is_guarded() {
            self.guarded = 1;
        }
        self.forget_others(pair);
        if self.peer.is_to(frontend) {
            self.peer = *pair;
            if connects {
                self.connected = 1;
            }
            return Placed::Quietly;
        }
        let mut kept = *pair;
        if connects {
            kept = self.peer;
            self.peer = *pair;
            self.connected = 1;
        }
        let known = self.find(|other| other.is_to(frontend));
        let mut placed = Placed::Quietly;
        let place = if let Some(place) = known {
            place as usize % PAIRS
        } else if kept.row == 0 {
            // Nobody was the peer before.
            return Placed::Quietly;
        } else {
            let place = self.next as usize % PAIRS;
            self.next = (self.next + 1) % PLACES;
            if self.places[place].row != 0 {
                placed = Placed::InPlaceOfAnother;
            }
            place
        };
        self.places[place] = kept;
        placed
    }

    /// A backend answers for one frontend at a time: that which the socket sent to last. A datagram to another begins anew.
    #[inline(always)]
    fn forget_others(&mut self, pair: &Pair) {
        let (backend, frontend) = ((pair.backend, pair.backend_port), (pair.frontend, pair.frontend_port));
        for place in &mut self.places {
            if place.is_from(backend) && !place.is_to(frontend) {
                place.row = 0;
            }
        }
        if self.connected == 0 && self.peer.is_from(backend) && !self.peer.is_to(frontend) {
            self.peer.row = 0;
        }
    }

    /// The peer, or else the latest of the others, if it is meant.
    #[inline(always)]
    fn latest(&self, is_meant: impl Fn(&Pair) -> bool) -> Option<Pair> {
        if is_meant(&self.peer) {
            return Some(self.peer);
        }
        self.find(is_meant).map(|place| self.places[place as usize % PAIRS])
    }

    /// The place of the latest pair that is meant.
    ///
    /// The order of age also keeps programs small: a place that comes out of memory is any place to the verifier, where
    /// the numbers of a loop would be one case each of everything that follows.
    #[inline(always)]
    fn find(&self, is_meant: impl Fn(&Pair) -> bool) -> Option<u32> {
        for age in 1..=PLACES {
            let place = self.next.wrapping_sub(age) % PLACES;
            if is_meant(&self.places[place as usize]) {
                return Some(place);
            }
        }
        None
    }
}

/// `struct bpf_spin_lock`. The kernel knows it by its name, and lets no program read or write it.
#[repr(C)]
#[derive(Debug)]
pub struct bpf_spin_lock {
    /// The kernel's own.
    val: u32,
}

/// Value of `UDP_SOCKETS`. Several threads may send on one socket, and no lock of the socket is held then.
#[repr(C)]
#[derive(Debug)]
pub struct UdpRecord {
    /// Held while the pairs are read or written.
    pub lock: bpf_spin_lock,
    /// Process that connected the socket, as the initial PID namespace numbers it. The agent's own connects, by which it
    /// moves the socket, keep the one that was there.
    pub tgid: u32,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// The pairs.
    pub pairs: Pairs,
}

/// What the iterator over `UDP_SOCKETS` writes of a connected socket that cannot stay as it is, or that waits.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The socket's cookie, as SO_COOKIE shows it.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Process that connected it.
    pub tgid: u32,
    /// Index of the service's cell.
    pub service: u32,
    /// What the application dialled.
    pub frontend: Addr,
    /// Network byte order.
    pub frontend_port: Port,
    /// Zero.
    pub pad: u16,
    /// The [`Fate`] as a number; [`Fate::Stays`] of those that wait already.
    pub fate: u32,
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
