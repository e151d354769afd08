//! What is looked at on a host. Whatever could not be looked at says why, and is then no good news.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::datapath::features::Feature;
use crate::datapath::probe;

/// What was seen, or why it was not.
pub type Seen<T> = Result<T, String>;

/// Everything that was looked at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What the agent judges before it starts.
    pub host: probe::Facts,
    /// The kernel's release as it says it.
    pub release: String,
    /// What the programs ask of the kernel; none: not tried.
    pub features: Option<Vec<Feature>>,
    /// The programs, loaded and let go again; none: not tried.
    pub programs: Option<Seen<Vec<Program>>>,
    /// The cgroup that an agent would hook.
    pub cgroup: Seen<Cgroup>,
    /// What runs at its hooks, in the order of attaching.
    pub hooks: Vec<Hook>,
    /// The pin directory.
    pub pins: Pins,
    /// Where this process runs.
    pub place: Place,
    /// What the network namespace is set to.
    pub network: Network,
    /// What packets from outside would meet.
    pub packets: Packets,
    /// The addresses that an agent would listen at.
    pub listeners: Vec<Listener>,
    /// kube-proxy and what it leaves behind.
    pub kube_proxy: KubeProxy,
}

/// A program that the kernel took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Whether it became machine code.
    pub is_compiled: bool,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its inode number.
    pub id: u64,
    /// Whether it is the root of the tree.
    pub is_root: bool,
    /// The directory, if one was named.
    pub given: Option<PathBuf>,
}

/// A hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: &'static str,
    /// The programs that run there, in order.
    pub programs: Seen<Vec<Attached>>,
}

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its id.
    pub id: u32,
    /// Its name, cut to 15 bytes by the kernel; empty if it has none.
    pub name: Seen<String>,
    /// Whether a link in the pin directory holds it there.
    pub is_pinned_here: bool,
}

/// The pin directory and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it, or the nearest directory above it that exists, is on a bpffs.
    pub is_on_bpffs: bool,
    /// Whether process 1 has that bpffs mounted too.
    pub is_of_process_1: Seen<bool>,
    /// What is in it.
    pub contents: Seen<PinContents>,
}

/// What is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinContents {
    /// Directories of maps, e.g. `v2` and `sockets1`.
    pub layouts: Vec<String>,
    /// Those that this version does not use.
    pub others: Vec<String>,
    /// How a map in the directories of this version differs from what this version wants; none: in nothing.
    pub foreign_map: Seen<Option<String>>,
    /// Links.
    pub links: Seen<Vec<PinnedLink>>,
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// Name of the hook.
    pub hook: &'static str,
    /// Cgroup that it is at; zero once that has gone.
    pub cgroup_id: u64,
}

/// The namespaces of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether the PID namespace is the one that the kernel started with.
    pub is_initial_pid_namespace: Seen<bool>,
    /// Whether process 1 is in the same network namespace.
    pub shares_network_of_process_1: Seen<bool>,
}

/// What the network namespace is set to; none: it has no such setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// `net.ipv4.ip_forward`.
    pub ipv4_forwarding: Option<String>,
    /// `net.ipv6.conf.all.forwarding`.
    pub ipv6_forwarding: Option<String>,
    /// `net.ipv6.conf.all.disable_ipv6`.
    pub ipv6_disabled: Option<String>,
    /// `kernel.unprivileged_bpf_disabled`, which is the kernel's and not the namespace's.
    pub unprivileged_bpf_disabled: Option<String>,
    /// Interfaces with their addresses.
    pub addresses: Seen<Vec<(String, IpAddr)>>,
    /// Which of these are in a ServiceCIDR, as pinned maps know it; none: no maps are pinned.
    pub service_addresses: Option<Seen<Vec<(String, IpAddr)>>>,
}

/// What packets from outside would meet on their way; a setting is none where there is no such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packets {
    /// The devices that an agent would hook; none: it is to hook none.
    pub devices: Option<Seen<Vec<Device>>>,
    /// Names and patterns that no device has, with the flag that gives them.
    pub unmatched: Vec<(&'static str, String)>,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter: Option<String>,
    /// `net.ipv4.conf.all.send_redirects`.
    pub send_redirects: Option<String>,
    /// `net.ipv4.ip_local_port_range`.
    pub ephemeral_ports: Option<String>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved_ports: Option<String>,
    /// Chains of nftables at the hook of forwarded packets.
    pub forward: Seen<Vec<ForwardChain>>,
    /// Chains of nftables in which a rule drops what connection tracking calls invalid.
    pub invalid_drops: Seen<Vec<String>>,
}

/// A device that an agent would hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether it leads to pods of this node.
    pub leads_to_pods: bool,
    /// `net.ipv4.conf.<device>.forwarding`.
    pub forwarding: Option<String>,
    /// `net.ipv4.conf.<device>.rp_filter`.
    pub rp_filter: Option<String>,
    /// `net.ipv4.conf.<device>.send_redirects`.
    pub send_redirects: Option<String>,
    /// Programs that run where packets enter, in order.
    pub ingress: Seen<Vec<Attached>>,
    /// Programs that run where they leave.
    pub egress: Seen<Vec<Attached>>,
}

/// A chain of nftables at the hook of forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChain {
    /// Family, table and name.
    pub name: String,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
    /// Its rules that accept, or have another chain decide.
    pub ways_out: usize,
}

/// An address that an agent would listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The flag that names it.
    pub flag: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Who has it.
    pub holder: Holder,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A running agent.
    Agent,
    /// Another program; with what it says of its mode, if it is a kube-proxy.
    Another(Option<String>),
    /// The system does not let this process listen there at all.
    Refused(String),
}

/// kube-proxy and what it leaves behind in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeProxy {
    /// Running ones.
    pub processes: Seen<Vec<Process>>,
    /// Tables of nftables by family and name.
    pub tables: Seen<Vec<(String, String)>>,
    /// Chains that have kube-proxy's names, by table and name.
    pub chains: Seen<Vec<(String, String)>>,
    /// Tables of the older iptables, whose chains are not seen.
    pub legacy_tables: Seen<Vec<String>>,
    /// Virtual services of IPVS.
    pub virtual_services: Seen<usize>,
}

/// A running kube-proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// Whether it is in the network namespace of this process.
    pub shares_network: Seen<bool>,
}
