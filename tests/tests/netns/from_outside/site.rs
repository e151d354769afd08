//! What the tests from outside stand on: three nodes in some layout, agents, a client beside the cluster, and Services with
//! one backend each.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::manifests::ManifestDir;
use tests::netns::Netns;
use tests::topology::Cluster;

use super::layout::Layout;
use crate::scenario::BACKEND_PORT;
use crate::shop::slice;
use crate::traffic::Server;
use crate::wire;

/// Port of the Services at all but their NodePort.
const PORT: u16 = 80;

/// Where the one backend of a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A pod of the first node, which the client asks.
    LocalPod,
    /// A pod of the second.
    RemotePod,
    /// The host of the first.
    LocalHost,
    /// The host of the second.
    RemoteHost,
}

impl Backend {
    /// All.
    pub(crate) const ALL: [Self; 4] = [Self::LocalPod, Self::RemotePod, Self::LocalHost, Self::RemoteHost];

    /// The Service's name.
    pub(super) const fn service(self) -> &'static str {
        ["local-pod", "remote-pod", "local-host", "remote-host"][self as usize]
    }

    /// Node and addresses.
    pub(crate) fn place(self, cluster: &Cluster) -> (usize, [IpAddr; 2]) {
        let pod = |node| [cluster.pod(node, 2).v4, cluster.pod(node, 2).v6];
        match self {
            Self::LocalPod => (1, pod(1)),
            Self::RemotePod => (2, pod(2)),
            Self::LocalHost => (1, cluster.node(1).addresses()),
            Self::RemoteHost => (2, cluster.node(2).addresses()),
        }
    }

    /// Whether it is a pod.
    pub(crate) const fn is_pod(self) -> bool {
        matches!(self, Self::LocalPod | Self::RemotePod)
    }

    /// Whether it is on another node than the one that is asked.
    pub(crate) const fn is_remote(self) -> bool {
        matches!(self, Self::RemotePod | Self::RemoteHost)
    }

    /// Its NodePort, load-balancer IP and external IP: address, port, and whether it is the node's own address.
    pub(crate) fn frontends(self, cluster: &Cluster) -> Vec<SocketAddr> {
        let number = self as u16;
        let [node_v4, node_v6] = cluster.node(1).addresses();
        let own = [node_v4, node_v6].map(|ip| SocketAddr::new(ip, 30_080 + number));
        let others = [self.lb_ips(), self.external_ips()].concat();
        own.into_iter().chain(others.into_iter().map(|ip| SocketAddr::new(ip, PORT))).collect()
    }

    fn lb_ips(self) -> [IpAddr; 2] {
        let number = self as u8;
        [[203, 0, 113, 10 + number].into(), [0x2001, 0xdb8, 9, 0, 0, 0, 0, 10 + u16::from(number)].into()]
    }

    fn external_ips(self) -> [IpAddr; 2] {
        let number = self as u8;
        [[198, 51, 100, 10 + number].into(), [0x2001, 0xdb8, 7, 0, 0, 0, 0, 10 + u16::from(number)].into()]
    }
}

/// Everything but the agents.
pub(crate) struct Site {
    _servers: Vec<Server>,
    pub(crate) client: Netns,
    pub(crate) cluster: Cluster,
    pub(crate) manifests: ManifestDir,
}

impl Site {
    /// Backends run, and are listed.
    pub(crate) fn new(layout: Layout) -> Result<Self> {
        let cluster = Cluster::new(3, 2)?;
        layout.lay(&cluster)?;
        let client = Netns::create("client")?;
        // The other nodes know no way to the client.
        wire::wire(&cluster.node(1).netns, &client)?;
        let manifests = ManifestDir::create()?;
        manifests.write_cluster(&cluster)?;
        let mut servers = Vec::new();
        for backend in Backend::ALL {
            let (node, ips) = backend.place(&cluster);
            let netns =
                if backend.is_pod() { &cluster.pod(node, 2).netns } else { &cluster.node(node).netns };
            servers.push(Server::start(netns, &ips.map(|ip| SocketAddr::new(ip, BACKEND_PORT)))?);
        }
        let site = Self { _servers: servers, client, cluster, manifests };
        for backend in Backend::ALL {
            site.write_service(backend, json!({}))?;
            site.list(backend, true)?;
        }
        Ok(site)
    }

    /// An agent on every node, ready.
    pub(crate) fn agents(&self) -> Vec<Agent<'_>> {
        self.agents_with(&[])
    }

    /// The same with further arguments.
    pub(crate) fn agents_with(&self, more: &[&str]) -> Vec<Agent<'_>> {
        let words = [&["--devices", "auto"], more].concat();
        let start = |node| Agent::start_with(node, self.manifests.path(), &words).unwrap();
        self.cluster.nodes.iter().map(start).collect()
    }

    /// Writes a Service with what is changed of it: keys of `spec`, laid over the rest.
    pub(crate) fn write_service(&self, backend: Backend, spec: Value) -> Result<()> {
        let number = backend as u16;
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "nodePort": 30_080 + number })
        });
        let usual = json!({
            "type": "LoadBalancer",
            "clusterIP": format!("10.96.0.{}", 100 + number),
            "clusterIPs": [format!("10.96.0.{}", 100 + number), format!("fd00:10:96::{}", 100 + number)],
            "ipFamilies": ["IPv4", "IPv6"],
            "externalIPs": backend.external_ips(),
            "ports": ports,
        });
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": "default", "name": backend.service() },
            "spec": crate::shop::laid_over(usual, spec),
            "status": { "loadBalancer": { "ingress": backend.lb_ips().map(|ip| json!({ "ip": ip })) } },
        });
        self.write(&object)
    }

    /// Lists the backend, or nobody.
    pub(crate) fn list(&self, backend: Backend, is_there: bool) -> Result<()> {
        self.list_as(backend, is_there.then_some(BACKEND_PORT))
    }

    /// Lists the backend at another port.
    pub(crate) fn list_at(&self, backend: Backend, port: u16) -> Result<()> {
        self.list_as(backend, Some(port))
    }

    /// Lists the pods of both nodes as backends of the first Service.
    pub(crate) fn list_both(&self) -> Result<()> {
        self.list_places(Backend::LocalPod, &[Backend::LocalPod, Backend::RemotePod], Some(BACKEND_PORT))
    }

    /// Lists the pod of the other node as the backend of the first Service.
    pub(crate) fn list_elsewhere(&self) -> Result<()> {
        self.list_places(Backend::LocalPod, &[Backend::RemotePod], Some(BACKEND_PORT))
    }

    /// Lists the pod of the first node as the backend of the Service of its host, too.
    pub(crate) fn list_pod_for_host(&self) -> Result<()> {
        self.list_places(Backend::LocalHost, &[Backend::LocalPod], Some(BACKEND_PORT))
    }

    fn list_as(&self, backend: Backend, port: Option<u16>) -> Result<()> {
        self.list_places(backend, &[backend], port)
    }

    fn list_places(&self, backend: Backend, places: &[Backend], port: Option<u16>) -> Result<()> {
        for family in [0, 1] {
            let endpoints = places.iter().map(|place| {
                let (node, ips) = place.place(&self.cluster);
                json!({
                    "addresses": [ips[family]], "nodeName": self.cluster.node(node).name,
                    "conditions": { "ready": true },
                })
            });
            let ports = ["tcp", "udp"]
                .map(|name| json!({ "name": name, "protocol": name.to_uppercase(), "port": port.unwrap_or(BACKEND_PORT) }));
            let listed = if port.is_some() { endpoints.collect() } else { Vec::new() };
            self.write(&slice((backend.service(), family), &json!(ports), listed))?;
        }
        Ok(())
    }

    fn write(&self, object: &Value) -> Result<()> {
        let file = format!("{}.json", object["metadata"]["name"].as_str().unwrap_or_default());
        self.manifests.write(&file, &object.to_string())
    }
}
