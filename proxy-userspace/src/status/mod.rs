//! What the agent says of itself: the nouns of `/status`, and the [`Reporter`] through which its loop keeps them up
//! to date. It reads nothing from the kernel; `shunt status` sets that beside this.

mod histogram;
mod measures;
mod reporter;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::histogram::Histogram;
pub use self::measures::{Changes, Flows, Measures, Probe};
pub use self::reporter::{Batch, Health, OVERDUE, Reporter};
use crate::model::Listing;
use crate::source::kube::Connection;

/// Items of a [`Sample`] that are kept.
const SAMPLE_KEPT: usize = 100;

/// All that `/status` tells. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Who this is.
    pub agent: Identity,
    /// When the agent started.
    pub started_at: Timestamp,
    /// Seconds since then, by a clock that is never set.
    pub uptime_seconds: u64,
    /// When every source had listed and the maps held it for the first time.
    pub ready_at: Option<Timestamp>,
    /// Whether load balancers may choose this node; false once its Node is going.
    pub node_eligible: bool,
    /// The cgroup that is hooked.
    pub cgroup: Option<CgroupStatus>,
    /// Names of the hooks that should be attached.
    pub hooks: Vec<String>,
    /// What must list before anything is pruned.
    pub sources: Vec<SourceStatus>,
    /// The way into the maps.
    pub sync: SyncStatus,
    /// Service ports that the maps have no room for.
    pub refused: Sample<Refusal>,
    /// Frontends that two service ports claim.
    pub conflicts: Sample<Conflict>,
    /// Cluster IPs that are left alone, since they are addresses of this node.
    #[serde(default)]
    pub local_vips: Sample<LocalVip>,
    /// Answers to the health checks of Services.
    #[serde(default)]
    pub health_checks: HealthChecksStatus,
    /// What was wrong with the input or the host.
    pub warnings: Warnings,
    /// What is done for clients beside the tables.
    #[serde(default)]
    pub clients: ClientStatus,
    /// The packet path, if it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketStatus>,
    /// What this host makes impossible, one sentence each, e.g. restarts without a pin directory.
    pub limitations: Vec<String>,
}

/// What is done for clients beside the tables: counted since the start, unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Network namespaces whose addresses are known; now.
    pub namespaces: u64,
    /// Whether the egress guard is in force; now.
    pub is_guarded: bool,
    /// Whether sockets of pods are left to others (`--socket-lb host`).
    #[serde(default)]
    pub is_host_only: bool,
    /// Connected UDP sockets that were given another backend.
    pub udp_moved: u64,
    /// Connected UDP sockets that were sent to wait at their frontend.
    pub udp_sent_to_wait: u64,
    /// Connected UDP sockets that wait for a backend; when last looked at.
    pub udp_waiting: u64,
    /// Connected UDP sockets that were destroyed, since their descriptor could not be had.
    pub udp_destroyed: u64,
    /// Connected UDP sockets that could neither be moved nor destroyed.
    pub udp_lost: u64,
    /// Elements of the affinity table; when last looked at.
    pub affinity: u64,
}

/// What [`PacketStatus::shortcuts`] is where there are any.
pub const SHORTCUTS: &str = "auto";

/// The packet path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketStatus {
    /// How programs are attached to devices: `tcx` or `clsact`.
    pub means: String,
    /// Records of flows that there may be.
    pub flows: u32,
    /// Ports that change a client's, as `61000-65535`; `none`: there are none.
    pub ports: String,
    /// Names of the devices that should have the programs.
    pub devices: Vec<String>,
    /// Flows whose client has answered; when last swept.
    pub settled: u64,
    /// Flows that are opening; when last swept.
    pub opening: u64,
    /// When packets go past the stack: `auto` or `none`, or `none` and why this kernel lets none.
    #[serde(default)]
    pub shortcuts: String,
}

/// Who an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of its Node.
    pub node_name: String,
    /// Process id, in its own PID namespace.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Version of the map layouts.
    pub schema: u32,
    /// SHA-256 of the loaded eBPF object, in hexadecimal.
    pub object_hash: String,
}

/// The cgroup that is hooked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupStatus {
    /// Its directory, as the agent sees it.
    pub path: String,
    /// Its inode number, by which the kernel names it.
    pub id: u64,
}

/// One listing that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// What is listed.
    pub name: String,
    /// When it was first complete.
    pub listed_at: Option<Timestamp>,
    /// How its watch stands, if it comes from an API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
}

/// The way from events into the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// Batches applied since the start.
    pub batches: u64,
    /// Map operations executed since the start.
    pub ops: u64,
    /// Word stores executed since the start.
    pub stores: u64,
    /// When the last batch ended.
    pub last_at: Option<Timestamp>,
    /// How long it took, in microseconds.
    pub last_micros: u64,
    /// Service ports that wait to be written; refused ones do not count.
    pub pending: u64,
    /// Since when something has waited.
    pub pending_since: Option<Timestamp>,
    /// Why the last batch ended early; none once one has ended well.
    pub last_error: Option<String>,
}

/// A service port that the maps have no room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its label, `namespace/name:port/protocol`.
    pub service: String,
    /// What is full.
    pub table: String,
}

/// A frontend that two service ports claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Label of the service port that goes without.
    pub service: String,
    /// The frontend.
    pub frontend: String,
    /// Label of the service port that has it.
    pub holder: String,
}

/// A cluster IP that is an address of this node, and left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalVip {
    /// The address.
    pub address: IpAddr,
    /// Label of a service port that has it.
    pub service: String,
}

/// The sockets behind `healthCheckNodePort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChecksStatus {
    /// Those that are open.
    pub listening: usize,
    /// Those that cannot be opened, and are tried again.
    pub failed: Sample<FailedHealthCheck>,
}

/// A socket for health checks that cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedHealthCheck {
    /// The Service, as `namespace/name`.
    pub service: String,
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub problem: String,
}

/// How many there are, and the first of them: a full table can refuse more than anyone wants to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample<T> {
    /// All of them.
    pub count: usize,
    /// The first hundred.
    pub first: Vec<T>,
}

/// Warnings since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warnings {
    /// All of them.
    pub count: u64,
    /// The last twenty, oldest first.
    pub last: VecDeque<Warning>,
}

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// When.
    pub at: Timestamp,
    /// What, naming the object.
    pub text: String,
}

impl<T> Default for Sample<T> {
    fn default() -> Self {
        Self { count: 0, first: Vec::new() }
    }
}

impl<T> FromIterator<T> for Sample<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut sample = Self::default();
        for item in items {
            sample.count += 1;
            if sample.first.len() < SAMPLE_KEPT {
                sample.first.push(item);
            }
        }
        sample
    }
}

impl AgentStatus {
    /// Why the agent is not ready, a sentence each; empty once it has been ready.
    pub fn reasons_not_ready(&self) -> Vec<String> {
        if self.ready_at.is_some() {
            return Vec::new();
        }
        let unlisted = self.sources.iter().filter(|source| source.listed_at.is_none());
        let mut reasons: Vec<String> =
            unlisted.map(|source| format!("{} not listed yet", source.name)).collect();
        if reasons.is_empty() {
            reasons.push(match self.sync.pending {
                0 => "the maps have not been written yet".to_owned(),
                pending => format!("{pending} service ports are not in the maps yet"),
            });
        }
        reasons.extend(self.sync.last_error.iter().map(|error| format!("last batch: {error}")));
        reasons
    }
}

/// What a listing is called in status, log and `/readyz`.
pub const fn listing_name(listing: Listing) -> &'static str {
    match listing {
        Listing::Services => "services",
        Listing::EndpointSlices => "endpointslices",
        Listing::Node => "node",
        Listing::ServiceCidrs => "servicecidrs",
        Listing::NodeAddresses => "node-addresses",
    }
}
