//! Layouts that the proof programs share with their tests.
//!
//! The tests include this very file by path: the programs are never shipped, so their layouts have no place in the
//! contract crate, and a second copy could drift.

use proxy_common::addr::{Addr, Port};

/// Key of `PROOF_VIPS`: what an application dials.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vip {
    /// The address half.
    pub addr: Addr,
    /// Network byte order.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

/// Element of `PROOF_BACKENDS`. Backend 0 is nobody: a VIP that names it has no backend.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub addr: Addr,
    /// Goes up when the id is given to another endpoint.
    pub generation: u32,
    /// Network byte order.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

/// Value of `PROOF_UDP_SOCKETS`: what a connected UDP socket dialled, what it got, and whose it is.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// What the application dialled.
    pub frontend: Vip,
    /// Element of `PROOF_BACKENDS`; 0: connected to the VIP itself until a backend comes.
    pub backend: u32,
    /// The backend's generation at the time.
    pub generation: u32,
    /// Process that connected the socket; the mover's own connects keep the one that was there.
    pub tgid: u32,
}

/// What the iterator writes for each record.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The socket's cookie, as SO_COOKIE shows it.
    pub cookie: u64,
    /// The record.
    pub record: Record,
}

/// Value of `PROOF_NETNS`, whose key is the namespace's cookie.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its IPv4 address, or `::`.
    pub v4: Addr,
    /// Its IPv6 address, or `::`.
    pub v6: Addr,
    /// [`Namespace::PENDING`] or [`Namespace::KNOWN`].
    pub state: u64,
}

impl Namespace {
    /// A hook has reported the namespace; nobody has looked yet. Set by the hook, so that the next one is silent.
    pub const PENDING: u64 = 1;
    /// The addresses are those of the namespace. Set by the watcher.
    #[cfg(not(target_arch = "bpf"))]
    pub const KNOWN: u64 = 2;
}

/// Record of `PROOF_EVENTS`: a hook ran in a namespace that `PROOF_NETNS` does not hold.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Cookie of the namespace.
    pub netns: u64,
    /// Cgroup v2 id of the caller.
    pub cgroup: u64,
    /// Process of the caller, as the initial PID namespace numbers it.
    pub tgid: u64,
}

/// Words of eight bytes of the packet in `PROOF_FLOOD_PACKET`: Ethernet, IPv4 and TCP headers, and two bytes behind them.
pub const FLOOD_WORDS: usize = 7;

const _: () = {
    assert!(size_of::<Vip>() == 20 && size_of::<Backend>() == 24);
    assert!(size_of::<Record>() == 40 && size_of::<Listed>() == 48);
    assert!(size_of::<Namespace>() == 40 && size_of::<Unknown>() == 24);
};
