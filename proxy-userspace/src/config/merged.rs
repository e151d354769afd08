//! Flag over variable over file over default, and where Services come from.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{AgentConfig, ConfigError, Resolved, SourceConfig, Surroundings};
use crate::cli::{AgentArgs, DeviceArgs};
use crate::devices::{Choice, Pattern};
use crate::kubeproxy::{
    self, DetectLocalMode, Document, Flags, KubeProxyWords, Notice, PacketPath, Settings,
};
use crate::source::kube::{Access, Identity};

/// How long `KUBERNETES_SERVICE_HOST` is tried: it may be a real address.
const SERVICE_PATIENCE: Duration = Duration::from_secs(10);

/// What files and flags say together, before anything is asked where Services come from.
#[derive(Clone, Debug)]
pub struct Merged {
    args: AgentArgs,
    settings: Settings,
    log_filter: String,
    /// What named the kubeconfig and the API server.
    origins: Origins,
    notices: Vec<Notice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origins {
    kubeconfig: &'static str,
    api_server: &'static str,
}

impl Merged {
    /// Of `shunt agent`.
    pub fn of_agent(args: AgentArgs, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let (settings, notices) = match &args.config {
            Some(file) => kubeproxy::read(file)?,
            None => (Settings::default(), Vec::new()),
        };
        let mut merged = Self::over(args, settings, surroundings)?;
        merged.notices = notices;
        Ok(merged)
    }

    /// Of a process that was started as kube-proxy; `args` is what its environment says.
    pub fn of_kube_proxy(
        flags: &Flags,
        mut args: AgentArgs,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let mut surroundings = surroundings.clone();
        args.config = flags.text("config").map(PathBuf::from).or(args.config);
        args.node_name = flags.text("hostname-override").or(args.node_name);
        let (said, mut notices) = flags.settings(args.config.is_some())?;
        let is_given = |flag: &str| flags.has(flag) && args.config.is_none();
        if is_given("kubeconfig") && said.kubeconfig.is_some() {
            args.kubeconfig.clone_from(&said.kubeconfig);
            args.manifests = None;
        }
        if is_given("healthz-bind-address") {
            args.healthz_address = Some(said.healthz_address);
        }
        if is_given("metrics-bind-address") {
            args.metrics_address = Some(said.metrics_address);
        }
        if is_given("nodeport-addresses") {
            args.nodeport_addresses = Some(said.nodeport_addresses.clone());
        }
        if is_given("cluster-cidr") && !said.packet_path.cluster_cidrs.is_empty() {
            args.cluster_cidr.clone_from(&said.packet_path.cluster_cidrs);
        }
        if flags.has("logging-format") {
            args.log_format = Some(said.log_format);
        }
        if flags.has("v") {
            surroundings.log_filter = Some(KubeProxyWords::log_filter(said.words.verbosity).to_owned());
        }
        let master = flags.text("master");
        if let Some(master) = &master {
            args.api_server = vec![master.clone()];
            args.manifests = None;
        }
        let verbosity = flags.has("v").then_some(said.words.verbosity);
        let mut settings = said;
        if let Some(file) = &args.config {
            let (of_file, more) = kubeproxy::read(file)?;
            settings = of_file;
            notices.extend(more);
        }
        settings.words.verbosity = verbosity.unwrap_or(settings.words.verbosity);
        let mut merged = Self::over(args, settings, &surroundings)?;
        merged.notices = notices;
        if master.is_some() {
            merged.origins.api_server = "--master";
        }
        Ok(merged)
    }

    /// Puts what `args` says over `settings`.
    fn over(
        args: AgentArgs,
        mut settings: Settings,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let names = [
            ("--node-name", args.node_name.as_deref()),
            ("NODE_NAME", surroundings.node_name.as_deref()),
            ("hostnameOverride of --config", settings.node_name.as_deref()),
        ];
        settings.node_name = Some(node_name(names, &surroundings.host_name)?);
        let mut origins = Origins { kubeconfig: "--kubeconfig", api_server: "--api-server" };
        if args.manifests.is_some() {
            settings.kubeconfig = None;
        } else if args.kubeconfig.is_some() {
            settings.kubeconfig.clone_from(&args.kubeconfig);
        } else {
            origins.kubeconfig = "clientConnection.kubeconfig of --config";
        }
        settings.healthz_address = args.healthz_address.unwrap_or(settings.healthz_address);
        settings.metrics_address = args.metrics_address.unwrap_or(settings.metrics_address);
        if let Some(addresses) = &args.nodeport_addresses {
            settings.nodeport_addresses.clone_from(addresses);
        }
        if !args.cluster_cidr.is_empty() {
            settings.packet_path.cluster_cidrs.clone_from(&args.cluster_cidr);
        }
        settings.log_format = args.log_format.unwrap_or(settings.log_format);
        let log_filter = surroundings.log_filter.clone().filter(|filter| !filter.trim().is_empty());
        let log_filter =
            log_filter.unwrap_or_else(|| KubeProxyWords::log_filter(settings.words.verbosity).to_owned());
        Ok(Self { args, settings, log_filter, origins, notices: Vec::new() })
    }

    /// All of it in kube-proxy's words.
    pub fn configuration(&self) -> Document {
        kubeproxy::effective(&self.settings)
    }

    /// Looks where Services come from, which makes it a whole.
    pub fn complete(self, surroundings: &Surroundings) -> Result<Resolved, ConfigError> {
        let configuration = self.configuration();
        let Self { args, settings, log_filter, origins, notices } = self;
        let (healthz_address, metrics_address) = (settings.healthz_address, settings.metrics_address);
        if healthz_address == metrics_address && healthz_address.port() != 0 {
            return Err(ConfigError::SameAddress { address: healthz_address });
        }
        let pin_dir = std::path::absolute(&args.pin.pin_dir)
            .map_err(|source| ConfigError::PinDir { path: args.pin.pin_dir, source })?;
        let source = match args.manifests {
            Some(directory) => manifests(directory)?,
            None => api(args.api_server, settings.kubeconfig, (origins, surroundings))?,
        };
        let devices = devices(args.devices, &settings.packet_path)?;
        let config = AgentConfig {
            node_name: settings.node_name.unwrap_or_default(),
            source,
            cgroup: args.cgroup,
            pin_dir,
            nodeport_addresses: settings.nodeport_addresses,
            serve_local_vips: args.serve_local_vips,
            health_check_node_ports: args.health_check_node_ports,
            healthz_address,
            metrics_address,
            bind_address_hard_fail: settings.bind_address_hard_fail,
            log_format: settings.log_format,
            log_filter,
            socket_lb: args.socket_lb,
            move_udp: args.move_udp,
            metrics_services: args.metrics_services,
            bpf_log_level: args.bpf_log_level,
            oom_score_adj: settings.oom_score_adj,
            pacing: settings.pacing,
            devices,
            shortcuts: args.shortcuts,
            packet_path: settings.packet_path,
            configuration,
        };
        Ok(Resolved { config, notices })
    }
}

/// What the flags say, and what kube-proxy's configuration calls pods' devices.
fn devices(args: DeviceArgs, packet_path: &PacketPath) -> Result<Choice, ConfigError> {
    let interface = &packet_path.interface;
    let pattern = match packet_path.detect_local {
        DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr => None,
        DetectLocalMode::BridgeInterface => Some(interface.parse()),
        DetectLocalMode::InterfaceNamePrefix => Some(Pattern::prefix(interface)),
    };
    let more_pods = pattern.transpose().map_err(|source| ConfigError::DetectLocal { source })?;
    Ok(Choice { devices: args.devices, pod_devices: args.pod_devices, more_pods })
}

fn manifests(path: PathBuf) -> Result<SourceConfig, ConfigError> {
    // Not only whether it is a directory: one that may not be read would look empty for ever.
    match std::fs::read_dir(&path) {
        Ok(_) => Ok(SourceConfig::Manifests(path)),
        Err(source) => Err(ConfigError::Manifests { path, source }),
    }
}

/// The first address that there is: those given, the kubeconfig's, and for a while the one that every pod is told.
fn api(
    mut servers: Vec<String>,
    kubeconfig: Option<PathBuf>,
    (origins, surroundings): (Origins, &Surroundings),
) -> Result<SourceConfig, ConfigError> {
    let mut patience = None;
    let mut origin = if servers.is_empty() { origins.kubeconfig } else { origins.api_server };
    if servers.is_empty() && kubeconfig.is_none() {
        let (host, port) = surroundings.service.as_ref().ok_or(ConfigError::NoSource)?;
        servers.push(service_url(host, port));
        patience = Some(SERVICE_PATIENCE);
        origin = "KUBERNETES_SERVICE_HOST";
    }
    let of_pod = || Identity::ServiceAccount(surroundings.service_account.clone());
    let identity = kubeconfig.map_or_else(of_pod, Identity::Kubeconfig);
    let access =
        Access::resolve(&servers, identity).map_err(|source| ConfigError::Access { origin, source })?;
    Ok(SourceConfig::Api { access, patience })
}

fn service_url(host: &str, port: &str) -> String {
    let port = if port.is_empty() { "443" } else { port };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("https://[{ip}]:{port}"),
        _ => format!("https://{host}:{port}"),
    }
}

/// The first of `names` that says anything, or else the host name; in the form kube-proxy and the kubelet use.
fn node_name(names: [(&'static str, Option<&str>); 3], host_name: &str) -> Result<String, ConfigError> {
    let (origin, name) = names
        .into_iter()
        .map(|(origin, name)| (origin, name.unwrap_or_default().trim()))
        .find(|(_, name)| !name.is_empty())
        .unwrap_or(("the host name", host_name.trim()));
    let name = name.to_lowercase();
    let is_node_name = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    if is_node_name { Ok(name) } else { Err(ConfigError::NodeName { origin, name }) }
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
