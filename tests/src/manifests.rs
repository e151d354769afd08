//! Manifests of a scenario, written the way `--manifests` asks for: whole files, renamed into place.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sweep;
use crate::topology::Cluster;

/// A directory of manifests that is removed on drop.
#[derive(Debug)]
pub struct ManifestDir {
    dir: PathBuf,
}

/// A Service of type ClusterIP in namespace `default`, with one unnamed port.
#[derive(Clone, Debug)]
pub struct Service<'a> {
    /// Name.
    pub name: &'a str,
    /// Cluster IPs, one of each family at most.
    pub cluster_ips: &'a [IpAddr],
    /// Port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'a str,
}

/// An EndpointSlice of such a Service; its name is the Service's with the family.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    /// Name of the Service.
    pub service: &'a str,
    /// Port of all endpoints.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'a str,
    /// Addresses, all of one family, each with the name of its node.
    pub endpoints: &'a [(IpAddr, &'a str)],
}

impl ManifestDir {
    /// Makes an empty directory.
    pub fn create() -> Result<Self> {
        Ok(Self { dir: sweep::scratch_dir("manifests").context("make a directory of manifests")? })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Puts `text` into the file `name` at once: readers see the old file or the new one, whole.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let draft = self.dir.join(format!("{name}.draft"));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("write {name}"))
    }

    /// Removes the file `name`.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).with_context(|| format!("remove {name}"))
    }

    /// Copies every file of `from`, none of which may be in use yet.
    pub fn copy_from(&self, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), self.dir.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Writes the Nodes of `cluster` and the range that tests take their cluster IPs from.
    pub fn write_cluster(&self, cluster: &Cluster) -> Result<()> {
        let mut text = String::from(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
             spec: {cidrs: [10.96.0.0/16, \"fd00:10:96::/112\"]}\n",
        );
        for node in &cluster.nodes {
            let [v4, v6] = node.addresses();
            let [v4_range, v6_range] = node.pod_ranges();
            write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 spec: {{podCIDRs: [{v4_range}, \"{v6_range}\"]}}\n\
                 status:\n  addresses:\n\
                 \x20 - {{type: InternalIP, address: {v4}}}\n  - {{type: InternalIP, address: \"{v6}\"}}\n",
                name = node.name,
            )?;
        }
        self.write("cluster.yaml", &text)
    }

    /// Writes a Service to a file of its own.
    pub fn write_service(&self, service: &Service<'_>) -> Result<()> {
        let ips: Vec<String> = service.cluster_ips.iter().map(|ip| format!("\"{ip}\"")).collect();
        let families: Vec<&str> = service.cluster_ips.iter().map(|ip| family(*ip)).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\n\
             spec:\n  type: ClusterIP\n  clusterIP: {first}\n  clusterIPs: [{all}]\n  ipFamilies: [{families}]\n\
             \x20 ports:\n  - {{protocol: {protocol}, port: {port}}}\n",
            name = service.name,
            first = ips.first().context("a Service needs a cluster IP")?,
            all = ips.join(", "),
            families = families.join(", "),
            port = service.port,
            protocol = service.protocol,
        );
        self.write(&format!("{}.yaml", service.name), &text)
    }

    /// Writes an EndpointSlice to a file of its own. One without endpoints is an IPv4 slice.
    pub fn write_slice(&self, slice: &Slice<'_>) -> Result<()> {
        let family = slice.endpoints.first().map_or("IPv4", |(ip, _)| family(*ip));
        let name = format!("{}-{}", slice.service, family.to_lowercase());
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: default\n  name: {name}\n\
             \x20 labels: {{kubernetes.io/service-name: {service}}}\n\
             addressType: {family}\nports:\n- {{name: \"\", protocol: {protocol}, port: {port}}}\nendpoints:\n",
            service = slice.service,
            port = slice.port,
            protocol = slice.protocol,
        );
        for (address, node) in slice.endpoints {
            writeln!(
                text,
                "- {{addresses: [\"{address}\"], nodeName: {node}, conditions: {{ready: true}}}}"
            )?;
        }
        if slice.endpoints.is_empty() {
            // A key without a value would be null, which no API server writes.
            text = text.replace("endpoints:\n", "endpoints: []\n");
        }
        self.write(&format!("{name}.yaml"), &text)
    }
}

impl Drop for ManifestDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("directory {} stays: {error}", self.dir.display());
        }
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
