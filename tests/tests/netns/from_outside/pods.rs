//! Pods whose sockets no hook sees (`--socket-lb off` stands for a VM, a raw socket, a container of another hierarchy): their
//! cluster IPs are served at the host's end of their devices.

use std::net::SocketAddr;

use tests::agent::Agent;

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::traffic::{Way, exchange};
use crate::witness::{Rules, Witness};

/// Cluster IPs of a backend's Service.
pub(super) fn cluster_ips(backend: Backend) -> [SocketAddr; 2] {
    let number = backend as u16;
    [format!("10.96.0.{}", 100 + number), format!("fd00:10:96::{}", 100 + number)]
        .map(|ip| SocketAddr::new(ip.parse().unwrap(), 80))
}

/// Agents that hook no sockets.
pub(super) fn agents(site: &Site) -> Vec<Agent<'_>> {
    let start = |node| {
        Agent::start_with(node, site.manifests.path(), &["--devices", "auto", "--socket-lb", "off"]).unwrap()
    };
    site.cluster.nodes.iter().map(start).collect()
}

#[test]
fn pods_without_hooked_sockets_reach_every_backend_and_themselves() {
    for layout in Layout::ALL {
        for sees_bridged in [true, false] {
            if layout != Layout::Bridge && !sees_bridged {
                continue;
            }
            let site = Site::new(layout).unwrap();
            for node in &site.cluster.nodes {
                if layout == Layout::Bridge {
                    let value = if sees_bridged { "1" } else { "0" };
                    let keys = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
                    node.netns.sysctls(&keys.map(|key| (key, value))).unwrap();
                }
            }
            let witness = Witness::start(&site.cluster.node(1).netns, Rules::PodsOnly).unwrap();
            let _agents = agents(&site);
            // The first pod is nobody's backend; the second is one of its own.
            for pod in &site.cluster.node(1).pods {
                for backend in Backend::ALL {
                    for target in cluster_ips(backend) {
                        for way in Way::BOTH {
                            let seen = exchange(&pod.netns, target, way);
                            let what = format!("{layout:?} {sees_bridged}, {} to {backend:?}", pod.name);
                            let seen = seen.unwrap_or_else(|error| panic!("{what}: {error:#}"));
                            let is_itself = backend == Backend::LocalPod && pod.name == "pod-1-2";
                            assert_eq!(seen.own == seen.seen, !is_itself, "{what}: {seen:?}");
                        }
                    }
                }
            }
            assert_eq!(witness.invalid_forwarded().unwrap(), 0, "{layout:?} {sees_bridged}");
        }
    }
}

/// The control: where nothing is at the pods' devices, nobody answers.
#[test]
fn without_the_devices_of_pods_nobody_answers() {
    let site = Site::new(Layout::Routed).unwrap();
    let node = site.cluster.node(1);
    let arguments = ["--devices", "auto", "--socket-lb", "off", "--pod-devices", "none"];
    let _agent = Agent::start_with(node, site.manifests.path(), &arguments).unwrap();
    for target in cluster_ips(Backend::LocalPod) {
        assert!(exchange(&node.pods[0].netns, target, Way::Udp).is_err());
    }
}
