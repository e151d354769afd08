//! What is kept of a UDP socket that was given a backend: which frontends it talks to, and through which backends.
//!
//! A socket may talk to several services at once, and a datagram that comes back tells its sender only. So the record is a
//! small table of pairs. It lies on the socket and dies with it.

use crate::addr::{Addr, Port};
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
    /// Id of the backend's row; zero: nobody has this place.
    pub row: u32,
    /// Generation of the row when it was picked.
    pub generation: u32,
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
    };

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
        }
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
    /// In the places that they were given.
    pub places: [Pair; PAIRS],
    /// Place of the next new pair.
    next: u32,
    /// One more than the place of the pair through which the socket is connected; zero: through none.
    connected: u32,
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
    pub const NONE: Self = Self { places: [Pair::NONE; PAIRS], next: 0, connected: 0 };

    /// The pair of a frontend.
    #[inline(always)]
    pub fn to(&self, frontend: (Addr, Port)) -> Option<Pair> {
        self.find(|pair| pair.is_to(frontend)).map(|place| self.at(place))
    }

    /// The pair of a backend. If two frontends are served by it, the later one: which of them a reply is for cannot be
    /// told, so picks avoid that, see [`Self::is_taken`].
    #[inline(always)]
    pub fn from(&self, backend: (Addr, Port)) -> Option<Pair> {
        self.find(|pair| pair.is_from(backend)).map(|place| self.at(place))
    }

    /// Whether a backend serves another frontend to this socket already.
    #[inline(always)]
    pub fn is_taken(&self, backend: (Addr, Port), frontend: (Addr, Port)) -> bool {
        self.find(|pair| pair.is_from(backend) && !pair.is_to(frontend)).is_some()
    }

    /// The pair through which the socket is connected.
    #[inline(always)]
    pub fn connected(&self) -> Option<Pair> {
        if self.connected == 0 { None } else { Some(self.at(self.connected.wrapping_sub(1))) }
    }

    /// The socket is connected through the pair of a frontend.
    #[inline(always)]
    pub fn connect(&mut self, frontend: (Addr, Port)) {
        if let Some(place) = self.find(|pair| pair.is_to(frontend)) {
            self.connected = place + 1;
        }
    }

    /// The socket is connected to something else, or by itself.
    #[inline(always)]
    pub const fn disconnect(&mut self) {
        self.connected = 0;
    }

    /// Keeps a pair: in the place of its frontend, or else the oldest's, but never in that of the pair through which the
    /// socket is connected.
    #[inline(always)]
    pub fn put(&mut self, pair: &Pair, connects: bool) -> Placed {
        let frontend = (pair.frontend, pair.frontend_port);
        let mut placed = Placed::Quietly;
        let place = if let Some(place) = self.find(|other| other.is_to(frontend)) {
            place
        } else {
            let is_connected = self.connected == self.next % PLACES + 1;
            let place = (self.next + u32::from(is_connected && !connects)) % PLACES;
            self.next = (place + 1) % PLACES;
            if self.at(place).row != 0 {
                placed = Placed::InPlaceOfAnother;
            }
            place
        };
        self.places[(place % PLACES) as usize] = *pair;
        if connects {
            self.connected = place % PLACES + 1;
        }
        placed
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

    #[inline(always)]
    const fn at(&self, place: u32) -> Pair {
        self.places[(place % PLACES) as usize]
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
    /// Zero.
    pub pad: u32,
    /// The pairs.
    pub pairs: Pairs,
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
