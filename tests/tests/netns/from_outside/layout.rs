//! How pods of a node are connected, and how those of others are reached.

use std::net::IpAddr;

use anyhow::Result;
use tests::topology::{Cluster, Node};

use crate::overlay;

/// A plug-in's own SNAT in the manner of flannel's: what comes from outside to pods of other nodes than this one, whose ranges
/// are given.
fn masquerade([v4, v6]: [String; 2]) -> String {
    format!(
        "table inet plugin {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr 10.244.0.0/16 return
                ip6 saddr fd00:10:244::/48 return
                ip daddr {v4} return
                ip6 daddr {v6} return
                ip daddr 10.244.0.0/16 masquerade fully-random
                ip6 daddr fd00:10:244::/48 masquerade fully-random
            }}
        }}"
    )
}

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each pod has a route of its own; pods of other nodes are routed to over the nodes' network.
    Routed,
    /// As above on a node, and VXLAN between nodes, whose plug-in masquerades.
    Overlay,
    /// The pods of a node are ports of one bridge, which is their gateway; between nodes as in the first.
    Bridge,
}

impl Layout {
    /// All.
    pub(crate) const ALL: [Self; 3] = [Self::Routed, Self::Overlay, Self::Bridge];

    /// Turns a cluster, whose pods are routed, into one of this layout.
    pub(crate) fn lay(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::Routed => Ok(()),
            Self::Overlay => overlay(cluster),
            Self::Bridge => cluster.nodes.iter().try_for_each(bridge),
        }
    }
}

/// The overlay, and on each node a plug-in that masquerades.
fn overlay(cluster: &Cluster) -> Result<()> {
    overlay::lay(cluster)?;
    for node in &cluster.nodes {
        node.netns.run("nft", &[&masquerade(node.pod_ranges())])?;
    }
    Ok(())
}

/// Moves the pods of a node to ports of one bridge. Netfilter sees what is bridged, as plug-ins of this kind have it.
fn bridge(node: &Node) -> Result<()> {
    let netns = &node.netns;
    netns.sysctls(&[
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ])?;
    netns.ip("link add cni0 type bridge mcast_snooping 0")?;
    netns.ip("link set cni0 up")?;
    let gateways = node.pod_ranges().map(|range| {
        let (base, length) = range.split_once('/').unwrap_or_default();
        (base.trim_end_matches('0').to_owned() + "1", length.to_owned())
    });
    for (ordinal, pod) in (1..).zip(&node.pods) {
        let port = format!("pod{ordinal}");
        for address in [pod.v4, pod.v6] {
            netns.ip(&format!("route delete {address}"))?;
        }
        netns.ip(&format!("address flush dev {port}"))?;
        netns.ip(&format!("link set {port} master cni0"))?;
        pod.netns.ip("address flush dev eth0 scope global")?;
        for (address, (gateway, length)) in [pod.v4, pod.v6].into_iter().zip(&gateways) {
            pod.netns.add_address("eth0", address, length.parse()?)?;
            // The old ones went with the address, but for that of IPv6.
            let family = if address.is_ipv4() { "-4" } else { "-6" };
            pod.netns.ip(&format!("{family} route replace default via {gateway} dev eth0"))?;
        }
    }
    for (gateway, length) in &gateways {
        netns.add_address("cni0", gateway.parse::<IpAddr>()?, length.parse()?)?;
    }
    Ok(())
}
