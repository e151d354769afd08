//! Agents that are told by kube-proxy's configuration whether to masquerade all.

use anyhow::Result;
use serde_json::json;
use tests::agent::Agent;
use tests::manifests::ManifestDir;

use super::site::Site;

/// Name of the file.
const FILE: &str = "config.json";

/// A configuration, which is read at each start of an agent.
pub(crate) struct Masquerading {
    directory: ManifestDir,
}

impl Masquerading {
    /// Writes one.
    pub(crate) fn wish(is_wished: bool) -> Result<Self> {
        let mut new = Self { directory: ManifestDir::create()? };
        new.change(is_wished)?;
        Ok(new)
    }

    /// Writes another in its place.
    pub(crate) fn change(&mut self, is_wished: bool) -> Result<()> {
        let settings = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "nftables", "nftables": { "masqueradeAll": is_wished },
        });
        self.directory.write(FILE, &settings.to_string())
    }

    /// An agent on every node that reads it, ready.
    pub(crate) fn agents<'site>(&self, site: &'site Site, more: &[&str]) -> Vec<Agent<'site>> {
        let config = self.directory.path().join(FILE);
        let config = config.to_str().expect("the directory's name is text");
        let words = [&["--devices", "auto", "--config", config], more].concat();
        let start = |node| Agent::start_with(node, site.manifests.path(), &words).expect("an agent");
        site.cluster.nodes.iter().map(start).collect()
    }
}
