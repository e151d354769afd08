//! `shunt status`: what runs, as three witnesses tell it: the kernel (hooks), the maps (fill) and the agent.
//!
//! The kernel and the maps are asked through the pins, so that this works while no agent runs; what is attached
//! without pins is seen by the agent alone.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use proxy_common::names::SCHEMA;
use proxy_common::shortcut::Reason;
use serde::Serialize;

use super::{Exit, is_denied, print};
use crate::cli::StatusArgs;
use crate::datapath::attach::pinned_links;
use crate::datapath::hooks::HOOKS;
use crate::datapath::load::open_pinned_maps;
use crate::datapath::packet::looks::{Found, Looks};
use crate::datapath::packet::observed::{Observed, observe};
use crate::datapath::packet::strangers::Stranger;
use crate::datapath::pin::PinDir;
use crate::health::get;
use crate::maps::fill::{MapFill, fill};
use crate::maps::store::KernelStore;
use crate::status::{AgentStatus, SHORTCUTS};
use crate::sys::bpf;
use crate::sys::clock::monotonic_now;
use crate::sys::link::Side;

mod render;

/// All that `shunt status` tells. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    /// Where was looked for pins.
    pub pin_dir: PathBuf,
    /// What the agent says of itself.
    pub agent: AgentAnswer,
    /// Hooks with a pinned link, in the order of attaching.
    pub hooks: Vec<ObservedHook>,
    /// Hooks without one.
    pub missing_hooks: Vec<&'static str>,
    /// Sides of devices that have a program, in the order of the devices.
    pub devices: Vec<ObservedDevice>,
    /// Devices that should have programs, and lack one.
    pub missing_devices: Vec<String>,
    /// How full the maps are; empty where none are pinned.
    pub maps: Vec<MapFill>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// What the agent says of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentAnswer {
    /// Its status, if one answered.
    pub status: Option<AgentStatus>,
    /// Why none did.
    pub absent: Option<String>,
}

/// One hook as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObservedHook {
    /// Name of the hook, e.g. `connect4`.
    pub name: &'static str,
    /// Id of the program that runs there.
    pub program_id: u32,
    /// The program's tag in hexadecimal, as bpftool prints it.
    pub program_tag: String,
    /// Inode number of the cgroup; zero once that cgroup has been removed, when nothing runs there any more.
    pub cgroup_id: u64,
    /// The cgroup's directory, where it is known.
    pub path: Option<PathBuf>,
}

/// A side of a device as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObservedDevice {
    /// Name of the device; `None`: it has gone, and nothing runs there any more.
    pub device: Option<String>,
    /// Its index.
    pub index: u32,
    /// `ingress` or `egress`.
    pub hook: &'static str,
    /// `tcx` or `clsact`.
    pub means: &'static str,
    /// Id of the program that runs there.
    pub program_id: u32,
    /// The program's tag in hexadecimal, as bpftool prints it.
    pub program_tag: String,
    /// Programs of others at the same place.
    pub others: Vec<OtherProgram>,
    /// Whether packets that enter here may go past the stack; `None`: packets leave here, or there is no such way.
    pub shortcuts: Option<ObservedShortcuts>,
}

/// What was found where packets enter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObservedShortcuts {
    /// `never` (a port of a bridge, or pods without a pair of devices of their own), `not asked yet`, `open`, `open to
    /// IPv4`, `open to IPv6` or `shut`.
    pub state: &'static str,
    /// Who is in the way, in words.
    pub in_the_way: Vec<&'static str>,
    /// How long ago that was found; packets look anew every few milliseconds.
    pub seconds_ago: Option<f64>,
}

/// A program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherProgram {
    /// Its name, or the kind of filter.
    pub name: String,
    /// Its id; zero: a filter that is none of bpf.
    pub id: u32,
    /// Whether it stands between the wire and ours.
    pub is_outside: bool,
}

/// Asks everyone, and prints what they say. That nothing runs is an answer, not an error.
pub fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = runtime.block_on(ask_agent(args));
    let root = &args.pin.pin_dir;
    let mut notes = Vec::new();
    let hooks = observed_hooks(root, agent.status.as_ref())
        .map_err(|error| if is_denied(&error) { error.context(Exit::Unfit) } else { error })?;
    // An agent that wants none leaves what was found for another.
    let packet = agent.status.as_ref().and_then(|status| status.packet.as_ref());
    let has_shortcuts = packet.is_none_or(|packet| packet.shortcuts == SHORTCUTS);
    let devices = observed_devices(root, has_shortcuts).unwrap_or_else(|error| {
        notes.push(format!("devices: {error:#}"));
        Vec::new()
    });
    let maps = map_fill(root).unwrap_or_else(|error| {
        notes.push(format!("maps: {error:#}"));
        Vec::new()
    });
    let is_observed = |name| hooks.iter().any(|hook: &ObservedHook| hook.name == name);
    let missing_hooks = HOOKS.iter().map(|hook| hook.name).filter(|name| !is_observed(*name)).collect();
    let missing_devices = missing_devices(agent.status.as_ref(), &devices);
    let pin_dir = root.clone();
    let report = StatusReport { pin_dir, agent, hooks, missing_hooks, devices, missing_devices, maps, notes };
    print(args.output.output, &report, render::table)?;
    Ok(Exit::Done)
}

async fn ask_agent(args: &StatusArgs) -> AgentAnswer {
    let absent = |reason: String| AgentAnswer { status: None, absent: Some(reason) };
    match get(args.metrics.metrics_address, "/status").await {
        Err(error) => absent(error.to_string()),
        Ok((code, body)) if code.is_success() => match serde_json::from_slice(&body) {
            Ok(status) => AgentAnswer { status: Some(status), absent: None },
            Err(error) => {
                absent(format!("{} is not an agent of this version: {error}", args.metrics.metrics_address))
            }
        },
        Ok((code, _)) => absent(format!("{} answers {code}", args.metrics.metrics_address)),
    }
}

/// The hooks pinned under `root`, read from the kernel.
fn observed_hooks(root: &Path, agent: Option<&AgentStatus>) -> anyhow::Result<Vec<ObservedHook>> {
    // A directory that may not be entered must not look like one without pins.
    match std::fs::read_dir(root.join("links")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome.map(drop).with_context(|| format!("read {}", root.display()))?,
    }
    let links = pinned_links(root).context("read the pinned links")?;
    let mut hooks = Vec::new();
    for (hook, link) in links {
        let program = bpf::program_by_id(link.program_id)
            .and_then(|fd| bpf::program_facts(fd.as_fd()))
            .with_context(|| format!("read the program of {}", hook.name))?;
        hooks.push(ObservedHook {
            name: hook.name,
            program_id: link.program_id,
            program_tag: format!("{:016x}", u64::from_be_bytes(program.tag)),
            cgroup_id: link.cgroup_id,
            path: cgroup_path(link.cgroup_id, agent),
        });
    }
    Ok(hooks)
}

/// The devices of the pin directory `root`, read from the kernel.
fn observed_devices(root: &Path, has_shortcuts: bool) -> anyhow::Result<Vec<ObservedDevice>> {
    let mut devices = Vec::new();
    let pin_dir = PinDir::new(root, SCHEMA);
    let looks = Looks::open(&pin_dir).context("read what was found at devices")?;
    for observed in observe(&pin_dir).context("read the devices")? {
        let Observed { index, name, side, means, program_id, strangers } = observed;
        let program = bpf::program_by_id(program_id).and_then(|fd| bpf::program_facts(fd.as_fd()));
        let tag = program.with_context(|| format!("read the program of device {index}"))?.tag;
        let others = strangers.into_iter().map(|stranger| {
            let Stranger { id, name, is_outside } = stranger;
            OtherProgram { name, id, is_outside }
        });
        let looks = looks.as_ref().filter(|_| has_shortcuts && side == Side::Ingress);
        let found = looks.map(|looks| looks.of(index, monotonic_now)).transpose();
        let found = found.with_context(|| format!("read what was found at device {index}"))?;
        devices.push(ObservedDevice {
            device: name,
            index,
            hook: side.name(),
            means: means.name(),
            program_id,
            program_tag: format!("{:016x}", u64::from_be_bytes(tag)),
            others: others.collect(),
            shortcuts: found.map(shortcuts),
        });
    }
    Ok(devices)
}

fn shortcuts(found: Found) -> ObservedShortcuts {
    let (state, in_the_way, seconds_ago) = match found {
        Found::Never => ("never", Vec::new(), None),
        Found::NotLooked => ("not asked yet", Vec::new(), None),
        Found::Looked(reasons, ago) => {
            let state = match *reasons {
                [] => "open",
                [Reason::NetfilterV6] => "open to IPv4",
                [Reason::NetfilterV4] => "open to IPv6",
                _ => "shut",
            };
            (state, reasons.into_iter().map(Reason::words).collect(), Some(ago.as_secs_f64()))
        }
    };
    ObservedShortcuts { state, in_the_way, seconds_ago }
}

/// Devices that the agent means to have programs at, and that lack one at either side.
fn missing_devices(agent: Option<&AgentStatus>, observed: &[ObservedDevice]) -> Vec<String> {
    let wanted = agent.and_then(|status| status.packet.as_ref()).map(|packet| packet.devices.as_slice());
    let has = |name: &String, hook| {
        observed.iter().any(|side| side.device.as_ref() == Some(name) && side.hook == hook)
    };
    let wanted = wanted.unwrap_or_default().iter();
    wanted.filter(|name| !(has(name, "ingress") && has(name, "egress"))).cloned().collect()
}

/// The directory of a cgroup: a mounted root, or the one the agent was given.
fn cgroup_path(id: u64, agent: Option<&AgentStatus>) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let given = agent.and_then(|status| status.cgroup.as_ref()).map(|cgroup| PathBuf::from(&cgroup.path));
    cgroup_mounts(&mounts)
        .map(PathBuf::from)
        .chain(given)
        .find(|path| std::fs::metadata(path).is_ok_and(|found| found.ino() == id))
}

fn cgroup_mounts(mounts: &str) -> impl Iterator<Item = &str> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(path)
    })
}

fn map_fill(root: &Path) -> anyhow::Result<Vec<MapFill>> {
    let pin_dir = PinDir::new(root, SCHEMA);
    if !pin_dir.maps().exists() {
        return Ok(Vec::new());
    }
    let maps = open_pinned_maps(&pin_dir)?;
    // Opening a store gives a fresh set its first hash, which is the agent's to do.
    if maps.frontends.inner(0).context("read the frontends")?.is_none() {
        return Ok(Vec::new());
    }
    Ok(fill(&KernelStore::open(maps)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{MetricsArgs, OutputArgs, OutputForm, PinArgs};

    #[test]
    fn cgroup_mounts_are_found_in_a_hybrid_hierarchy() {
        let mounts =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nnone /sys/fs/cgroup/unified cgroup2 rw 0 0\nbad\n";
        assert_eq!(cgroup_mounts(mounts).collect::<Vec<_>>(), ["/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn a_pin_directory_that_is_not_there_has_no_hooks_and_no_maps() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(observed_hooks(&scratch.path().join("absent"), None).unwrap(), []);
        assert_eq!(map_fill(scratch.path()).unwrap(), []);
    }

    #[test]
    fn an_unreadable_pin_directory_is_no_empty_one() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("links"), "a file, not a directory").unwrap();
        assert!(observed_hooks(scratch.path(), None).is_err());
        let refusal = anyhow::Error::new(io::Error::from(io::ErrorKind::PermissionDenied)).context("read");
        assert!(is_denied(&refusal) && !is_denied(&anyhow::anyhow!("another")));
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_told_why() {
        let free = std::net::TcpListener::bind("127.1.0.4:0").unwrap().local_addr().unwrap();
        let args = StatusArgs {
            pin: PinArgs { pin_dir: "/absent".into() },
            metrics: MetricsArgs { metrics_address: free },
            output: OutputArgs { output: OutputForm::Json },
        };
        let answer = ask_agent(&args).await;
        assert_eq!(answer.status, None);
        assert!(answer.absent.unwrap().starts_with(&format!("connect to {free}: ")));
    }
}
