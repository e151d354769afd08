//! What a configuration of kube-proxy means to Shunt.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::cli::LogFormat;
use crate::plan::node::NodePortAddresses;

/// Port of /healthz.
pub(super) const HEALTHZ_PORT: u16 = 10256;
/// Port of /metrics.
pub(super) const METRICS_PORT: u16 = 10249;

/// What is honoured, and what is kept for the part of Shunt that will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `hostnameOverride`.
    pub node_name: Option<String>,
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `nodePortAddresses`, or what kube-proxy's mode makes of none.
    pub nodeport_addresses: NodePortAddresses,
    /// `healthzBindAddress`, with a port.
    pub healthz_address: SocketAddr,
    /// `metricsBindAddress`, with a port.
    pub metrics_address: SocketAddr,
    /// `logging.format`.
    pub log_format: LogFormat,
    /// `oomScoreAdj`; none: what the process was started with stays.
    pub oom_score_adj: Option<i32>,
    /// `bindAddressHardFail`.
    pub bind_address_hard_fail: bool,
    /// How often is written and read again.
    pub pacing: Pacing,
    /// What steers the packet path.
    pub packet_path: PacketPath,
    /// What only kube-proxy's own words can say.
    pub words: KubeProxyWords,
}

impl Default for Settings {
    /// Without any configuration of kube-proxy.
    fn default() -> Self {
        Self {
            node_name: None,
            kubeconfig: None,
            nodeport_addresses: NodePortAddresses::Primary,
            healthz_address: SocketAddr::from(([0; 4], HEALTHZ_PORT)),
            metrics_address: SocketAddr::from(([127, 0, 0, 1], METRICS_PORT)),
            log_format: LogFormat::Text,
            oom_score_adj: None,
            bind_address_hard_fail: false,
            pacing: Pacing::default(),
            packet_path: PacketPath::default(),
            words: KubeProxyWords::default(),
        }
    }
}

/// How often the agent writes, and looks again at what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// Least time from the end of one write to the start of the next. kube-proxy's default is 1 s since a write costs it
    /// a run of iptables; Shunt's is 0, since an endpoint costs a few stores to memory.
    pub min_sync_period: Duration,
    /// After this a write that failed is tried again, and after twice this a write that is still due is a fault of
    /// health. 30 s.
    pub sync_period: Duration,
    /// How often everything that the API server said is looked at anew. 15 min.
    pub config_sync_period: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            min_sync_period: Duration::ZERO,
            sync_period: Duration::from_secs(30),
            config_sync_period: Duration::from_mins(15),
        }
    }
}

/// What steers packets rather than sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketPath {
    /// Whether the source of everything that goes through a frontend is replaced, also towards pods of this node; but not of what
    /// externalTrafficPolicy Local promises to keep.
    pub masquerade_all: bool,
    /// How packets of pods are told.
    pub detect_local: DetectLocalMode,
    /// Ranges of the cluster's pods: those of `--cluster-cidr`, or of kube-proxy's field, which has one a family at most, and
    /// only if `detect_local` asks for them.
    pub cluster_cidrs: Vec<IpNet>,
    /// Bridge or prefix of interface names, if `detect_local` asks for one.
    pub interface: String,
    /// How long flows may be idle.
    pub idle: IdleTimes,
}

/// The times of `conntrack`; none: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleTimes {
    /// `tcpEstablishedTimeout`.
    pub tcp_established: Option<Duration>,
    /// `tcpCloseWaitTimeout`, which is checked and shown, but says nothing to Shunt.
    pub tcp_close_wait: Option<Duration>,
    /// `udpTimeout`.
    pub udp: Option<Duration>,
    /// `udpStreamTimeout`.
    pub udp_stream: Option<Duration>,
}

impl IdleTimes {
    /// Whole seconds of one of them. None: it is not given, or 0, with which kube-proxy leaves the kernel's alone.
    pub fn seconds(time: Option<Duration>) -> Option<u32> {
        let seconds = time?.as_secs();
        (seconds != 0).then(|| u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// `detectLocalMode`: how kube-proxy tells packets of this node's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// By the ranges of all pods.
    #[default]
    ClusterCidr,
    /// By the Node's range.
    NodeCidr,
    /// By the bridge that they come from.
    BridgeInterface,
    /// By the name of the interface that they come from.
    InterfaceNamePrefix,
}

/// `mode`: which kube-proxy the configuration was written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// None said, which kube-proxy takes for iptables.
    #[default]
    Unset,
    /// iptables.
    Iptables,
    /// IPVS.
    Ipvs,
    /// nftables.
    Nftables,
}

/// What is said in kube-proxy's words and has none of Shunt's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeProxyWords {
    /// Decides the default of `nodePortAddresses`, and the section in which the periods stand.
    pub mode: Mode,
    /// `featureGates`.
    pub feature_gates: BTreeMap<String, bool>,
    /// `logging.verbosity`, as klog counts it.
    pub verbosity: u32,
}

impl KubeProxyWords {
    /// The filter of the log that `verbosity` comes to: klog's 4 is detail, 6 and more is everything.
    pub const fn log_filter(verbosity: u32) -> &'static str {
        match verbosity {
            0..=3 => "info",
            4..=5 => "info,shunt=debug",
            _ => "info,shunt=trace",
        }
    }
}

/// A word that is none of those known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {0}, or empty")]
pub struct WordError(&'static str);

impl Mode {
    /// Name of the section in which this mode's periods stand.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Unset | Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if *self == Self::Unset { "" } else { self.section() })
    }
}

impl FromStr for Mode {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self::Unset),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "nftables" => Ok(Self::Nftables),
            _ => Err(WordError("iptables, ipvs, nftables")),
        }
    }
}

impl DetectLocalMode {
    const WORDS: [(&'static str, Self); 4] = [
        ("ClusterCIDR", Self::ClusterCidr),
        ("NodeCIDR", Self::NodeCidr),
        ("BridgeInterface", Self::BridgeInterface),
        ("InterfaceNamePrefix", Self::InterfaceNamePrefix),
    ];
}

impl fmt::Display for DetectLocalMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word);
        out.write_str(word)
    }
}

impl FromStr for DetectLocalMode {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, mode)| *mode)
            .ok_or(WordError("ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"))
    }
}
