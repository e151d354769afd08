//! From raw arguments to what the agent runs with, checked once; every error names its flag. It reads no
//! environment by itself: what the host says comes in as [`Surroundings`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::{AgentArgs, BpfLogLevel, LogFormat};
use crate::plan::node::{NodePortAddresses, NodePortAddressesError};

/// What `shunt agent` runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Name of the own Node, trimmed and in lower case.
    pub node_name: String,
    /// Directory of manifests; it existed when this was made.
    pub manifests: PathBuf,
    /// Cgroup to hook; none: the true root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// Absolute path of the pin directory.
    pub pin_dir: PathBuf,
    /// Which of the node's addresses serve NodePorts.
    pub nodeport_addresses: NodePortAddresses,
    /// Where /healthz, /livez and /readyz are served.
    pub healthz_address: SocketAddr,
    /// Where /proxyMode, /status and /healthz are served; never the same as `healthz_address`.
    pub metrics_address: SocketAddr,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What the eBPF programs log.
    pub bpf_log_level: BpfLogLevel,
}

/// What the host says that no flag does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// `NODE_NAME`, as a DaemonSet sets it from `spec.nodeName`.
    pub node_name: Option<String>,
    /// The host name.
    pub host_name: String,
}

/// Why a set of arguments is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No Node can have this name.
    #[error("--node-name: `{name}` cannot be the name of a Node (letters, digits, `-` and `.`, 253 at most)")]
    NodeName {
        /// The name, after trimming.
        name: String,
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
    /// A list that selects no addresses as written.
    #[error("--nodeport-addresses: {0}")]
    NodePortAddresses(#[from] NodePortAddressesError),
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
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}

impl AgentConfig {
    /// Checks and completes `args`.
    pub fn resolve(args: AgentArgs, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let (healthz_address, metrics_address) = (args.healthz_address, args.metrics.metrics_address);
        if healthz_address == metrics_address && healthz_address.port() != 0 {
            return Err(ConfigError::SameAddress { address: healthz_address });
        }
        // Not only whether it is a directory: one that may not be read would look empty for ever.
        if let Err(source) = std::fs::read_dir(&args.manifests) {
            return Err(ConfigError::Manifests { path: args.manifests, source });
        }
        let pin_dir = std::path::absolute(&args.pin.pin_dir)
            .map_err(|source| ConfigError::PinDir { path: args.pin.pin_dir, source })?;
        Ok(Self {
            node_name: node_name(args.node_name.as_deref(), surroundings)?,
            manifests: args.manifests,
            cgroup: args.cgroup,
            pin_dir,
            nodeport_addresses: args.nodeport_addresses.parse()?,
            healthz_address,
            metrics_address,
            log_format: args.log_format,
            bpf_log_level: args.bpf_log_level,
        })
    }
}

/// The first name that says anything: flag, `NODE_NAME`, host name; in the form kube-proxy and the kubelet use.
fn node_name(flag: Option<&str>, surroundings: &Surroundings) -> Result<String, ConfigError> {
    let name = [flag, surroundings.node_name.as_deref()]
        .into_iter()
        .flatten()
        .map(str::trim)
        .find(|name| !name.is_empty())
        .unwrap_or(surroundings.host_name.trim())
        .to_lowercase();
    let is_node_name = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    if is_node_name { Ok(name) } else { Err(ConfigError::NodeName { name }) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{MetricsArgs, PinArgs};

    fn surroundings(node_name: Option<&str>) -> Surroundings {
        Surroundings { node_name: node_name.map(str::to_owned), host_name: " Host-1.Example\n".to_owned() }
    }

    fn args(manifests: &std::path::Path) -> AgentArgs {
        AgentArgs {
            node_name: None,
            manifests: manifests.to_owned(),
            cgroup: None,
            pin: PinArgs { pin_dir: "pins".into() },
            nodeport_addresses: "primary".to_owned(),
            healthz_address: "0.0.0.0:10256".parse().unwrap(),
            metrics: MetricsArgs { metrics_address: "127.0.0.1:10249".parse().unwrap() },
            log_format: LogFormat::Text,
            bpf_log_level: BpfLogLevel::Off,
        }
    }

    #[test]
    fn the_node_name_is_the_first_that_says_anything() {
        let name = |flag, env| node_name(flag, &surroundings(env)).unwrap();
        assert_eq!(name(Some(" Node-A "), Some("node-b")), "node-a");
        assert_eq!(name(None, Some("NODE-B")), "node-b");
        assert_eq!(name(Some("  "), Some("")), "host-1.example");
        assert_eq!(name(None, None), "host-1.example");
    }

    #[test]
    fn a_name_that_no_node_can_have_is_refused() {
        for bad in ["node_1", "a/b", "nöde", &"n".repeat(254)] {
            let error = node_name(Some(bad), &surroundings(None)).unwrap_err().to_string();
            assert!(error.starts_with("--node-name: "), "{error}");
        }
    }

    #[test]
    fn arguments_are_completed() {
        let scratch = tempfile::tempdir().unwrap();
        let config = AgentConfig::resolve(args(scratch.path()), &surroundings(None)).unwrap();
        assert!(config.pin_dir.is_absolute() && config.pin_dir.ends_with("pins"));
        assert_eq!(config.node_name, "host-1.example");
        assert_eq!(config.nodeport_addresses, NodePortAddresses::Primary);
    }

    #[test]
    fn errors_name_the_flag() {
        let scratch = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut AgentArgs)| {
            let mut changed = args(scratch.path());
            change(&mut changed);
            AgentConfig::resolve(changed, &surroundings(None)).unwrap_err().to_string()
        };
        let absent = refused(&|args| args.manifests = "/absent/manifests".into());
        assert!(absent.starts_with("--manifests: /absent/manifests: "), "{absent}");
        let twice = refused(&|args| args.metrics.metrics_address = args.healthz_address);
        assert!(twice.starts_with("--healthz-address and --metrics-address: "), "{twice}");
        let list = refused(&|args| args.nodeport_addresses = "primary,eth0".to_owned());
        assert!(list.starts_with("--nodeport-addresses: ") && list.contains("eth0"), "{list}");
        let empty = refused(&|args| args.pin.pin_dir = "".into());
        assert!(empty.starts_with("--pin-dir: "), "{empty}");
    }

    #[test]
    fn a_service_filter_reads_labels() {
        let matches = |filter: &str, label: &str| filter.parse::<ServiceFilter>().unwrap().matches(label);
        assert!(matches("default/web", "default/web:http/tcp"));
        assert!(matches("default/web", "default/web:/udp"));
        assert!(matches("default/web:http", "default/web:http/tcp"));
        assert!(matches("default/web:http/tcp", "default/web:http/tcp"));
        assert!(!matches("default/web:http/udp", "default/web:http/tcp"));
        assert!(!matches("default/web", "default/web-2:http/tcp"));
        assert!(!matches("default/web:htt", "default/web:http/tcp"));
        for bad in ["web", "/web", "default/", "default/web:", "a/b/c"] {
            assert_eq!(bad.parse::<ServiceFilter>(), Err(ServiceFilterError), "{bad}");
        }
    }
}
