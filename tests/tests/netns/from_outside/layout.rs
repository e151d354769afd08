//! How pods of a node are connected, and how those of others are reached.

use std::net::IpAddr;

use anyhow::{Context, Result};
use tests::netns::Netns;
use tests::topology::{Cluster, Node};

/// The overlay's device on each node, and the room that it leaves for the headers of VXLAN over IPv4.
const OVERLAY: &str = "flannel.1";
const OVERLAY_MTU: u16 = 1450;

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

/// The overlay's addresses on a node: those of its range that no pod has.
fn overlay_addresses(node: &Node) -> [String; 2] {
    node.pod_ranges().map(|range| range.split('/').next().unwrap_or_default().to_owned())
}

fn overlay(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let underlay = node.addresses()[0];
        node.netns.ip(&format!(
            "link add {OVERLAY} mtu {OVERLAY_MTU} type vxlan id 1 local {underlay} dev eth0 dstport 8472 nolearning"
        ))?;
        for (address, prefix) in overlay_addresses(node).iter().zip([32, 128]) {
            node.netns.add_address(OVERLAY, address.parse()?, prefix)?;
        }
        node.netns.ip(&format!("link set {OVERLAY} up"))?;
        // As plug-ins do: what a pod offers as its largest segment then fits.
        for (ordinal, pod) in (1..).zip(&node.pods) {
            node.netns.ip(&format!("link set pod{ordinal} mtu {OVERLAY_MTU}"))?;
            pod.netns.ip(&format!("link set eth0 mtu {OVERLAY_MTU}"))?;
        }
        node.netns.run("nft", &[&masquerade(node.pod_ranges())])?;
    }
    for node in &cluster.nodes {
        for other in cluster.nodes.iter().filter(|other| other.name != node.name) {
            let mac = mac(&other.netns)?;
            let underlay = other.addresses()[0].to_string();
            node.netns.run("bridge", &["fdb", "append", &mac, "dev", OVERLAY, "dst", &underlay])?;
            for (range, gateway) in other.pod_ranges().into_iter().zip(overlay_addresses(other)) {
                node.netns.ip(&format!("neighbour add {gateway} lladdr {mac} dev {OVERLAY}"))?;
                // For IPv6 a gateway is refused that is reached through another device, as it is by the old route.
                node.netns.ip(&format!("route delete {range}"))?;
                node.netns.add_route(&format!("{range} via {gateway} dev {OVERLAY} onlink"))?;
            }
        }
    }
    Ok(())
}

/// The MAC address of the overlay's device.
fn mac(node: &Netns) -> Result<String> {
    let line = node.ip(&format!("-o link show dev {OVERLAY}"))?;
    let word = line.split_once("link/ether ").context(line.clone())?.1.split(' ').next();
    Ok(word.unwrap_or_default().to_owned())
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
