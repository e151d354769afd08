//! The real kube-proxy on a node: the peer that Shunt is compared with.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::programs;
use crate::agent::http_get;
use crate::process::{Process, placed};
use crate::sweep;
use crate::topology::Node;
use crate::wait;

/// Limit of a start, first sync included.
const START: Duration = Duration::from_mins(10);
const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";
/// The metric that has a line for each family once that is synced.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{";
/// The ranges of all pods of the topology.
const POD_RANGES: &str = "10.244.0.0/16,fd00:10:244::/48";

/// kube-proxy on a node, in the place of an agent. Its rules go away with the node's network namespace.
#[derive(Debug)]
pub struct KubeProxy {
    process: Process,
    dir: PathBuf,
}

impl KubeProxy {
    /// Starts it in `mode`, as `nftables`, and waits until its first sync is done.
    ///
    /// `settings` are fields of a KubeProxyConfiguration that differ from what a test's node needs at least. The Node
    /// object of `node` must exist.
    pub fn start(control: &ControlPlane, node: &Node, mode: &str, settings: &Value) -> Result<Self> {
        // Without a route a connect to a VIP fails before any rule sees it. Nothing answers to this one.
        for family in ["-4", "-6"] {
            node.netns.ip(&format!("{family} route replace default dev eth0"))?;
        }
        let dir = sweep::scratch_dir("kube_proxy").context("make a directory")?;
        let config = configuration(control, node, mode, settings)?;
        let file = dir.join("config.json");
        fs::write(&file, config.to_string()).context("write the configuration of kube-proxy")?;
        let agent = node.agent();
        let mut command = placed(&programs::find("kube-proxy")?, agent.netns, agent.cgroup);
        command.arg("--config").arg(&file);
        let process = Process::spawn(&format!("kube-proxy of {}", node.name), command)?;
        let mut proxy = Self { process, dir };
        proxy.wait_synced(node)?;
        Ok(proxy)
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its metrics, as text.
    pub fn metrics(&self, node: &Node) -> Result<String> {
        Ok(http_get(node, METRICS, "/metrics")?.1)
    }

    /// Waits for the first sync of both families. Its health is good before that, as nothing is overdue yet.
    fn wait_synced(&mut self, node: &Node) -> Result<()> {
        let synced = wait::until_ok(START, "kube-proxy's first sync of both families", || {
            let metrics = self.metrics(node).map_err(|error| format!("{error:#}"))?;
            let families = metrics.lines().filter(|line| line.starts_with(SYNCED)).count();
            if families == 2 { Ok(()) } else { Err(format!("{families} families are synced")) }
        });
        if let Err(error) = synced {
            bail!("{error:#}\n{}", self.process.log());
        }
        Ok(())
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // The process is killed by its own guard, right after.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn configuration(control: &ControlPlane, node: &Node, mode: &str, settings: &Value) -> Result<Value> {
    let mut config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "hostnameOverride": node.name,
        "clientConnection": { "kubeconfig": control.kubeconfig("system:kube-proxy")? },
        "clusterCIDR": POD_RANGES,
        "detectLocalMode": "ClusterCIDR",
        // The size of the table of connections belongs to the whole machine, and a test leaves that alone.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "healthzBindAddress": HEALTH,
        "metricsBindAddress": METRICS,
    });
    merge(&mut config, settings);
    Ok(config)
}

/// Puts every field of `other` into `into`, objects field by field.
fn merge(into: &mut Value, other: &Value) {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            for (key, value) in other {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, other) => other.clone_into(into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_merged_field_by_field() {
        let mut config = json!({ "conntrack": { "min": 0, "maxPerCore": 0 }, "mode": "nftables" });
        merge(&mut config, &json!({ "conntrack": { "min": 1 }, "nftables": { "syncPeriod": "1s" } }));
        let wanted = json!({
            "conntrack": { "min": 1, "maxPerCore": 0 }, "mode": "nftables", "nftables": { "syncPeriod": "1s" }
        });
        assert_eq!(config, wanted);
    }
}
