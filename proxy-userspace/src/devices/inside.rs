//! Which source addresses count as inside of the cluster: whose connections to external IPs, load balancers' IPs and
//! NodePorts are short-circuited under externalTrafficPolicy Local, as those of pods are (kube-proxy's detector).

use ipnet::IpNet;

use crate::kubeproxy::PacketPath;
use crate::model::Node;

/// The ranges whose packets count as a pod's: those of the own Node (`spec.podCIDRs`), and those that are named for the
/// whole cluster (`--cluster-cidr`, or `clusterCIDR` under detectLocalMode ClusterCIDR). Sorted, and none inside another.
///
/// Pods are known by the address that they send from, also where kube-proxy would know them by the device that they send
/// through (BridgeInterface, InterfaceNamePrefix): the device that a packet enters by says no more than who passed it on.
/// kube-proxy has no detector at all without a `clusterCIDR` where its mode asks for one; the Node's own ranges are as good
/// a word, and such a node's pods are short-circuited here.
pub fn inside(packet_path: &PacketPath, node: &Node) -> Vec<IpNet> {
    let named = packet_path.cluster_cidrs.iter().chain(&node.pod_cidrs);
    let mut ranges: Vec<IpNet> = named.map(IpNet::trunc).collect();
    // The wider of two that begin alike comes first.
    ranges.sort_unstable_by_key(|range| (range.network(), range.prefix_len()));
    ranges.dedup_by(|inner, outer| outer.contains(&*inner));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubeproxy::DetectLocalMode;

    fn ranges(cluster: &[&str], own: &[&str], detect_local: DetectLocalMode) -> Vec<String> {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let packet_path = PacketPath { cluster_cidrs: nets(cluster), detect_local, ..PacketPath::default() };
        let node = Node { pod_cidrs: nets(own), ..Node::default() };
        inside(&packet_path, &node).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_of_the_node_and_named_ranges_are_inside() {
        let default = DetectLocalMode::default();
        for (cluster, own, wanted) in [
            (&[][..], &[][..], &[][..]),
            (&[], &["10.244.1.0/24", "fd00:10:244:1::/64"], &["10.244.1.0/24", "fd00:10:244:1::/64"]),
            (&["10.244.0.0/16"], &["10.244.1.0/24"], &["10.244.0.0/16"]),
            (
                &["10.244.0.0/16"],
                &["10.245.1.0/24", "fd00::/64"],
                &["10.244.0.0/16", "10.245.1.0/24", "fd00::/64"],
            ),
            (&["10.244.1.0/24", "10.0.0.0/8"], &["10.244.1.0/24"], &["10.0.0.0/8"]),
            // Host bits do not make another range.
            (&["10.244.1.7/24"], &["10.244.1.0/24"], &["10.244.1.0/24"]),
        ] {
            assert_eq!(ranges(cluster, own, default), wanted, "{cluster:?} {own:?}");
        }
    }

    #[test]
    fn every_way_to_tell_pods_comes_to_their_ranges() {
        for detect_local in [
            DetectLocalMode::NodeCidr,
            DetectLocalMode::BridgeInterface,
            DetectLocalMode::InterfaceNamePrefix,
        ] {
            assert_eq!(ranges(&[], &["10.244.1.0/24"], detect_local), ["10.244.1.0/24"]);
            // By the flag: the file's is left out under these modes.
            assert_eq!(
                ranges(&["10.9.0.0/16"], &["10.244.1.0/24"], detect_local),
                ["10.9.0.0/16", "10.244.1.0/24"]
            );
        }
    }
}
