//! What is kept on a socket itself: it dies with the socket, so nothing has to be collected.

use crate::addr::{Addr, Port};

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
    /// Index of the service's cell at the time of the connect.
    pub service: u32,
}
