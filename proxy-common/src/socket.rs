//! What is kept of a socket whose connect was translated.
//!
//! A record lies in a place of the `TCP_PEERS` table, which the socket's cookie names and which is free again when the
//! socket is closed; to write it there costs some nanoseconds. Where another live socket has that place, it lies on the
//! socket itself (`TCP_SOCKETS`), which takes an allocation of most of a microsecond. Either dies with the socket, so
//! nothing has to be collected.

use crate::addr::{Addr, Port};

/// Places of `TCP_PEERS`, a power of two. Cookies are given out in a row, so that sockets share a place only if many
/// are open, or live long.
pub const PEER_PLACES: u32 = 1 << 13;

/// The place of a socket's record. A cookie is never zero and never given out twice.
#[inline(always)]
pub const fn peer_place(cookie: u64) -> u32 {
    cookie as u32 % PEER_PLACES
}

/// Value of `TCP_PEERS`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpPeer {
    /// Cookie of the socket that has this place; zero: free. Only the owner of a place reads or writes the record.
    pub cookie: u64,
    /// Its record.
    pub record: TcpRecord,
}

/// Value of `TCP_SOCKETS`: which frontend the application dialled and which backend it got.
///
/// `getpeername` shows the frontend only while the socket's real peer is this backend: a socket that was later
/// connected elsewhere is left alone. The backend's address is kept rather than its id because a TCP connection
/// may outlive its row.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRecord {
    /// The address the application dialled.
    pub frontend: Addr,
    /// The address the connection went to.
    pub backend: Addr,
    /// Network byte order.
    pub frontend_port: Port,
    /// Network byte order.
    pub backend_port: Port,
    /// Index of the service's cell at the time of the connect, and what the egress guard is to do, see
    /// [`TcpRecord::tagged`].
    pub tagged: u32,
}

impl TcpRecord {
    /// Flag: the connection may begin only from an address that the service's source ranges hold.
    pub const CHECK_SOURCE: u32 = 1 << 31;
    /// Flag: the connection must time out.
    pub const DROP: u32 = 1 << 30;

    /// A cell's index with flags.
    #[inline(always)]
    pub const fn tagged(service: u32, flags: u32) -> u32 {
        service & !(Self::CHECK_SOURCE | Self::DROP) | flags
    }

    /// Index of the service's cell.
    #[inline(always)]
    pub const fn service(&self) -> u32 {
        self.tagged & !(Self::CHECK_SOURCE | Self::DROP)
    }

    /// Whether the connection must time out.
    #[inline(always)]
    pub const fn must_drop(&self) -> bool {
        self.tagged & Self::DROP != 0
    }

    /// Whether the source ranges of the service bind the connection.
    #[inline(always)]
    pub const fn must_check_source(&self) -> bool {
        self.tagged & Self::CHECK_SOURCE != 0
    }
}

// A cell's index leaves the bits of the flags free.
const _: () = assert!(crate::names::SERVICES.capacity() <= 1 << 30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_holds_a_cell_and_flags() {
        let zero = Addr::from_words([0; 4]);
        let record = |tagged| TcpRecord {
            frontend: zero,
            backend: zero,
            frontend_port: Port::new(0),
            backend_port: Port::new(0),
            tagged,
        };
        let plain = record(TcpRecord::tagged(77, 0));
        assert_eq!((plain.service(), plain.must_drop(), plain.must_check_source()), (77, false, false));
        let bound = record(TcpRecord::tagged(77, TcpRecord::CHECK_SOURCE));
        assert_eq!((bound.service(), bound.must_drop(), bound.must_check_source()), (77, false, true));
        assert!(record(TcpRecord::tagged(0, TcpRecord::DROP)).must_drop());
    }

    #[test]
    fn cookies_given_out_in_a_row_have_places_of_their_own() {
        let places: std::collections::HashSet<u32> =
            (7..7 + u64::from(PEER_PLACES)).map(peer_place).collect();
        assert_eq!(places.len(), PEER_PLACES as usize);
        assert!(places.iter().all(|place| *place < PEER_PLACES));
        assert_eq!(peer_place(5), peer_place((1 << 40) + 5));
    }
}
