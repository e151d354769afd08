//! Brings up what looks after clients: the guard before anything is written, the rest once the hooks are attached.

use std::path::Path;
use std::time::Instant;

use tracing::warn;

use super::AgentError;
use super::start::Cgroup;
use crate::clients::movement::Mover;
use crate::clients::processes::Processes;
use crate::clients::registry::Registry;
use crate::clients::{Clients, Guard, Parts};
use crate::config::AgentConfig;
use crate::datapath::guard::GuardHook;
use crate::datapath::load::Loaded;
use crate::datapath::pin::PinDir;
use crate::maps::clients::Affinity;
use crate::state::State;
use crate::status::Reporter;
use crate::sys;

/// Inode of the initial PID namespace: `PROC_PID_INIT_INO`.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What is done for clients.
pub(super) struct Clientele {
    guard: Guard,
    affinity: Affinity,
    /// Whether the guard could not be put in force the last time.
    has_failed: bool,
    /// Until the hooks are attached.
    parts: Option<Parts>,
    /// From then on.
    running: Option<Clients>,
}

/// The process id by which programs recognise the agent when it moves sockets; zero: it moves none.
pub(super) fn mover(config: &AgentConfig) -> u32 {
    if config.move_udp && sees_all_processes() { std::process::id() } else { 0 }
}

/// Whether processes have the numbers here by which the programs know them.
fn sees_all_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(INITIAL_PID_NAMESPACE))
}

impl Clientele {
    /// Opens everything; only the guard may act before [`Self::begin`].
    pub(super) fn new(
        config: &AgentConfig,
        loaded: &mut Loaded,
        (cgroup, pin_dir): (&Cgroup, Option<&PinDir>),
        reporter: &Reporter,
    ) -> Result<Self, AgentError> {
        let system = |step| move |source| AgentError::System { step, source };
        let maps = loaded.client_maps()?;
        let fd = cgroup.fd.try_clone().map_err(system("keep the cgroup"))?;
        let hook = GuardHook::new(loaded, (fd, cgroup.id), (pin_dir, maps.guard))?;
        let guard = Guard::new(hook, Instant::now());
        let processes = Processes::new(config.cgroup.as_deref());
        let host = sys::socket::netns_cookie().map_err(system("read SO_NETNS_COOKIE"))?;
        let outer = maps.affinity.try_clone().map_err(system("keep a map"))?;
        let parts = Parts {
            events: loaded.take_events()?,
            registry: Registry::new(maps.netns, processes.clone(), host),
            guard: guard.clone(),
            affinity: Affinity::open(outer)?,
            mover: open_mover(config, loaded, processes, reporter),
            reporter: reporter.clone(),
        };
        let affinity = Affinity::open(maps.affinity)?;
        Ok(Self { guard, affinity, has_failed: false, parts: Some(parts), running: None })
    }

    /// The hooks are attached.
    pub(super) fn begin(&mut self, reporter: &Reporter) -> Result<(), AgentError> {
        if let Err(error) = self.guard.adopt() {
            warn!(%error, "the egress guard that another agent has left stays as it is");
        }
        reporter.update(|status| status.clients.is_guarded = self.guard.is_on());
        if let Some(parts) = self.parts.take() {
            let started = Clients::start(parts);
            let started = started
                .map_err(|source| AgentError::System { step: "start the threads for clients", source })?;
            self.running = Some(started);
        }
        Ok(())
    }

    /// Makes what Services need, before the maps say so. Where the guard cannot be put in force, the programs refuse what
    /// it would have to judge: all else goes on, and this is tried again with the next change.
    pub(super) fn prepare(&mut self, state: &State, reporter: &Reporter) -> Result<(), AgentError> {
        if state.has_affinity() {
            self.affinity.ensure()?;
        }
        let outcome = self.guard.need(state.is_guard_needed(), Instant::now());
        if let Err(error) = &outcome
            && !self.has_failed
        {
            let text = format!(
                "the egress guard is not in force, and connections that it would judge are refused: {error}"
            );
            warn!("{text}");
            reporter.update(|status| status.limitations.push(text));
        }
        self.has_failed = outcome.is_err();
        Ok(())
    }

    /// The maps hold a change after which UDP sockets may have to move.
    pub(super) fn udp_changed(&self) {
        if let Some(running) = &self.running {
            running.changed();
        }
    }
}

/// What moves sockets, or the reason why nothing does.
fn open_mover(
    config: &AgentConfig,
    loaded: &mut Loaded,
    processes: Processes,
    reporter: &Reporter,
) -> Option<Mover> {
    if !config.move_udp {
        return None;
    }
    let reason = if sees_all_processes() {
        match loaded.lister() {
            Ok(list) => return Some(Mover::new(list, processes)),
            Err(error) => error.to_string(),
        }
    } else {
        "the agent is not in the initial PID namespace (hostPID)".to_owned()
    };
    let text = format!("connected UDP sockets are not moved when their backend goes: {reason}");
    warn!("{text}");
    reporter.update(|status| status.limitations.push(text));
    None
}
