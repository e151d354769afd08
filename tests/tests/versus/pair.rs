//! An agent on the first node and kube-proxy on the second, both with the file that kubeadm writes.

use std::path::PathBuf;

use serde_json::{Value, json};
use tests::agent::Agent;
use tests::cluster::{ControlPlane, KubeProxy, Options};
use tests::sweep;
use tests::topology::{Cluster, Node};

/// What kubeadm puts into the ConfigMap `kube-proxy`.
const KUBEADM: &str = include_str!("../../../proxy-userspace/src/kubeproxy/samples/kubeadm.yaml");
/// The user that kubeadm gives to kube-proxy.
pub(crate) const USER: &str = "system:kube-proxy";

/// A cluster with the Node objects of its nodes.
pub(crate) fn cluster(topology: &Cluster) -> ControlPlane {
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(topology, &options).unwrap();
    for node in &topology.nodes {
        control.api().unwrap().create_node(node, None).unwrap();
    }
    control
}

/// kubeadm's configuration for `node`. Other than kubeadm's: the mode, since a test's node has no iptables; and the size
/// of the kernel's table of connections, which belongs to the whole machine.
pub(crate) fn configuration(control: &ControlPlane, node: &Node) -> Value {
    let mut config: Value = serde_saphyr::from_str(KUBEADM).unwrap();
    config["clientConnection"]["kubeconfig"] = json!(control.kubeconfig(USER).unwrap());
    config["hostnameOverride"] = json!(node.name);
    config["mode"] = json!("nftables");
    config["conntrack"] =
        json!({ "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" });
    config
}

/// A file in a directory of its own, which goes with this.
pub(crate) struct ConfigFile {
    directory: PathBuf,
    pub(crate) path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn new(config: &Value) -> Self {
        let directory = sweep::scratch_dir("config").unwrap();
        let path = directory.join("config.conf");
        std::fs::write(&path, config.to_string()).unwrap();
        Self { directory, path }
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // What is left is swept by the next run.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Starts both, and waits until both are ready.
pub(crate) fn start<'n>(
    control: &ControlPlane,
    [ours, theirs]: [&'n Node; 2],
    file: &ConfigFile,
) -> (Agent<'n>, KubeProxy) {
    let path = file.path.to_str().unwrap();
    let agent = Agent::follow(ours, &control.kubeconfig(USER).unwrap(), &["--config", path]).unwrap();
    let proxy = KubeProxy::start(control, theirs, "nftables", &configuration(control, theirs)).unwrap();
    (agent, proxy)
}
