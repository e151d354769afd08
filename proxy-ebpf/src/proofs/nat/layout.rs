//! Layouts of the packet path's proofs, shared with the tests, which include this file by path.

use proxy_common::addr::{Addr, Port};

/// One end of a flow.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address half.
    pub addr: Addr,
    /// Network byte order.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}

/// Key of `PROOF_NAT_SOURCES`: where SNAT is done.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Index of the device that packets leave by.
    pub index: u32,
    /// 4 or 6.
    pub version: u32,
}

/// Elements of `PROOF_NAT_COUNTERS`.
pub mod counter {
    /// Destinations changed from a VIP to a backend.
    pub const DNAT: u32 = 0;
    /// Sources changed from a backend to the VIP.
    pub const UN_DNAT: u32 = 1;
    /// Sources changed from a client to the node.
    pub const SNAT: u32 = 2;
    /// Destinations changed from the node to the client.
    pub const UN_SNAT: u32 = 3;
    /// Packets that were sent on within the bridge.
    pub const SWITCHED: u32 = 4;
    /// Replies that were made to climb from the bridge to the stack.
    pub const CLIMBED: u32 = 5;
    /// Packets that could not be rewritten.
    pub const FAILED: u32 = 6;
    /// Bytes of the largest packet that was rewritten.
    pub const LARGEST: u32 = 7;
}

/// Where the ports of SNAT begin, and how many there are.
pub const SNAT_PORTS: (u16, u16) = (61_000, 4_096);

const _: () = {
    assert!(size_of::<End>() == 20 && size_of::<Device>() == 8);
};
