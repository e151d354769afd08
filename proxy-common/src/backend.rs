//! Backends: one row per endpoint of one service port, never shared between service ports.

use crate::addr::{Addr, Port};
use crate::service::View;

/// Words of a row in the `BACKENDS` chunked array.
pub const ROW_WORDS: usize = 4;

/// Index of the word that holds state (low half) and generation (high half): the only word of a row that is
/// written while the row can be reached.
pub const STATE_WORD: usize = 2;

/// A row of `BACKENDS`. Row 0 is never used, so that an empty slot names nobody.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Where the endpoint listens.
    pub addr: Addr,
    /// [`BackendState`] bits.
    pub state: u32,
    /// Goes up by one each time the row is given to another endpoint; records that outlive one program run keep
    /// it beside the id and trust the row only while it matches.
    pub generation: u32,
    /// Index of the service's cell.
    pub service: u32,
    /// Network byte order.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

/// State bits of a row. All zero: the row is free, or becomes free once its quarantine ends.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct BackendState(pub u32);

impl BackendState {
    /// Nobody owns the row.
    pub const FREE: Self = Self(0);
    /// The endpoint is listed and serving; flows to it stay.
    pub const SERVING: Self = Self(1);

    /// With the bit of `view` set: the endpoint is a slot of that view.
    #[inline(always)]
    #[must_use]
    pub const fn with_view(self, view: View) -> Self {
        Self(self.0 | 2 << view as u8)
    }

    /// Whether the endpoint is a slot of `view`.
    #[inline(always)]
    pub const fn in_view(self, view: View) -> bool {
        self.0 & (2 << view as u8) != 0
    }

    /// Whether the endpoint is listed and serving.
    #[inline(always)]
    pub const fn is_serving(self) -> bool {
        self.0 & Self::SERVING.0 != 0
    }
}

impl Backend {
    /// The row's words as stored, in host order of the words (the bytes are the layout's).
    #[inline(always)]
    pub const fn to_words(&self) -> [u64; ROW_WORDS] {
        let [a, b, c, d] = self.addr.words();
        [join(a, b), join(c, d), join(self.state, self.generation), join(self.service, port_word(self.port))]
    }

    /// The row from its stored words.
    #[inline(always)]
    pub const fn from_words(words: [u64; ROW_WORDS]) -> Self {
        let (a, b) = split(words[0]);
        let (c, d) = split(words[1]);
        let (state, generation) = split(words[2]);
        let (service, port) = split(words[3]);
        Self {
            addr: Addr::from_words([a, b, c, d]),
            state,
            generation,
            service,
            port: word_port(port),
            pad: 0,
        }
    }

    /// The state bits.
    #[inline(always)]
    pub const fn state(&self) -> BackendState {
        BackendState(self.state)
    }
}

/// Two consecutive `u32` in memory as the `u64` that covers them.
#[inline(always)]
pub const fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        first as u64 | (second as u64) << 32
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// The two `u32` in memory that a `u64` covers.
#[inline(always)]
pub const fn split(word: u64) -> (u32, u32) {
    if cfg!(target_endian = "little") {
        (word as u32, (word >> 32) as u32)
    } else {
        ((word >> 32) as u32, word as u32)
    }
}

const fn port_word(port: Port) -> u32 {
    let [a, b] = port.to_be().to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
}

const fn word_port(word: u32) -> Port {
    let [a, b, _, _] = word.to_ne_bytes();
    Port::from_be(u16::from_ne_bytes([a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_its_words() {
        let row = Backend {
            addr: "fd00::1:2".parse::<core::net::Ipv6Addr>().unwrap().into(),
            state: BackendState::SERVING.with_view(View::External).0,
            generation: 7,
            service: 9,
            port: Port::new(8080),
            pad: 0,
        };
        assert_eq!(Backend::from_words(row.to_words()), row);
        assert!(row.state().in_view(View::External) && !row.state().in_view(View::Internal));
    }
}
