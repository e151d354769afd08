//! Frontends: the addresses that clients use, as the key and value of the `FRONTENDS` hash.

use core::fmt;
use core::net::SocketAddr;

use crate::addr::{Addr, Port, Proto};
use crate::owned;

/// Key of `FRONTENDS`.
///
/// Three forms: `{VIP, port, proto}` is a service port; `{0.0.0.0, port, proto}` or `{::, port, proto}` is a
/// NodePort on whichever address of the node and of that family is selected; `{first address, 0, 0}` names the block of
/// owned VIPs that starts there, see [`crate::owned`]. A NodePort has one key per family because each family of a Service
/// has its own cell and its own backends.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// The VIP, or the unspecified address of the family for a NodePort.
    pub addr: Addr,
    /// Network byte order.
    pub port: Port,
    /// IP protocol.
    pub proto: Proto,
    /// Zero.
    pub pad: u8,
}

impl FrontendKey {
    /// A service port of a VIP.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port, proto: Proto) -> Self {
        Self { addr, port, proto, pad: 0 }
    }

    /// A NodePort on the node's addresses of the family of `addr`.
    #[inline(always)]
    pub const fn node_port(addr: Addr, port: Port, proto: Proto) -> Self {
        Self::new(addr.to_unspecified(), port, proto)
    }

    /// A VIP as such, without a port: what a writer plans with. The map has [`FrontendKey::owned_block`] instead.
    #[inline(always)]
    pub const fn owned_vip(addr: Addr) -> Self {
        Self::new(addr, Port::ANY, Proto::ANY)
    }

    /// The entry that names the block of owned VIPs that `addr` is in.
    #[inline(always)]
    pub const fn owned_block(addr: Addr) -> Self {
        Self::owned_vip(owned::block(addr))
    }

    /// Whether this stands for VIPs as such and not for a port.
    #[inline(always)]
    pub const fn is_owned_vip(&self) -> bool {
        self.proto.0 == 0
    }
}

impl fmt::Display for FrontendKey {
    /// `10.96.0.1:80/tcp`, `[fd00::1]:80/tcp`; a NodePort shows the unspecified address.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", SocketAddr::new(self.addr.to_ip(), self.port.get()), self.proto)
    }
}

/// What a frontend is, which decides the view that serves it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// `spec.ports[].nodePort` on a selected address of the node.
    NodePort = 2,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP.
    LoadBalancer = 3,
    /// `spec.externalIPs`.
    ExternalIp = 4,
    /// VIPs as such, for ports that they do not serve.
    OwnedVip = 5,
}

impl FrontendKind {
    /// The kind stored as `raw`, or `None` for a number this version does not know.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::ClusterIp),
            2 => Some(Self::NodePort),
            3 => Some(Self::LoadBalancer),
            4 => Some(Self::ExternalIp),
            5 => Some(Self::OwnedVip),
            _ => None,
        }
    }
}

/// Value of `FRONTENDS`: never changed after insertion, since the kernel may hand a reader an element that is
/// being recycled; whatever changes over a service's life is in its cell.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendValue {
    /// Index of the service's cell; of the block's element in `OWNED` for a block of owned VIPs.
    pub service: u32,
    /// A [`FrontendKind`].
    pub kind: u8,
    /// [`FrontendValue::CHECK_SOURCE`] and bits reserved as zero.
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

impl FrontendValue {
    /// Flag: `loadBalancerSourceRanges` bind this frontend.
    pub const CHECK_SOURCE: u8 = 1;

    /// A value of `kind` for `service`.
    #[inline(always)]
    pub const fn new(service: u32, kind: FrontendKind, flags: u8) -> Self {
        Self { service, kind: kind as u8, flags, pad: 0 }
    }
}
