//! An overlay in the manner of flannel's: pods of other nodes are reached by VXLAN alone.

use anyhow::{Context, Result};
use tests::netns::Netns;
use tests::topology::{Cluster, Node};

/// The overlay's device on each node.
pub(crate) const DEVICE: &str = "flannel.1";
/// The room that it leaves for the headers of VXLAN over IPv4.
const MTU: u16 = 1450;

/// The overlay's addresses on a node: those of its range that no pod has.
fn addresses(node: &Node) -> [String; 2] {
    node.pod_ranges().map(|range| range.split('/').next().unwrap_or_default().to_owned())
}

/// Connects the nodes of a cluster by VXLAN, and the pods of each to those of others by that alone.
pub(crate) fn lay(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let underlay = node.addresses()[0];
        node.netns.ip(&format!(
            "link add {DEVICE} mtu {MTU} type vxlan id 1 local {underlay} dev eth0 dstport 8472 nolearning"
        ))?;
        for (address, prefix) in addresses(node).iter().zip([32, 128]) {
            node.netns.add_address(DEVICE, address.parse()?, prefix)?;
        }
        node.netns.ip(&format!("link set {DEVICE} up"))?;
        // As plug-ins do: what a pod offers as its largest segment then fits.
        for (ordinal, pod) in (1..).zip(&node.pods) {
            node.netns.ip(&format!("link set pod{ordinal} mtu {MTU}"))?;
            pod.netns.ip(&format!("link set eth0 mtu {MTU}"))?;
        }
    }
    for node in &cluster.nodes {
        for other in cluster.nodes.iter().filter(|other| other.name != node.name) {
            let mac = mac(&other.netns)?;
            let underlay = other.addresses()[0].to_string();
            node.netns.run("bridge", &["fdb", "append", &mac, "dev", DEVICE, "dst", &underlay])?;
            for (range, gateway) in other.pod_ranges().into_iter().zip(addresses(other)) {
                node.netns.ip(&format!("neighbour add {gateway} lladdr {mac} dev {DEVICE}"))?;
                // For IPv6 a gateway is refused that is reached through another device, as it is by the old route.
                node.netns.ip(&format!("route delete {range}"))?;
                node.netns.add_route(&format!("{range} via {gateway} dev {DEVICE} onlink"))?;
            }
        }
    }
    Ok(())
}

/// The MAC address of the overlay's device.
fn mac(node: &Netns) -> Result<String> {
    let line = node.ip(&format!("-o link show dev {DEVICE}"))?;
    let word = line.split_once("link/ether ").context(line.clone())?.1.split(' ').next();
    Ok(word.unwrap_or_default().to_owned())
}
