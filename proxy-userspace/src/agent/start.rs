//! Brings the datapath up: judge the host, adopt or make the maps, load the programs; attach once the maps are right.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use proxy_common::names::SCHEMA;
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::bootstrap;
use super::clients::{self, Clientele};
use super::packet::PacketPath;
use super::programming::Programming;
use super::report::Refusals;
use super::sync::{AdoptError, Sync, SyncOptions};
use super::{AgentError, Variant};
use crate::cli::SocketLb;
use crate::config::{AgentConfig, SourceConfig};
use crate::datapath::DatapathError;
use crate::datapath::attach::Links;
use crate::datapath::hooks::HOOKS;
use crate::datapath::load::{LoadOptions, Loaded, OBJECT};
use crate::datapath::pin::{MapSet, PinDir};
use crate::datapath::probe::counter_shards;
use crate::datapath::{logs, probe};
use crate::events::{Limits, Reason, Recorder};
use crate::health::{self, Listen, Pages};
use crate::health_checks::{self, HealthChecks};
use crate::kubeproxy;
use crate::maps::reading::MapsReader;
use crate::maps::store::KernelStore;
use crate::metrics::Scraper;
use crate::model::Listing;
use crate::plan::local_vips::LeftAlone;
use crate::plan::rules::Rules;
use crate::source::kube::{Bounds, Connections};
use crate::status::{CgroupStatus, Identity, Reporter};
use crate::sys;

/// An agent whose programs are loaded.
pub(super) struct Node {
    pub(super) sync: Sync<KernelStore>,
    pub(super) programming: Programming,
    pub(super) reporter: Reporter,
    pub(super) events: Recorder,
    /// The servers that answer the health checks of Services.
    pub(super) health_checks: HealthChecks,
    /// Whether they are wanted.
    pub(super) answers_health_checks: bool,
    /// How the watches of an API server stand, if one is followed.
    pub(super) connections: Option<Connections>,
    /// What was last said of the way to the API server.
    dependence: Option<String>,
    pub(super) refusals: Refusals,
    /// Cluster IPs that were said to be left alone.
    pub(super) left_alone: BTreeSet<LeftAlone>,
    pub(super) expected: Vec<Listing>,
    /// Whether load balancers may choose this node only while the source knows its Node, as with kube-proxy. Manifests
    /// need none.
    pub(super) needs_node_object: bool,
    /// What is done for clients beside the tables.
    pub(super) clientele: Clientele,
    /// What is done for packets.
    pub(super) packet: PacketPath,
    loaded: Loaded,
    cgroup: Cgroup,
    /// `None`: the pin directory is on no bpffs, and nothing outlives the process.
    pin_dir: Option<PinDir>,
    socket_lb: SocketLb,
    /// Open while the hooks are attached; empty where none are to be.
    links: Option<Links>,
}

/// The cgroup that is hooked.
pub(super) struct Cgroup {
    pub(super) fd: OwnedFd,
    pub(super) id: u64,
    path: String,
}

impl Node {
    /// Loads everything; nothing is attached yet.
    pub(super) fn start(config: &AgentConfig, variant: &Variant) -> Result<Self, AgentError> {
        let schema = variant.schema.unwrap_or(SCHEMA);
        let facts = probe::gather(config.cgroup.is_some(), &PinDir::new(&config.pin_dir, schema));
        let missing = probe::missing(&facts);
        if !missing.is_empty() {
            return Err(AgentError::Unfit(missing));
        }
        if config.bind_address_hard_fail {
            can_listen([config.healthz_address, config.metrics_address])?;
        }
        if let Err(error) = sys::files::raise_limit() {
            warn!(%error, limit = sys::files::limit(), "the limit of open files stays as it is");
        }
        let cgroup = Cgroup::open(config.cgroup.as_deref())?;
        let pin_dir = prepare_pins(&config.pin_dir, schema)?;
        let object = variant.object.as_deref().unwrap_or(OBJECT);
        let expected = Listing::ALL.to_vec();
        let load = load_options(config, object, pin_dir.as_ref())?;
        let (mut loaded, sync) = take_over(&load, &sync_options(config, variant, &expected))?;
        logs::forward(&mut loaded, config.bpf_log_level as u8)?;
        let reporter = Reporter::new(identity(config, variant, object), &expected);
        describe(&reporter, config.socket_lb, &cgroup, pin_dir.is_some());
        reporter.judge_after(config.pacing.sync_period.saturating_mul(2));
        reporter.update(|status| status.limitations.extend(probe::limitations(&facts)));
        let packet = PacketPath::load(config, variant, &load, &reporter);
        let events = announce(config, &reporter);
        // Only now: the writer has made what the reader looks for.
        let reader = MapsReader::new(loaded.kernel_maps()?, counter_shards());
        let (health_checks, servers) = health_checks::channel(reporter.clone());
        health::start(listen(config), pages(config, &reporter, reader), servers)
            .map_err(|source| AgentError::System { step: "start the HTTP thread", source })?;
        let clientele = Clientele::new(config, &mut loaded, (&cgroup, pin_dir.as_ref()), &reporter)?;
        let programming = Programming::new(Timestamp::now().as_millisecond());
        let needs_node_object = matches!(config.source, SourceConfig::Api { .. });
        Ok(Self {
            clientele,
            packet,
            sync,
            programming,
            reporter,
            events,
            health_checks,
            answers_health_checks: config.health_check_node_ports,
            connections: None,
            dependence: None,
            refusals: Refusals::default(),
            left_alone: BTreeSet::new(),
            expected,
            needs_node_object,
            loaded,
            cgroup,
            pin_dir,
            links: None,
            socket_lb: config.socket_lb,
        })
    }

    /// The watches of an API server, if one is followed.
    pub(super) fn connect(&mut self, connections: Option<&Connections>) {
        if let Some(connections) = connections {
            self.reporter.connect(connections.clone());
            self.connections = Some(connections.clone());
        }
    }

    /// Says whether the API server is reached through a cluster IP, if that has changed.
    pub(super) fn judge_bootstrap(&mut self) {
        let Some(connections) = &self.connections else { return };
        let found = bootstrap::dependence(&connections.peers(), self.sync.state());
        if found == self.dependence {
            return;
        }
        if let Some(text) = &found {
            warn!("{text}");
            self.events.note(Reason::HostLimitation, text.as_str());
        }
        let before = std::mem::replace(&mut self.dependence, found);
        self.reporter.update(|status| {
            status.limitations.retain(|limitation| Some(limitation) != before.as_ref());
            status.limitations.extend(self.dependence.clone());
        });
    }

    /// Attaches the hooks, or puts the programs under the links that are there; once.
    pub(super) fn attach(&mut self) -> Result<(), AgentError> {
        if self.links.is_some() {
            return Ok(());
        }
        if self.socket_lb == SocketLb::Off {
            return self.leave_sockets_alone();
        }
        let cgroup = (self.cgroup.fd.as_fd(), self.cgroup.id);
        let (links, outcomes) = Links::attach(&self.loaded, cgroup, self.pin_dir.as_ref())?;
        for (hook, outcome) in outcomes {
            info!(hook = hook.name, ?outcome, cgroup = %self.cgroup.path, "attached");
        }
        self.links = Some(links);
        self.clientele.begin(&self.reporter)?;
        self.packet.put_in_force()?;
        self.events
            .note(Reason::Ready, "the maps hold what every source has listed, and the hooks are attached");
        self.remove_other_maps()
    }

    /// Takes away the hooks that an agent with other flags has left.
    fn leave_sockets_alone(&mut self) -> Result<(), AgentError> {
        if let Some(pin_dir) = &self.pin_dir {
            for hook in Links::detach_pinned(pin_dir)? {
                info!(hook, "detached, since --socket-lb is off");
            }
        }
        self.links = Some(Links::default());
        self.packet.put_in_force()?;
        self.events.note(Reason::Ready, "the maps hold what every source has listed; --socket-lb is off");
        self.remove_other_maps()
    }

    /// The programs that used the maps of another layout are gone only once the hooks are attached, and those at devices.
    fn remove_other_maps(&self) -> Result<(), AgentError> {
        if let Some(pin_dir) = self.pin_dir.as_ref().filter(|_| self.packet.is_settled()) {
            for maps in pin_dir.remove_other_sets()? {
                info!(maps, "removed the maps of another layout");
            }
        }
        Ok(())
    }
}

impl Cgroup {
    fn open(given: Option<&Path>) -> Result<Self, AgentError> {
        let fd = sys::cgroup::open_or_root(given)?;
        let id = sys::cgroup::id(&fd)
            .map_err(|source| AgentError::System { step: "read the id of the cgroup", source })?;
        let path = given.map_or_else(|| "/".to_owned(), |path| path.display().to_string());
        Ok(Self { fd, id, path })
    }
}

/// Finds out before anything else is done. Between this and the servers' own start somebody may still come first; they
/// then try again, as without `bindAddressHardFail`.
fn can_listen(addresses: [SocketAddr; 2]) -> Result<(), AgentError> {
    for address in addresses {
        TcpListener::bind(address).map_err(|source| AgentError::Bind { address, source })?;
    }
    Ok(())
}

/// Makes the pin directory, or explains why there will be none.
fn prepare_pins(root: &Path, schema: u32) -> Result<Option<PinDir>, DatapathError> {
    if !PinDir::is_on_bpffs(root) {
        warn!(pin_dir = %root.display(), "not on a bpffs: nothing is pinned, and a restart will not be hitless");
        return Ok(None);
    }
    let pin_dir = PinDir::new(root, schema);
    pin_dir.create()?;
    for set in MapSet::ALL {
        if let Some(difference) = pin_dir.foreign_map(set)? {
            set_aside(&pin_dir, set, &difference)?;
        }
    }
    Ok(Some(pin_dir))
}

/// Lets a fresh set of maps take the place of the pinned ones, which no writer of this version can have left like this.
fn set_aside(pin_dir: &PinDir, set: MapSet, reason: &str) -> Result<(), DatapathError> {
    let aside = pin_dir.set_aside(set)?;
    warn!(reason, aside = %aside.display(), "set foreign maps aside; programs use them until ours are right");
    Ok(())
}

/// Loads the programs and adopts what their maps hold. Pinned maps that make no sense are set aside, and a fresh set is
/// there to be filled: to refuse them would be to refuse them at every start.
fn take_over(
    load: &LoadOptions<'_>,
    options: &SyncOptions,
) -> Result<(Loaded, Sync<KernelStore>), AgentError> {
    match (load_and_adopt(load, options), load.pin_dir) {
        (Err(AgentError::Adopt(error @ AdoptError::Contradiction(_))), Some(pin_dir)) => {
            set_aside(pin_dir, MapSet::Tables, &error.to_string())?;
            load_and_adopt(load, options)
        }
        (taken, _) => taken,
    }
}

fn load_options<'a>(
    config: &AgentConfig,
    object: &'a [u8],
    pin_dir: Option<&'a PinDir>,
) -> Result<LoadOptions<'a>, AgentError> {
    let cookie = sys::socket::netns_cookie();
    Ok(LoadOptions {
        object,
        pin_dir,
        host_netns: cookie.map_err(|source| AgentError::System { step: "read SO_NETNS_COOKIE", source })?,
        counter_shards: counter_shards(),
        mover: clients::mover(config),
        host_only: config.socket_lb == SocketLb::Host,
        log_level: config.bpf_log_level as u8,
    })
}

fn load_and_adopt(
    load: &LoadOptions<'_>,
    options: &SyncOptions,
) -> Result<(Loaded, Sync<KernelStore>), AgentError> {
    let loaded = Loaded::new(load)?;
    let store = KernelStore::open(loaded.kernel_maps()?)?;
    Ok((loaded, Sync::adopt(store, options.clone())?))
}

fn sync_options(config: &AgentConfig, variant: &Variant, expected: &[Listing]) -> SyncOptions {
    let rules = Rules::for_shards(counter_shards());
    SyncOptions {
        node_name: config.node_name.clone(),
        node_ports: config.nodeport_addresses.clone(),
        serve_local_vips: config.serve_local_vips,
        expected: expected.to_vec(),
        rules: Rules { limits: variant.limits.unwrap_or(rules.limits), ..rules },
        order: variant.order,
    }
}

/// Tells the API server that the agent starts, and what the host does not let it do.
fn announce(config: &AgentConfig, reporter: &Reporter) -> Recorder {
    let name = &config.node_name;
    let SourceConfig::Api { access, .. } = &config.source else { return Recorder::silent(name) };
    let bounds = (Bounds::default(), Limits::default());
    let mut events = Recorder::start(access.clone(), bounds, name).unwrap_or_else(|error| {
        warn!(%error, "no thread to write Events; the agent does without them");
        Recorder::silent(name)
    });
    events.note(Reason::Starting, concat!("shunt ", env!("CARGO_PKG_VERSION"), " starts"));
    for limitation in reporter.snapshot().limitations {
        events.note(Reason::HostLimitation, limitation);
    }
    events
}

fn listen(config: &AgentConfig) -> Listen {
    Listen { healthz: config.healthz_address, metrics: config.metrics_address, must_bind: false }
}

fn pages(config: &AgentConfig, reporter: &Reporter, reader: MapsReader) -> Pages {
    let scraper = Scraper::new(reporter.clone(), Some(reader), config.metrics_services);
    let configz = Arc::new(kubeproxy::configz(&config.configuration));
    Pages { reporter: reporter.clone(), metrics: Arc::new(scraper), configz }
}

fn identity(config: &AgentConfig, variant: &Variant, object: &[u8]) -> Identity {
    Identity {
        node_name: config.node_name.clone(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: variant.schema.unwrap_or(SCHEMA),
        object_hash: format!("{:x}", Sha256::digest(object)),
    }
}

fn describe(reporter: &Reporter, socket_lb: SocketLb, cgroup: &Cgroup, is_pinned: bool) {
    reporter.update(|status| {
        status.cgroup = Some(CgroupStatus { path: cgroup.path.clone(), id: cgroup.id });
        status.clients.is_host_only = socket_lb == SocketLb::Host;
        if socket_lb != SocketLb::Off {
            status.hooks = HOOKS.iter().map(|hook| hook.name.to_owned()).collect();
        }
        if !is_pinned {
            status.limitations.push(
                "the pin directory is not on a bpffs: nothing is pinned, and a restart is not hitless"
                    .to_owned(),
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        can_listen([free, free]).unwrap();
        let error = can_listen([free, address]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("listen on {address} (bindAddressHardFail): ")), "{error}");
    }
}
