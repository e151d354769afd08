//! What the maps should know of the node itself: its own addresses, which of them serve NodePorts, and the ranges
//! that cluster IPs come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use proxy_common::node::{CidrKey, NodeAddrFlags};

use super::tables::DesiredNode;
use crate::model::{Family, Node, ServiceCidr};

/// Which of the node's own addresses serve NodePorts (`--nodeport-addresses`, kube-proxy's `nodePortAddresses`).
///
/// The host's loopback is no matter of this: it always serves them, to processes of the host only.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// All.
    #[default]
    All,
    /// The first address of each family in the Node's status, if it is on an interface.
    Primary,
    /// What any entry selects. A family that no entry speaks of is served on all its addresses, as with
    /// kube-proxy; the keywords speak of both.
    List(Vec<NodePortEntry>),
}

/// One entry of a list of addresses that serve NodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortEntry {
    /// `all`: as `0.0.0.0/0,::/0`.
    All,
    /// `primary`: the first address of each family in the Node's status.
    Primary,
    /// `localhost`: as `127.0.0.0/8,::1/128`.
    Localhost,
    /// A range.
    Net(IpNet),
}

/// Why a list of addresses that serve NodePorts is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodePortAddressesError {
    /// An empty list would be all addresses, which is better said than meant.
    #[error("no addresses given; `all` selects every address")]
    Empty,
    /// Neither a keyword nor a range.
    #[error("`{entry}` is none of `all`, `primary` and `localhost`, nor a CIDR such as 192.0.2.0/24")]
    Unknown {
        /// The entry as given.
        entry: Box<str>,
    },
    /// A keyword twice.
    #[error("`{keyword}` is given twice")]
    Repeated {
        /// The keyword.
        keyword: &'static str,
    },
}

impl NodePortAddresses {
    /// From the entries of a list, each a keyword (at most once) or a CIDR; blanks around an entry do not count.
    pub fn from_entries<'a>(
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, NodePortAddressesError> {
        let mut parsed = Vec::new();
        for entry in entries {
            let entry = NodePortEntry::from_str(entry)?;
            if let Some(keyword) = entry.keyword()
                && parsed.contains(&entry)
            {
                return Err(NodePortAddressesError::Repeated { keyword });
            }
            parsed.push(entry);
        }
        match *parsed {
            [] => Err(NodePortAddressesError::Empty),
            [NodePortEntry::All] => Ok(Self::All),
            [NodePortEntry::Primary] => Ok(Self::Primary),
            _ => Ok(Self::List(parsed)),
        }
    }

    /// The entries of a list that says the same.
    pub fn entries(&self) -> Vec<NodePortEntry> {
        match self {
            Self::All => vec![NodePortEntry::All],
            Self::Primary => vec![NodePortEntry::Primary],
            Self::List(entries) => entries.clone(),
        }
    }

    /// Where to listen for what is asked of the node as NodePorts are: the unspecified address of a family that is served on
    /// all its addresses, else those of `addresses`, the node's own, that serve them. Without an interface a link-local
    /// address of IPv6 is none to listen on.
    pub fn listen_on(&self, addresses: &[IpAddr], node: &Node) -> Vec<IpAddr> {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let (all, some): (Vec<IpAddr>, Vec<IpAddr>) =
            any.into_iter().partition(|any| self.selects_all(Family::of(*any)));
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let selected = addresses.iter().copied().filter(|ip| {
            let is_of_some = some.iter().any(|any| Family::of(*any) == Family::of(*ip));
            is_of_some && self.selects(*ip, node) && !is_link_local(ip)
        });
        all.iter().copied().chain(selected).collect()
    }

    /// Whether every address of a family serves, whichever come.
    fn selects_all(&self, family: Family) -> bool {
        match self {
            Self::All => true,
            Self::Primary => false,
            Self::List(entries) => {
                let mut speaking = entries.iter().filter(|entry| entry.speaks_of(family)).peekable();
                speaking.peek().is_none() || speaking.any(NodePortEntry::selects_all)
            }
        }
    }

    fn selects(&self, ip: IpAddr, node: &Node) -> bool {
        match self {
            Self::All => true,
            Self::Primary => is_primary(ip, node),
            Self::List(entries) => {
                let mut speaking = entries.iter().filter(|entry| entry.speaks_of(Family::of(ip))).peekable();
                speaking.peek().is_none() || speaking.any(|entry| entry.selects(ip, node))
            }
        }
    }
}

impl FromStr for NodePortAddresses {
    type Err = NodePortAddressesError;

    /// From entries separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(NodePortAddressesError::Empty);
        }
        Self::from_entries(text.split(','))
    }
}

impl NodePortEntry {
    const KEYWORDS: [(&'static str, Self); 3] =
        [("all", Self::All), ("primary", Self::Primary), ("localhost", Self::Localhost)];

    fn keyword(&self) -> Option<&'static str> {
        Self::KEYWORDS.iter().find(|(_, entry)| entry == self).map(|(keyword, _)| *keyword)
    }

    fn speaks_of(&self, family: Family) -> bool {
        match self {
            Self::All | Self::Primary | Self::Localhost => true,
            Self::Net(net) => Family::of_net(net) == family,
        }
    }

    fn selects_all(&self) -> bool {
        match self {
            Self::All => true,
            Self::Primary | Self::Localhost => false,
            Self::Net(net) => net.prefix_len() == 0,
        }
    }

    fn selects(&self, ip: IpAddr, node: &Node) -> bool {
        match self {
            Self::All => true,
            Self::Primary => is_primary(ip, node),
            Self::Localhost => ip.is_loopback(),
            Self::Net(net) => net.contains(&ip),
        }
    }
}

impl fmt::Display for NodePortEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(out),
            keyword => out.write_str(keyword.keyword().unwrap_or_default()),
        }
    }
}

impl FromStr for NodePortEntry {
    type Err = NodePortAddressesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some((_, entry)) = Self::KEYWORDS.iter().find(|(keyword, _)| *keyword == text) {
            return Ok(*entry);
        }
        text.parse().map(Self::Net).map_err(|_| NodePortAddressesError::Unknown { entry: text.into() })
    }
}

/// Plans what belongs to the node and to no Service.
///
/// `addresses` are those on the node's own interfaces. Loopback addresses are left out: the decision knows them by
/// themselves, and whether they serve depends on who asks. An address in the Node's status that is on no interface
/// (a cloud's translated ExternalIP) is left out too: what is sent there leaves the node.
pub fn desired_node<'a>(
    addresses: &[IpAddr],
    node: &Node,
    service_cidrs: impl IntoIterator<Item = &'a ServiceCidr>,
    node_port_addresses: &NodePortAddresses,
) -> DesiredNode {
    let mut own: Vec<_> = addresses
        .iter()
        .filter(|ip| !ip.is_loopback())
        .map(|ip| {
            let serves = node_port_addresses.selects(*ip, node);
            let flags = if serves { NodeAddrFlags::NODE_PORT } else { NodeAddrFlags(0) };
            ((*ip).into(), flags.union(NodeAddrFlags::LOCAL))
        })
        .collect();
    own.sort_unstable_by_key(|(addr, _)| *addr);
    own.dedup();
    let service_cidrs = service_cidrs.into_iter().flat_map(|object| object.cidrs.iter().map(IpNet::trunc));
    DesiredNode { addresses: own, service_cidrs: covering_keys(service_cidrs.collect()) }
}

fn is_primary(ip: IpAddr, node: &Node) -> bool {
    node.addresses.iter().find(|own| Family::of(**own) == Family::of(ip)) == Some(&ip)
}

/// The ranges that no other one covers, as keys, sorted. They have no host bits.
pub(super) fn covering_keys(mut nets: Vec<IpNet>) -> Vec<CidrKey> {
    // Two ranges are either disjoint or one holds the other, and the outer one sorts first.
    nets.sort_unstable();
    nets.dedup_by(|inner, outer| outer.contains(&*inner));
    let mut keys: Vec<_> = nets.iter().map(cidr_key).collect();
    keys.sort_unstable();
    keys
}

fn cidr_key(net: &IpNet) -> CidrKey {
    CidrKey::new(net.network().into(), net.prefix_len())
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
