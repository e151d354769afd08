//! What the traffic tests stand on: the small cluster, a Service with a backend on each node, an agent for each.

use std::net::{IpAddr, SocketAddr};

use tests::agent::Agent;
use tests::load::{Place, Servers};
use tests::manifests::{ManifestDir, Service, Slice};
use tests::topology::Cluster;

/// Cluster IPs of the Service `web`, whose backends are the second pod of each node.
pub(crate) const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
/// Cluster IPs of the Service `idle`, which has no endpoints.
pub(crate) const IDLE: [&str; 2] = ["10.96.0.30", "fd00:10:96::30"];
/// Cluster IPs of the Service `dns`, which is of UDP and has the same backends as `web`.
pub(crate) const DNS: [&str; 2] = ["10.96.0.53", "fd00:10:96::53"];
/// Port of the Services.
pub(crate) const PORT: u16 = 80;
/// Port of the backends.
pub(crate) const BACKEND_PORT: u16 = 8080;

/// The cluster with manifests and running backends.
pub(crate) struct Scenario {
    _servers: Vec<Servers>,
    pub(crate) cluster: Cluster,
    pub(crate) manifests: ManifestDir,
}

impl Scenario {
    /// Everything but the agents.
    pub(crate) fn new() -> Self {
        let cluster = Cluster::new(2, 2).unwrap();
        let manifests = ManifestDir::create().unwrap();
        manifests.write_cluster(&cluster).unwrap();
        for (name, ips, protocol) in [("web", WEB, "TCP"), ("idle", IDLE, "TCP"), ("dns", DNS, "UDP")] {
            let cluster_ips = ips.map(|ip| ip.parse().unwrap());
            let service = Service { name, cluster_ips: &cluster_ips, port: PORT, protocol };
            manifests.write_service(&service).unwrap();
        }
        let backends = [1, 2].map(|node| cluster.pod(node, 2));
        let servers = backends
            .map(|pod| {
                let addresses = [pod.v4, pod.v6].map(|ip| (SocketAddr::new(ip, BACKEND_PORT), &*pod.name));
                let mut servers = pod.place().serve(addresses).unwrap();
                for (address, name) in addresses {
                    servers.open_udp(address, name).unwrap();
                }
                servers
            })
            .into();
        let scenario = Self { cluster, manifests, _servers: servers };
        scenario.list(&[1, 2]);
        scenario
    }

    /// Lists the backends of these nodes, and no others.
    pub(crate) fn list(&self, nodes: &[usize]) {
        for family in [0, 1] {
            let endpoints: Vec<(IpAddr, &str)> = nodes
                .iter()
                .map(|node| {
                    let pod = self.cluster.pod(*node, 2);
                    ([pod.v4, pod.v6][family], &*self.cluster.node(*node).name)
                })
                .collect();
            for (service, protocol) in [("web", "TCP"), ("dns", "UDP")] {
                if endpoints.is_empty() && family == 1 {
                    self.manifests.remove(&format!("{service}-ipv6.yaml")).unwrap();
                } else {
                    let slice = Slice { service, port: BACKEND_PORT, protocol, endpoints: &endpoints };
                    self.manifests.write_slice(&slice).unwrap();
                }
            }
        }
    }

    /// An agent on every node, ready.
    pub(crate) fn agents(&self) -> Vec<Agent<'_>> {
        self.cluster.nodes.iter().map(|node| Agent::start(node, self.manifests.path()).unwrap()).collect()
    }

    /// A pod and the host of each node.
    pub(crate) fn clients(&self) -> Vec<Place<'_>> {
        self.cluster.nodes.iter().flat_map(|node| [node.pods[0].place(), node.host()]).collect()
    }
}

/// The ways to reach a Service: target and options of `peer get`, over IPv4, an IPv4-mapped address and IPv6.
pub(crate) fn ways(ips: [&str; 2], port: u16) -> [(SocketAddr, &'static [&'static str]); 3] {
    let [v4, v6] = ips.map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    [(v4, &[]), (v4, &["--mapped"]), (v6, &[])]
}
