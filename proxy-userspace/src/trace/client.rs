//! Who asks, and for whom the hooks would take it.

use std::net::IpAddr;
use std::str::FromStr;

use proxy_common::addr::Addr;
use proxy_common::lb::Origin;
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::registry::{Namespace, stand_in};

/// SRC of `shunt trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A process of the host.
    Host,
    /// A process of any pod of this node.
    Pod,
    /// Whoever has this address.
    At(IpAddr),
}

/// A SRC that is none of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither `host` nor `pod` nor an IP address")]
pub struct NoClient;

impl FromStr for Asked {
    type Err = NoClient;

    fn from_str(text: &str) -> Result<Self, NoClient> {
        match text {
            "host" => Ok(Self::Host),
            "pod" => Ok(Self::Pod),
            _ => text.parse().map(|ip: IpAddr| Self::At(ip.to_canonical())).map_err(|_| NoClient),
        }
    }
}

/// What is known of clients and of the node.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The registry.
    pub namespaces: &'a [(u64, Namespace)],
    /// The node's own addresses.
    pub node_addrs: &'a [(Addr, NodeAddrFlags)],
    /// Cookie of the network namespace that is the host's, if the registry does not tell.
    pub own: u64,
    /// Ranges whose packets count as a pod's, where the packet path is in force.
    pub inside: &'a [CidrKey],
}

/// A client as the hooks would know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where it is.
    pub origin: Origin,
    /// Why it was taken for that.
    pub reason: String,
    /// Addresses that its packets may come from; none: not known.
    addresses: Vec<Addr>,
    /// What affinity knows it by, in the order in which the hooks look: its address, then what stands for that.
    keys: Vec<Addr>,
}

impl Client {
    /// Judges who `asked` is.
    pub fn judge(asked: Asked, facts: &Facts<'_>) -> Self {
        match asked {
            Asked::Host => facts.host_at(None, "any process in the host's network namespace"),
            Asked::Pod => Self {
                origin: Origin::Pod,
                reason: "any pod of this node: which one is not said".to_owned(),
                addresses: Vec::new(),
                keys: Vec::new(),
            },
            Asked::At(ip) => facts.at(ip.into()),
        }
    }

    /// Addresses of a family that its packets may come from; none: not known.
    pub fn addresses(&self, is_v4: bool) -> impl Iterator<Item = Addr> + '_ {
        self.addresses.iter().copied().filter(move |addr| addr.is_v4() == is_v4)
    }

    /// What affinity knows it by for a destination of a family. What stands for an address is of both.
    pub fn keys(&self, is_v4: bool) -> impl Iterator<Item = Addr> + '_ {
        let is_stand_in = |addr: &Addr| crate::maps::known::stands_for(*addr).is_some();
        self.keys.iter().copied().filter(move |addr| addr.is_v4() == is_v4 || is_stand_in(addr))
    }
}

impl Facts<'_> {
    fn at(&self, addr: Addr) -> Client {
        if addr.is_loopback() {
            return self.host_at(None, "a loopback address is taken for the host's");
        }
        let holder = self.holder(addr);
        if holder.is_some_and(|(cookie, _)| cookie == self.host()) {
            return self.host_at(Some(addr), "the registry has the address in the host's network namespace");
        }
        if let Some((cookie, namespace)) = holder {
            return Client {
                origin: Origin::Pod,
                reason: format!("the registry has the address in network namespace {cookie}"),
                addresses: addresses_of(&namespace),
                keys: keys_of(cookie, Some(namespace)),
            };
        }
        if self.node_addrs.iter().any(|(own, _)| *own == addr) {
            return self.host_at(Some(addr), "it is an address of this node");
        }
        if let Some(range) = self.inside.iter().find(|range| range.covers(addr)) {
            return Client {
                origin: Origin::Pod,
                reason: format!("{range} counts as inside, as the packet path was told"),
                addresses: vec![addr],
                keys: vec![addr],
            };
        }
        let unseen =
            self.namespaces.iter().filter(|(_, namespace)| namespace.state != Namespace::KNOWN).count();
        let known = self.namespaces.len() - unseen;
        let reason = format!(
            "neither the node nor any network namespace in the registry has the address ({known} known, {unseen} not \
             looked at yet)"
        );
        Client { origin: Origin::External, reason, addresses: vec![addr], keys: vec![addr] }
    }

    /// Cookie of the host's network namespace: the one that has an address of the node.
    fn host(&self) -> u64 {
        let is_nodes = |addr: Addr| self.node_addrs.iter().any(|(own, _)| *own == addr);
        let has_one = |(_, namespace): &&(u64, Namespace)| addresses_of(namespace).into_iter().any(is_nodes);
        self.namespaces.iter().find(has_one).map_or(self.own, |(cookie, _)| *cookie)
    }

    /// The host; its packets come from `addr`, or from whichever address routing picks.
    fn host_at(&self, addr: Option<Addr>, reason: &str) -> Client {
        let host = self.host();
        let namespace = self.namespaces.iter().find(|(cookie, _)| *cookie == host).map(|(_, found)| *found);
        // Nothing that leaves the node or goes to a pod comes from the others.
        let is_used = |own: &Addr| !own.is_loopback() && !is_link_local(*own);
        let is_other_family = |own: &Addr| addr.is_none_or(|addr| addr.is_v4() != own.is_v4());
        let own = self.node_addrs.iter().map(|(own, _)| *own).filter(is_used).filter(is_other_family);
        Client {
            origin: Origin::Host,
            reason: reason.to_owned(),
            addresses: addr.into_iter().chain(own).collect(),
            keys: keys_of(host, namespace),
        }
    }

    /// The namespace that has an address: the latest, where one that has ended is still there.
    fn holder(&self, addr: Addr) -> Option<(u64, Namespace)> {
        let has = |(_, namespace): &&(u64, Namespace)| namespace.address(addr.is_v4()) == Some(addr);
        self.namespaces.iter().filter(has).max_by_key(|(cookie, _)| *cookie).copied()
    }
}

fn addresses_of(namespace: &Namespace) -> Vec<Addr> {
    [true, false].into_iter().filter_map(|is_v4| namespace.address(is_v4)).collect()
}

fn keys_of(cookie: u64, namespace: Option<Namespace>) -> Vec<Addr> {
    let mut keys = namespace.map(|namespace| addresses_of(&namespace)).unwrap_or_default();
    keys.push(stand_in(cookie));
    keys
}

/// Whether this is 169.254.0.0/16 or fe80::/10.
fn is_link_local(addr: Addr) -> bool {
    match addr.to_ip() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u64 = 1;
    const POD: u64 = 40;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn judge(text: &str) -> Client {
        let known = |v4, v6| Namespace { v4: addr(v4), v6: addr(v6), state: Namespace::KNOWN };
        let namespaces = [
            (HOST, known("172.30.0.1", "::")),
            (POD, known("10.244.1.11", "fd00::11")),
            (POD - 1, known("10.244.1.11", "::")),
            (50, Namespace::pending()),
        ];
        let node_addrs = ["172.30.0.1", "172.31.0.1", "fd00:172::1", "fe80::1", "127.0.0.1"]
            .map(|text| (addr(text), NodeAddrFlags::LOCAL));
        let inside = [CidrKey { prefix_len: 96 + 16, addr: addr("10.250.0.0") }];
        let facts = Facts { namespaces: &namespaces, node_addrs: &node_addrs, own: 77, inside: &inside };
        Client::judge(text.parse().unwrap(), &facts)
    }

    fn texts(addresses: impl Iterator<Item = Addr>) -> Vec<String> {
        addresses.map(|addr| addr.to_string()).collect()
    }

    #[test]
    fn a_client_is_the_host_a_pod_or_outside() {
        for (text, origin, reason) in [
            ("host", Origin::Host, "host's network namespace"),
            ("172.30.0.1", Origin::Host, "registry"),
            ("172.31.0.1", Origin::Host, "address of this node"),
            ("127.0.0.1", Origin::Host, "loopback"),
            ("pod", Origin::Pod, "which one is not said"),
            ("10.244.1.11", Origin::Pod, "namespace 40"),
            ("::ffff:10.244.1.11", Origin::Pod, "namespace 40"),
            ("fd00::11", Origin::Pod, "namespace 40"),
            ("10.244.1.12", Origin::External, "(3 known, 1 not looked at yet)"),
            ("fe80::2", Origin::External, "neither"),
        ] {
            let client = judge(text);
            assert_eq!(client.origin, origin, "{text}");
            assert!(client.reason.contains(reason), "{text}: {}", client.reason);
        }
        for text in ["", "Host", "pod:default/web", "10.0.0", "10.0.0.1:80", "web"] {
            assert_eq!(text.parse::<Asked>(), Err(NoClient), "{text}");
        }
    }

    #[test]
    fn packets_come_from_what_was_asked_or_from_what_routing_may_pick() {
        let from = |text: &str, is_v4| texts(judge(text).addresses(is_v4));
        assert_eq!(from("host", true), ["172.30.0.1", "172.31.0.1"]);
        assert_eq!(from("172.31.0.1", true), ["172.31.0.1"]);
        assert_eq!(from("172.31.0.1", false), ["fd00:172::1"]);
        assert_eq!(from("10.244.1.11", false), ["fd00::11"]);
        assert_eq!(from("pod", true), [""; 0]);
        assert_eq!(from("203.0.113.9", true), ["203.0.113.9"]);
        assert_eq!(from("203.0.113.9", false), [""; 0]);
    }

    #[test]
    fn affinity_knows_a_client_by_its_address_and_by_what_stood_for_it() {
        let keys = |text: &str, is_v4| texts(judge(text).keys(is_v4));
        assert_eq!(keys("10.244.1.11", true), ["10.244.1.11", &stand_in(POD).to_string()]);
        assert_eq!(keys("10.244.1.11", false), ["fd00::11", &stand_in(POD).to_string()]);
        // The namespace is what counts, not the address that a packet will have.
        assert_eq!(keys("172.31.0.1", true), ["172.30.0.1", &stand_in(HOST).to_string()]);
        assert_eq!(keys("host", false), [stand_in(HOST).to_string()]);
        assert_eq!(keys("pod", true), [""; 0]);
        assert_eq!(keys("203.0.113.9", true), ["203.0.113.9"]);
    }
}
