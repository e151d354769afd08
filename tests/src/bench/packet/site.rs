//! Three nodes that differ in one thing only: who serves NodePorts. Each has a pod with a server and a client of its own, which
//! reaches it by a link. The first serves none: its client asks the pod itself.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::cluster::{ControlPlane, KubeProxy, Options};
use crate::manifests::ManifestDir;
use crate::netns::Netns;
use crate::topology::{Cluster, Node};

const BACKEND_PORT: u16 = 8_080;
/// The port of iperf3's server in each pod.
const STREAM_PORT: u16 = 5_201;
/// NodePorts of a node's own pod, for requests and for streams; the next two lead to the pod of the first node.
const NODE_PORT: u16 = 30_080;
/// The client's end of its link, and the node's.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 31, 0, 2));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 31, 0, 1));

/// Who serves the NodePorts of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Nobody = 1,
    Shunt = 2,
    KubeProxy = 3,
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The server of the node's own pod.
    Local,
    /// The server of the first node's pod.
    Remote,
    /// iperf3 in the node's own pod.
    Stream,
}

/// Everything that is measured on. What runs goes before where it runs.
pub(super) struct Site<'a> {
    agent: Option<Agent<'a>>,
    _proxy: Option<KubeProxy>,
    _manifests: ManifestDir,
    _control: Option<ControlPlane>,
    clients: Vec<Netns>,
    pub(super) has_kube_proxy: bool,
    cluster: &'a Cluster,
}

impl<'a> Site<'a> {
    /// On a cluster of three nodes with a pod each.
    pub(super) fn new(cluster: &'a Cluster, is_alone: bool) -> Result<Self> {
        let mut clients = Vec::new();
        for node in &cluster.nodes {
            clients.push(wire(node)?);
            serve(&node.pods[0].netns, SocketAddr::new(node.pods[0].v4, BACKEND_PORT))?;
        }
        let manifests = ManifestDir::create()?;
        manifests.write_cluster(cluster)?;
        for (name, object) in objects(cluster) {
            manifests.write(&format!("{name}.json"), &object.to_string())?;
        }
        let node = cluster.node(By::Shunt as usize);
        let agent = Agent::start_with(node, manifests.path(), &["--devices", "auto"])?;
        let (control, proxy) = if is_alone { (None, None) } else { kube_proxy(cluster)? };
        let has_kube_proxy = proxy.is_some();
        Ok(Self {
            agent: Some(agent),
            _proxy: proxy,
            _manifests: manifests,
            _control: control,
            clients,
            has_kube_proxy,
            cluster,
        })
    }

    /// The client of a node, and what it asks there.
    pub(super) fn way(&self, by: By, what: What) -> (&Netns, SocketAddr) {
        let node = self.cluster.node(by as usize);
        let at = match (by, what) {
            (By::Nobody, What::Local | What::Remote) => SocketAddr::new(node.pods[0].v4, BACKEND_PORT),
            (By::Nobody, What::Stream) => SocketAddr::new(node.pods[0].v4, STREAM_PORT),
            (_, what) => SocketAddr::new(node.addresses()[0], node_port(by as u16, what)),
        };
        (&self.clients[by as usize - 1], at)
    }

    /// The pod of a node.
    pub(super) fn pod(&self, by: By) -> &Netns {
        &self.cluster.pod(by as usize, 1).netns
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take()
            && let Err(error) = agent.clean_up()
        {
            eprintln!("the agent stays: {error:#}");
        }
    }
}

const fn node_port(node: u16, what: What) -> u16 {
    NODE_PORT + 10 * node + what as u16
}

/// Connects a client to a node, `ext0` there.
fn wire(node: &Node) -> Result<Netns> {
    let client = Netns::create("client")?;
    node.netns.veth("ext0", &client, "eth0")?;
    node.netns.add_address("ext0", GATEWAY, 24)?;
    client.add_address("eth0", CLIENT, 24)?;
    client.add_route(&format!("default via {GATEWAY}"))?;
    Ok(client)
}

/// Answers each request of one byte by one byte.
fn serve(pod: &Netns, at: SocketAddr) -> Result<()> {
    let listener = pod.inside(|| TcpListener::bind(at))?.with_context(|| format!("listen at {at}"))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            // A client that went away has been counted there.
            if stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte);
            }
        }
    });
    Ok(())
}

/// Services and slices of all nodes, each with its name.
fn objects(cluster: &Cluster) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for by in [By::Shunt, By::KubeProxy] {
        for (what, number, pod, port) in [
            (What::Local, 1, by as usize, BACKEND_PORT),
            (What::Remote, 2, By::Nobody as usize, BACKEND_PORT),
            (What::Stream, 3, by as usize, STREAM_PORT),
        ] {
            let name = format!("bench-{}-{number}", by as u8);
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "default", "name": name },
                "spec": {
                    "type": "NodePort", "ipFamilies": ["IPv4"],
                    "clusterIP": format!("10.96.1.{}", 10 * (by as u8) + number),
                    "clusterIPs": [format!("10.96.1.{}", 10 * (by as u8) + number)],
                    "ports": [{ "port": 80, "targetPort": port, "nodePort": node_port(by as u16, what) }],
                },
            });
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "namespace": "default", "name": format!("{name}-ipv4"),
                    "labels": { "kubernetes.io/service-name": name },
                },
                "ports": [{ "name": "", "port": port, "protocol": "TCP" }],
                "endpoints": [{
                    "addresses": [cluster.pod(pod, 1).v4], "nodeName": cluster.node(pod).name,
                    "conditions": { "ready": true },
                }],
            });
            all.push((name.clone(), service));
            all.push((format!("{name}-ipv4"), slice));
        }
    }
    all
}

/// A real kube-proxy on its node, and the API server that it follows.
fn kube_proxy(cluster: &Cluster) -> Result<(Option<ControlPlane>, Option<KubeProxy>)> {
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(cluster, &options)?;
    let api = control.api()?;
    for node in &cluster.nodes {
        let [v4, _] = node.addresses();
        api.create(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name },
            "spec": { "podCIDR": node.pod_ranges()[0], "podCIDRs": [node.pod_ranges()[0]] },
            "status": { "addresses": [{ "type": "InternalIP", "address": v4.to_string() }] },
        }))?;
    }
    for (_, object) in objects(cluster) {
        api.create(object)?;
    }
    let node = cluster.node(By::KubeProxy as usize);
    let proxy = KubeProxy::start(&control, node, "nftables", &json!({}))?;
    // The rules are in the kernel. A control plane is not on the nodes that it is for, and would take their CPUs here.
    control.cgroup().freeze()?;
    Ok((Some(control), Some(proxy)))
}
