//! What the clients are sent through: a Service with two backends, agents that hook everybody but the control.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::cgroup::Cgroup;
use tests::load::Place;
use tests::manifests::ManifestDir;
use tests::process::Process;
use tests::sweep::scratch_dir;
use tests::topology::{Cluster, Pod};
use tests::wait::until;

use super::{LIMIT, PATIENCE, Way, spawn};

/// Cluster IPs of the Service.
pub(crate) const VIPS: [&str; 2] = ["10.96.0.20", "fd00:10:96::20"];
/// The nodes whose second pods are the backends.
pub(crate) const NODES: [usize; 2] = [1, 2];
/// What a backend's port is above that of the Service.
const SHIFT: u16 = 8000;

/// Protocol and port of the Service.
pub(crate) type Port = (&'static str, u16);

/// The cluster with its Service, and a place for files.
pub(crate) struct Stage {
    cluster: Cluster,
    outside: Cgroup,
    manifests: ManifestDir,
    ports: Vec<Port>,
    dir: PathBuf,
}

/// A backend: whose server it is, and where it is to listen.
pub(crate) struct Backend<'a> {
    pub(crate) pod: &'a Pod,
    /// The port that belongs to the first of the Service's.
    pub(crate) port: u16,
    /// A directory of its own.
    pub(crate) dir: PathBuf,
}

/// The name of the backend of a node, which is that of its pod.
pub(crate) fn name(node: usize) -> String {
    format!("pod-{node}-2")
}

impl Stage {
    /// Everything but servers and agents; both backends are listed.
    pub(crate) fn new(ports: &[Port]) -> Self {
        let cluster = Cluster::new(2, 2).unwrap();
        let manifests = ManifestDir::create().unwrap();
        manifests.write_cluster(&cluster).unwrap();
        let outside = Cgroup::create("unhooked").unwrap();
        let dir = scratch_dir("clients").unwrap();
        let stage = Self { cluster, outside, manifests, ports: ports.to_vec(), dir };
        stage.write_service().unwrap();
        stage.list(&NODES);
        stage
    }

    fn write_service(&self) -> Result<()> {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: real}}\nspec:\n  type: ClusterIP\n\
             \x20 clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n",
            v4 = VIPS[0],
            v6 = VIPS[1],
        );
        for (protocol, port) in &self.ports {
            let target = port + SHIFT;
            let name = port_name(protocol, *port);
            writeln!(text, "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}}}")?;
        }
        self.manifests.write("real.yaml", &text)
    }

    /// Lists the backends of these nodes, and no others.
    pub(crate) fn list(&self, nodes: &[usize]) {
        for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let mut text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n\
                 \x20 name: real-{}\n  labels: {{kubernetes.io/service-name: real}}\naddressType: {family}\nports:\n",
                family.to_lowercase()
            );
            for (protocol, port) in &self.ports {
                let (name, target) = (port_name(protocol, *port), port + SHIFT);
                writeln!(text, "- {{name: {name}, protocol: {protocol}, port: {target}}}").unwrap();
            }
            text += if nodes.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
            for node in nodes {
                let pod = self.cluster.pod(*node, 2);
                let (ip, node) = ([pod.v4, pod.v6][index], &self.cluster.node(*node).name);
                writeln!(text, "- {{addresses: [\"{ip}\"], nodeName: {node}, conditions: {{ready: true}}}}")
                    .unwrap();
            }
            self.manifests.write(&format!("real-{}.yaml", family.to_lowercase()), &text).unwrap();
        }
    }

    /// Starts a server in each backend, the first node's first; they have opened these ports of theirs then.
    pub(crate) fn serve(
        &self,
        ports: &[Port],
        words: impl Fn(&Backend<'_>) -> Vec<String>,
    ) -> [Process; NODES.len()] {
        NODES.map(|node| {
            let pod = self.cluster.pod(node, 2);
            let port = ports[0].1 + SHIFT;
            let dir = self.dir.join(format!("{}-{port}", pod.name));
            fs::create_dir_all(&dir).unwrap();
            let words = words(&Backend { pod, port, dir });
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            let mut process = spawn(pod.place(), &words).unwrap();
            let look = || {
                ensure!(process.is_running(), "{words:?} ended: {}", process.log());
                Ok(ports.iter().all(|port| is_open(process.pid(), *port)).then_some(()))
            };
            until(LIMIT, words[0], look).unwrap();
            process
        })
    }

    /// An agent on every node, ready.
    pub(crate) fn agents(&self) -> Vec<Agent<'_>> {
        self.cluster.nodes.iter().map(|node| Agent::start(node, self.manifests.path()).unwrap()).collect()
    }

    /// Each client with each address of the Service: a pod of one node and the host of the other.
    pub(crate) fn ways(&self) -> Vec<Way<'_>> {
        let clients = [self.cluster.pod(1, 1).place(), self.cluster.node(2).host()];
        let way = |client, vip: &str| Way { client, vip: vip.parse().unwrap(), patience: PATIENCE };
        let ways = VIPS.map(|vip| clients.map(|client| way(client, vip)));
        ways.into_iter().flatten().collect()
    }

    /// Two of these ways: the pod over IPv4 and the host over IPv6.
    pub(crate) fn corners(&self) -> [Way<'_>; 2] {
        let ways = self.ways();
        [ways[0], ways[ways.len() - 1]]
    }

    /// The same network for a process that no agent's hook sees.
    pub(crate) fn unhooked<'a>(&'a self, way: Way<'a>) -> Way<'a> {
        let client = Place { cgroup: &self.outside, ..way.client };
        Way { client, patience: Duration::from_secs(1), ..way }
    }

    /// The names of both backends.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        NODES.map(|node| self.cluster.pod(node, 2).name.clone()).into()
    }

    /// The name of the backend with this address.
    pub(crate) fn name_of(&self, ip: IpAddr) -> Option<String> {
        let mut pods = NODES.iter().map(|node| self.cluster.pod(*node, 2));
        pods.find(|pod| [pod.v4, pod.v6].contains(&ip)).map(|pod| pod.name.clone())
    }

    /// Writes a file that a client reads.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Where such files lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("directory {} stays: {error}", self.dir.display());
        }
    }
}

fn port_name(protocol: &str, port: u16) -> String {
    format!("{}-{port}", protocol.to_lowercase())
}

/// Whether the network that a process sees has a socket that takes what a backend gets for this port of the Service.
fn is_open(pid: u32, (protocol, port): Port) -> bool {
    let port = port + SHIFT;
    let protocol = protocol.to_lowercase();
    let local = format!(":{port:04X} ");
    ["", "6"].iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}{family}")).unwrap_or_default();
        let mut sockets = table.lines().skip(1).filter_map(|line| line.split_once(": "));
        sockets.any(|(_, socket)| {
            let has_port = socket.split_inclusive(' ').next().is_some_and(|at| at.ends_with(&local));
            // A listener of TCP is in state 10.
            has_port && (protocol == "udp" || socket.split(' ').nth(2) == Some("0A"))
        })
    })
}
