//! A small cluster on this machine: nodes and pods as network namespaces and cgroups.
//!
//! Node `i` and pod `p`, both counted from 1, have the addresses
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | node | `172.30.0.<i>` | `fd00:172:30::<i>` |
//! | pods of a node | `10.244.<i>.0/24` | `fd00:10:244:<i>::/64` |
//! | pod | `10.244.<i>.<10+p>` | `fd00:10:244:<i>::<10+p>` |
//! | further addresses of pod `p` | `10.244.<i>.<100+n>` | `fd00:10:244:<i>::<100+n>` |
//!
//! The last group of an IPv6 address is written with the same digits as in IPv4. Cluster IPs are for the tests
//! to choose; 10.96.0.0/16 and fd00:10:96::/112 are free. Nodes meet on a switch, pods hang on their node by a
//! pair of devices, everything forwards and nothing leads out. A node's processes live in `<cgroup>/host`, its
//! agent in `<cgroup>/agent`, each pod in a group of its own: hooks on the node's cgroup see them all.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use crate::bpffs::Bpffs;
use crate::cgroup::Cgroup;
use crate::load::Place;
use crate::netns::{Netns, address_line};

/// First address of a pod on its node, less one.
const POD: u8 = 10;
/// First of the further addresses, less one.
const FURTHER: u8 = 120;

/// Settings of each namespace. Refusals are sent at any rate, and queues of listeners are as long as they ask.
const SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/core/somaxconn", "65535"),
];

/// Nodes, pods and what connects them; all of it goes away on drop.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; the first is `node-1`.
    pub nodes: Vec<Node>,
    /// What the nodes are plugged into.
    switch: Netns,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `node-<i>`.
    pub name: String,
    /// Its pods; the first is `pod-<i>-1`.
    pub pods: Vec<Pod>,
    /// The host's network namespace.
    pub netns: Netns,
    host: Cgroup,
    agent: Cgroup,
    /// The cgroup of everything on the node: what an agent hooks.
    pub cgroup: Cgroup,
    /// Where an agent pins.
    pub bpffs: Bpffs,
    ordinal: u8,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// `pod-<i>-<p>`.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    cgroup: Cgroup,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
}

impl Cluster {
    /// Makes `nodes` nodes with `pods` pods each.
    pub fn new(nodes: u8, pods: u8) -> Result<Self> {
        let switch = Netns::create("switch")?;
        switch.ip("link add br0 type bridge mcast_snooping 0")?;
        switch.ip("link set br0 up")?;
        let mut cluster = Self { nodes: Vec::new(), switch };
        for ordinal in 1..=nodes {
            let mut node = Node::new(ordinal)?;
            plug(&node.netns, &cluster.switch, (ordinal, nodes))?;
            for pod in 1..=pods {
                node.add_pod(pod)?;
            }
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Connects a further host, with routes to all pods; its addresses, which are those of a node numbered `host`.
    pub fn plug(&self, netns: &Netns, host: u8) -> Result<[IpAddr; 2]> {
        // A topology has fewer nodes than numbers.
        plug(netns, &self.switch, (host, u8::try_from(self.nodes.len()).unwrap_or(u8::MAX)))?;
        Ok(node_addresses(host))
    }

    /// A pod, both counted from 1 as in its name.
    ///
    /// # Panics
    /// If there is none.
    pub fn pod(&self, node: usize, pod: usize) -> &Pod {
        &self.nodes[node - 1].pods[pod - 1]
    }

    /// A node, counted from 1 as in its name.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node - 1]
    }
}

impl Node {
    fn new(ordinal: u8) -> Result<Self> {
        let name = format!("node-{ordinal}");
        let label = format!("node_{ordinal}");
        let cgroup = Cgroup::create(&label)?;
        let netns = Netns::create(&label)?;
        netns.sysctls(&SYSCTLS)?;
        Ok(Self {
            name,
            pods: Vec::new(),
            netns,
            host: cgroup.child("host")?,
            agent: cgroup.child("agent")?,
            cgroup,
            bpffs: Bpffs::mount(&label)?,
            ordinal,
        })
    }

    /// The node's own addresses, IPv4 and IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        node_addresses(self.ordinal)
    }

    /// The ranges of its pods, IPv4 and IPv6.
    pub fn pod_ranges(&self) -> [String; 2] {
        let node = self.ordinal;
        [format!("10.244.{node}.0/24"), format!("fd00:10:244:{node}::/64")]
    }

    /// Where processes of the host run.
    pub fn host(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.host }
    }

    /// Where the node's agent runs.
    pub fn agent(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.agent }
    }

    fn add_pod(&mut self, ordinal: u8) -> Result<()> {
        let node = self.ordinal;
        let netns = Netns::create(&format!("pod_{node}_{ordinal}"))?;
        netns.sysctls(&SYSCTLS)?;
        let device = format!("pod{ordinal}");
        self.netns.veth(&device, &netns, "eth0")?;
        let [v4, v6] = pod_addresses(node, POD + ordinal);
        let gateway = IpAddr::from([10, 244, node, 1]);
        netns.ip_batch(&[
            address_line("eth0", v4, 32),
            address_line("eth0", v6, 128),
            format!("route add {gateway} dev eth0"),
            format!("route add default via {gateway}"),
            "route add default via fe80::1 dev eth0".to_owned(),
        ])?;
        let mut lines = vec![
            address_line(&device, gateway, 32),
            address_line(&device, IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]), 64),
        ];
        lines.extend([v4, v6].map(|address| self.route_line(address, &device)));
        self.netns.ip_batch(&lines)?;
        let cgroup = self.cgroup.child(&format!("pod-{ordinal}"))?;
        self.pods.push(Pod { name: format!("pod-{node}-{ordinal}"), netns, cgroup, v4, v6 });
        Ok(())
    }

    /// A route to an address of a pod; the host's own connects over it come from the node's address.
    fn route_line(&self, address: IpAddr, device: &str) -> String {
        let [v4, v6] = self.addresses();
        let source = if address.is_ipv4() { v4 } else { v6 };
        format!("route add {address} dev {device} src {source}")
    }

    /// Gives pod `ordinal` `count` further addresses of each family, so that one pod can be many backends.
    pub fn add_addresses(&self, ordinal: u8, count: u8) -> Result<Vec<[IpAddr; 2]>> {
        let device = format!("pod{ordinal}");
        let all: Vec<[IpAddr; 2]> = (1..=count).map(|n| pod_addresses(self.ordinal, FURTHER + n)).collect();
        let flat = || all.iter().flatten().copied();
        let inside: Vec<String> = flat()
            .map(|address| address_line("eth0", address, if address.is_ipv4() { 32 } else { 128 }))
            .collect();
        self.pods[usize::from(ordinal) - 1].netns.ip_batch(&inside)?;
        let routes: Vec<String> = flat().map(|address| self.route_line(address, &device)).collect();
        self.netns.ip_batch(&routes)?;
        Ok(all)
    }
}

impl Pod {
    /// Where the pod's processes run.
    pub fn place(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.cgroup }
    }
}

/// Connects host `ordinal` to the switch, with routes to the pods of all `nodes` but its own.
fn plug(netns: &Netns, switch: &Netns, (ordinal, nodes): (u8, u8)) -> Result<()> {
    let port = format!("port{ordinal}");
    netns.veth("eth0", switch, &port)?;
    switch.ip(&format!("link set {port} master br0"))?;
    let [v4, v6] = node_addresses(ordinal);
    let mut lines = vec![address_line("eth0", v4, 24), address_line("eth0", v6, 64)];
    for other in (1..=nodes).filter(|other| *other != ordinal) {
        let [v4, v6] = node_addresses(other);
        lines.push(format!("route add 10.244.{other}.0/24 via {v4}"));
        lines.push(format!("route add fd00:10:244:{other}::/64 via {v6}"));
    }
    netns.ip_batch(&lines)
}

fn node_addresses(node: u8) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::new(172, 30, 0, node);
    [v4.into(), IpAddr::from([0xfd00, 0x172, 0x30, 0, 0, 0, 0, digits(node)])]
}

fn pod_addresses(node: u8, last: u8) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::new(10, 244, node, last);
    [v4.into(), IpAddr::from([0xfd00, 0x10, 0x244, digits(node), 0, 0, 0, digits(last)])]
}

/// The group that is written in hexadecimal as `number` is in decimal.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(pod_addresses(2, 112).map(|ip| ip.to_string()), ["10.244.2.112", "fd00:10:244:2::112"]);
        assert_eq!(node_addresses(2).map(|ip| ip.to_string()), ["172.30.0.2", "fd00:172:30::2"]);
    }
}
