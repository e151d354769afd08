//! The command line as clap reads it: names, environment variables, defaults and help, no more. What the values
//! mean together is judged by `config`; nothing here touches the system.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::{self, ServiceFilter};
use crate::devices::Selection;
use crate::plan::node::NodePortAddresses;
use crate::trace::{Asked, Destination};

/// Shunt: Kubernetes Services by eBPF at the socket, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "shunt", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow Services and EndpointSlices and keep the datapath of this node right
    Agent(AgentArgs),
    /// Show what runs: hooks as the kernel reports them, map fill, and what the agent says of itself
    Status(StatusArgs),
    /// List what the maps hold
    Dump(DumpArgs),
    /// Tell where a connection would go and why, by the decision of the hooks over the maps as they are; changes nothing
    Trace(TraceArgs),
    /// Compare the maps with what the source says; exit code 1 and the differences where they differ
    Verify(Box<VerifyArgs>),
    /// Look at this host before an agent runs on it: kernel, rights, pins, what others have left; changes nothing
    Check(CheckArgs),
    /// Detach and unpin everything of a pin directory; leaves no trace
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Where pinned maps and links are; the same for every command.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Directory on a bpffs for maps (under v<schema>) and links (under links)
    #[arg(long, env = "SHUNT_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/shunt")]
    pub pin_dir: PathBuf,
}

/// Which devices the packet path is attached to; the same for every command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct DeviceArgs {
    /// Devices by which packets enter from outside: auto (those with a default route or an address of the node), none (no
    /// packet path at all), or names and patterns such as eth*,bond0
    #[arg(long, env = "SHUNT_DEVICES", value_name = "LIST", default_value = "auto")]
    pub devices: Selection,
    /// Devices that lead to pods of this node: auto (host ends of pairs whose other end is in another network namespace),
    /// none, or names and patterns such as cali*
    #[arg(long, env = "SHUNT_POD_DEVICES", value_name = "LIST", default_value = "auto")]
    pub pod_devices: Selection,
}

/// Where the agent is asked.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// Address of /metrics, /status, /proxyMode, /configz and /healthz, for this node only
    #[arg(long, env = "SHUNT_METRICS_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_address: SocketAddr,
}

/// `shunt agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Name of this node's Node object [default: $NODE_NAME, else the host name; trimmed, in lower case]
    #[arg(long, env = "SHUNT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig with the credentials for the API server, and with its address if --api-server does not say
    #[arg(long, env = "SHUNT_KUBECONFIG", value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of API servers, tried in turn; with the kubeconfig's credentials, or in a pod its service account's
    #[arg(
        long,
        env = "SHUNT_API_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "manifests"
    )]
    pub api_server: Vec<String>,
    /// Instead of an API server: a directory of Service, EndpointSlice, Node and ServiceCIDR manifests (*.yaml, *.yml,
    /// *.json), followed as they change
    #[arg(long, env = "SHUNT_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1, YAML or JSON), read once; flags and variables win over
    /// it. What it says in vain is named in the log
    #[arg(long, env = "SHUNT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Cgroup v2 directory whose processes are served [default: the true root, recognised by inode 1]
    #[arg(long, env = "SHUNT_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Node addresses that serve NodePorts: primary, all, localhost and CIDRs, separated by commas [default: primary;
    /// with --config and a mode other than nftables: all]
    #[arg(long, env = "SHUNT_NODEPORT_ADDRESSES", value_name = "LIST")]
    pub nodeport_addresses: Option<NodePortAddresses>,
    /// Which devices the packet path is attached to.
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Whether packets between clients outside and pods of this node go past the node's network stack: auto (as long as nobody
    /// there wants to see them: netfilter, IPsec, programs of others) or none
    #[arg(long, env = "SHUNT_SHORTCUTS", value_name = "WHEN", default_value = "auto")]
    pub shortcuts: Shortcuts,
    /// Ranges of the cluster's pods, whose packets count as inside beside those of the own Node's podCIDRs [default: the
    /// clusterCIDR of --config]
    #[arg(
        long,
        env = "SHUNT_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = config::range
    )]
    pub cluster_cidr: Vec<IpNet>,
    /// Whose sockets are served where they connect: those of all processes, those of the host's own network namespace, or
    /// none. What is not served here is left to the packet path or to another proxy
    #[arg(long, env = "SHUNT_SOCKET_LB", value_name = "WHOSE", default_value = "all")]
    pub socket_lb: SocketLb,
    /// Whether connected UDP sockets whose backend is gone are connected again to another. It takes hostPID and
    /// CAP_SYS_PTRACE
    #[arg(long, env = "SHUNT_MOVE_UDP", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub move_udp: bool,
    /// Whether health checks of Services (healthCheckNodePort) are answered: not beside a kube-proxy, which answers them
    #[arg(
        long,
        env = "SHUNT_HEALTH_CHECK_NODE_PORTS",
        value_name = "BOOL",
        num_args = 0..=1,
        default_value = "true",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub health_check_node_ports: bool,
    /// Whether cluster IPs that are addresses of this node's interfaces are served too, instead of being left to whoever
    /// put them there (NodeLocal DNSCache)
    #[arg(
        long,
        env = "SHUNT_SERVE_LOCAL_VIPS",
        value_name = "BOOL",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true",
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub serve_local_vips: bool,
    /// Address of /healthz, /livez and /readyz [default: 0.0.0.0:10256]
    #[arg(long, env = "SHUNT_HEALTHZ_ADDRESS", value_name = "IP:PORT")]
    pub healthz_address: Option<SocketAddr>,
    /// Address of /metrics, /status, /proxyMode, /configz and /healthz, for this node only [default: 127.0.0.1:10249]
    #[arg(long, env = "SHUNT_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Service ports with counters of their own in /metrics; the rest is added up; 0: none, and no sum
    #[arg(long, env = "SHUNT_METRICS_SERVICES", value_name = "COUNT", default_value_t = 1000)]
    pub metrics_services: usize,
    /// Form of the log on standard error; SHUNT_LOG filters it, e.g. `info,shunt::source=debug` [default: text]
    #[arg(long, env = "SHUNT_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What the eBPF programs log of single connections; costs nothing while off
    #[arg(long, env = "SHUNT_BPF_LOG_LEVEL", value_name = "LEVEL", default_value = "off")]
    pub bpf_log_level: BpfLogLevel,
}

/// `shunt verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// What the agent runs with; those that name the source, the node, its addresses and the pins matter here.
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Seconds within which the source must list, and differences must go
    #[arg(long, env = "SHUNT_WITHIN", value_name = "SECONDS", default_value = "10")]
    pub within: u64,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl AgentArgs {
    /// What the environment alone says, for a process that was started under the name of kube-proxy.
    pub fn of_environment() -> Result<Self, clap::Error> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            args: AgentArgs,
        }
        Alone::try_parse_from(["kube-proxy"]).map(|alone| alone.args)
    }
}

/// `shunt status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Where the agent answers for itself.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `shunt dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// What to list
    pub table: DumpTable,
    /// Only this Service, or only this port of it
    #[arg(long, env = "SHUNT_SERVICE", value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<ServiceFilter>,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Where the agent tells the names of service ports.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `shunt trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Who connects: `host`, `pod` (any pod of this node), or the IP address of one of them or of somebody outside
    #[arg(value_name = "SRC")]
    pub source: Asked,
    /// Where to: an IP address, IPv4:PORT or [IPv6]:PORT; without a port, every service port of the address
    #[arg(value_name = "DST")]
    pub destination: Destination,
    /// Protocol [default: tcp with a port, else every one]
    #[arg(long, env = "SHUNT_PROTO", value_name = "PROTOCOL")]
    pub proto: Option<TraceProto>,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Where the agent tells the names of service ports.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A protocol that Services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceProto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// `shunt check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Cgroup v2 directory that an agent would hook [default: the true root, recognised by inode 1]
    #[arg(long, env = "SHUNT_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Which devices it would hook.
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Address of /healthz, /livez and /readyz
    #[arg(long, env = "SHUNT_HEALTHZ_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:10256")]
    pub healthz_address: SocketAddr,
    /// Where an agent tells of itself.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `shunt cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// `shunt completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// How a command prints what it found.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long, env = "SHUNT_OUTPUT", value_name = "FORM", default_value = "table")]
    pub output: OutputForm,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// Columns for people; may change from version to version.
    Table,
    /// JSON for programs; fields are only ever added.
    Json,
    /// The same fields as YAML.
    Yaml,
}

/// What `shunt dump` can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpTable {
    /// Addresses that clients use.
    Frontends,
    /// Service ports and what each view of them does.
    Services,
    /// Endpoints in the maps.
    Backends,
    /// What clients of service ports with session affinity were given last.
    Affinity,
    /// What the packet path remembers of connections, and what became of them.
    Flows,
    /// What was picked and what was refused, and why.
    Counters,
}

/// Form of the agent's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whose sockets are served where they connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketLb {
    /// Those of all processes of the hooked cgroup.
    All,
    /// Those of the host's own network namespace only.
    Host,
    /// None: no socket hook is attached.
    Off,
}

/// When packets go past the node's network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shortcuts {
    /// While nobody there wants to see them.
    Auto,
    /// Never.
    None,
}

/// How much the eBPF programs log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BpfLogLevel {
    /// Nothing; the log calls are not even in the loaded programs.
    Off,
    /// Defects.
    Error,
    /// Connections that could not be served.
    Warn,
    /// Connections refused on purpose.
    Info,
    /// Every translated connection.
    Debug,
    /// Every connection that was looked at.
    Trace,
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
