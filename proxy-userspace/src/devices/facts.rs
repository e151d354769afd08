//! What is known of a network namespace: its links, their addresses, and where default routes lead.

use std::net::IpAddr;

/// Where kube-proxy in ipvs mode keeps the addresses of Services: none of them is the node's own, and nothing arrives
/// there.
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// Everything that a choice of devices depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Links by ascending index.
    pub links: Vec<Link>,
    /// Addresses in the kernel's order, which is the order of preference on a link.
    pub addresses: Vec<Address>,
    /// Default routes of all tables, preferred ones first.
    pub default_routes: Vec<DefaultRoute>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The link that it is a port of.
    pub master: Option<u32>,
    /// Whether its other end is in another network namespace.
    pub is_peer_elsewhere: bool,
    /// Whether its packets have no link-layer header.
    pub is_bare: bool,
}

/// What a link is, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The way to oneself.
    Loopback,
    /// One of two ends.
    Veth,
    /// One of two ends, made for pods.
    Netkit,
    /// A bridge.
    Bridge,
    /// A routing domain: its ports are devices as any other.
    Vrf,
    /// Whatever is sent there is gone, and nothing arrives.
    Dummy,
    /// A card, a bond, a tunnel, a VLAN ...
    Other,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address; on a point-to-point link the own one.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix_len: u8,
    /// Whether others than the link's neighbours may know it.
    pub is_global: bool,
    /// Another address of its network goes before it; of IPv6, a temporary one.
    pub is_secondary: bool,
    /// New connections are not to come from it: deprecated, or not yet known to be unique, or known not to be.
    pub is_unfit: bool,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The link that it leads out by.
    pub index: u32,
    /// Whether it is of IPv4.
    pub is_v4: bool,
    /// The source that it asks for.
    pub preferred_source: Option<IpAddr>,
}

impl Facts {
    /// The link of this number.
    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The ports of a link.
    pub(super) fn ports(&self, master: u32) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.master == Some(master))
    }

    /// Whether a default route leads out by this link.
    pub(super) fn has_default_route(&self, index: u32) -> bool {
        self.default_routes.iter().any(|route| route.index == index)
    }

    /// Addresses of a link by which the node is known to others.
    pub(super) fn node_addresses(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.index == index && address.is_of_node())
    }
}

impl Link {
    /// Whether packets of others can arrive at all, or leave.
    pub(super) fn carries_packets(&self) -> bool {
        !matches!(self.kind, Kind::Loopback | Kind::Dummy) && self.name != IPVS_INTERFACE
    }
}

impl Address {
    /// Whether others know the node by it: not only the neighbours of one link, whatever scope it was given.
    pub(super) fn is_of_node(&self) -> bool {
        let is_of_link = match self.ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
        };
        self.is_global && !is_of_link
    }

    /// Whether its network has room for others: not that of a single host.
    pub(super) fn has_neighbours(&self) -> bool {
        self.prefix_len < if self.ip.is_ipv4() { 32 } else { 128 }
    }
}
