//! From raw arguments to what the agent runs with, checked once; every error names its flag. It reads no
//! environment by itself: what the host says comes in as [`Surroundings`].

mod merged;
#[cfg(test)]
mod tests;

pub use merged::Merged;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::cli::{AgentArgs, BpfLogLevel, LogFormat, Shortcuts, SocketLb};
use crate::devices::{Choice, Selection, SelectionError};
use crate::kubeproxy::{Document, KubeProxyError, Notice, Pacing, PacketPath};
use crate::logs::FILTER_VARIABLE;
use crate::plan::node::NodePortAddresses;
use crate::source::convert::parse_net;
use crate::source::kube::{Access, AccessError};

/// Where the kubelet puts the service account of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What `shunt agent` runs with.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// Name of the own Node, trimmed and in lower case.
    pub node_name: String,
    /// Where Services come from.
    pub source: SourceConfig,
    /// Cgroup to hook; none: the true root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// Absolute path of the pin directory.
    pub pin_dir: PathBuf,
    /// Which of the node's addresses serve NodePorts.
    pub nodeport_addresses: NodePortAddresses,
    /// Whether health checks of Services are answered.
    pub health_check_node_ports: bool,
    /// Whether cluster IPs that are addresses of the node's interfaces are served too.
    pub serve_local_vips: bool,
    /// Whose sockets are served where they connect.
    pub socket_lb: SocketLb,
    /// Whether connected UDP sockets are moved.
    pub move_udp: bool,
    /// Where /healthz, /livez and /readyz are served.
    pub healthz_address: SocketAddr,
    /// Where /metrics, /status, /proxyMode, /configz and /healthz are served; never the same as `healthz_address`.
    pub metrics_address: SocketAddr,
    /// Service ports with counters of their own in /metrics; zero: none are counted there.
    pub metrics_services: usize,
    /// Whether an address that is taken ends the agent; otherwise it is tried again and again.
    pub bind_address_hard_fail: bool,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter of the log, as `SHUNT_LOG` writes it.
    pub log_filter: String,
    /// What the eBPF programs log.
    pub bpf_log_level: BpfLogLevel,
    /// What `oom_score_adj` of the agent is set to; none: what it was started with stays.
    pub oom_score_adj: Option<i32>,
    /// How often is written, and looked again.
    pub pacing: Pacing,
    /// Which devices the packet path is attached to.
    pub devices: Choice,
    /// When packets go past the node's stack.
    pub shortcuts: Shortcuts,
    /// What steers the packet path; of whose packets count as inside, with [`crate::devices::inside`].
    pub packet_path: PacketPath,
    /// All of this in kube-proxy's words.
    pub configuration: Document,
}

/// A configuration, and what is to be said of how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// What the agent runs with.
    pub config: AgentConfig,
    /// What was said in vain, by field or flag, with the reason; for the log.
    pub notices: Vec<Notice>,
}

/// Where Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A directory of manifests; it existed when this was made.
    Manifests(PathBuf),
    /// An API server.
    Api {
        /// Addresses and credentials.
        access: Access,
        /// How long to wait for a first answer before giving up; none: for as long as it takes.
        patience: Option<Duration>,
    },
}

/// What the host says that no flag does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// `NODE_NAME`, as a DaemonSet sets it from `spec.nodeName`.
    pub node_name: Option<String>,
    /// The host name.
    pub host_name: String,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, as every pod has them: mostly a cluster IP.
    pub service: Option<(String, String)>,
    /// Directory of a pod's service account.
    pub service_account: PathBuf,
    /// `SHUNT_LOG`.
    pub log_filter: Option<String>,
}

/// Why a set of arguments is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No Node can have this name.
    #[error("{origin}: `{name}` cannot be the name of a Node (letters, digits, `-` and `.`, 253 at most)")]
    NodeName {
        /// What said so.
        origin: &'static str,
        /// The name, after trimming.
        name: String,
    },
    /// Nothing says where Services come from.
    #[error("--kubeconfig, --api-server or --manifests: one of them must say where Services come from")]
    NoSource,
    /// The API server cannot be asked with what there is.
    #[error("{origin}: {source}")]
    Access {
        /// What gave address and credentials.
        origin: &'static str,
        /// What is wrong with them.
        source: AccessError,
    },
    /// The manifests cannot be read at all.
    #[error("--manifests: {path}: {source}")]
    Manifests {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pin directory has no absolute path.
    #[error("--pin-dir: {path}: {source}")]
    PinDir {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No device can be called so.
    #[error("detectLocal of --config: {source}")]
    DetectLocal {
        /// What is wrong with the name.
        source: SelectionError,
    },
    /// kube-proxy's file or flags make no sense.
    #[error(transparent)]
    KubeProxy(#[from] KubeProxyError),
    /// Two servers for one port.
    #[error("--healthz-address and --metrics-address: both are {address}")]
    SameAddress {
        /// The address.
        address: SocketAddr,
    },
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        Self {
            node_name: std::env::var("NODE_NAME").ok(),
            service: std::env::var("KUBERNETES_SERVICE_HOST")
                .ok()
                .filter(|host| !host.is_empty())
                .map(|host| (host, std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_default())),
            service_account: SERVICE_ACCOUNT.into(),
            log_filter: std::env::var(FILTER_VARIABLE).ok(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}

impl AgentConfig {
    /// Checks and completes `args`: a flag wins over its variable (as clap reads them), both over `--config`, and that
    /// over the default.
    pub fn resolve(args: AgentArgs, surroundings: &Surroundings) -> Result<Resolved, ConfigError> {
        Merged::of_agent(args, surroundings)?.complete(surroundings)
    }
}

impl AgentConfig {
    /// Whether packets are served at all.
    pub fn has_packet_path(&self) -> bool {
        self.devices.devices != Selection::None
    }
}

/// Why a range is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a CIDR such as 10.244.0.0/16 or 2001:db8::/32")]
pub struct RangeError;

/// A range as Kubernetes reads them; host bits are cleared.
pub fn range(text: &str) -> Result<IpNet, RangeError> {
    parse_net(text.trim()).ok_or(RangeError)
}

/// `--service namespace/name[:port]`: which service ports a listing keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFilter {
    service: String,
    port: Option<String>,
}

/// Why a `--service` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAMESPACE/NAME or NAMESPACE/NAME:PORT")]
pub struct ServiceFilterError;

impl ServiceFilter {
    /// Whether a service port's label (`namespace/name:port/protocol`) is meant.
    pub fn matches(&self, label: &str) -> bool {
        let Some((service, port)) = label.split_once(':') else {
            return self.port.is_none() && label == self.service;
        };
        let name = port.split_once('/').map_or(port, |(name, _)| name);
        // `http` means the port under every protocol and family, `http/tcp` only that one.
        service == self.service && self.port.as_deref().is_none_or(|wanted| wanted == name || wanted == port)
    }
}

impl FromStr for ServiceFilter {
    type Err = ServiceFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (service, port) = match text.split_once(':') {
            Some((_, "")) => return Err(ServiceFilterError),
            Some((service, port)) => (service, Some(port.to_owned())),
            None => (text, None),
        };
        match service.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { service: service.to_owned(), port })
            }
            _ => Err(ServiceFilterError),
        }
    }
}
