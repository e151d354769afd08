//! The kernel's answers about programs, hooks and pins.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proxy_common::names::SCHEMA;
use rustix::fs::{major, minor};

use super::place;
use crate::check::facts::{self, Attached, Hook, PinContents, PinnedLink, Pins, Program, Seen};
use crate::datapath::attach::pinned_links;
use crate::datapath::features::{self, Feature};
use crate::datapath::hooks::{self, HOOKS};
use crate::datapath::load::{LoadOptions, Loaded, OBJECT};
use crate::datapath::pin::{self, MapSet, PinDir, names_in};
use crate::datapath::probe::{self, REQUIRED, counter_shards};
use crate::sys::{bpf, cgroup, link};

/// An open cgroup.
pub(super) struct Cgroup {
    fd: OwnedFd,
    id: u64,
}

impl Cgroup {
    /// Opens it as the agent does.
    pub(super) fn open(given: Option<&Path>) -> Seen<Self> {
        let fd = cgroup::open_or_root(given).map_err(|error| sentence(&error))?;
        let id = cgroup::id(&fd).map_err(|error| error.to_string())?;
        Ok(Self { fd, id })
    }

    pub(super) fn facts(&self, given: Option<&Path>) -> facts::Cgroup {
        facts::Cgroup { id: self.id, is_root: self.id == cgroup::ROOT_ID, given: given.map(Path::to_owned) }
    }
}

/// What the programs ask of the kernel, and whether it takes them; neither without the rights to ask.
pub(super) fn try_out(host: &probe::Facts) -> (Option<Vec<Feature>>, Option<Seen<Vec<Program>>>) {
    if !REQUIRED.iter().all(|(capability, _)| host.may(*capability)) {
        return (None, None);
    }
    (Some(features::probe()), Some(programs()))
}

/// Loads the programs as the agent does, with maps of their own. Nothing is attached, and all of it ends here.
fn programs() -> Seen<Vec<Program>> {
    let options = LoadOptions {
        object: OBJECT,
        pin_dir: None,
        host_netns: 0,
        counter_shards: counter_shards(),
        mover: 0,
        host_only: false,
        log_level: 0,
    };
    let loaded = Loaded::new(&options).and_then(|loaded| loaded.program_facts());
    let program = |facts: bpf::ProgramFacts| Program {
        verified_instructions: facts.verified_instructions,
        is_compiled: facts.machine_code_bytes > 0,
    };
    loaded.map(|facts| facts.into_iter().map(program).collect()).map_err(|error| {
        // The rest is the verifier's log, which is for developers.
        error.to_string().lines().next().unwrap_or_default().to_owned()
    })
}

/// What runs at each hook of the cgroup.
pub(super) fn hooks(cgroup: &Seen<Cgroup>, pin_dir: &Path) -> Vec<Hook> {
    // Why pins cannot be read is told with the pins.
    let pinned = pinned_links(pin_dir).unwrap_or_default();
    let attached = |id: u32| Attached {
        id,
        name: program_name(id).map_err(|error| error.to_string()),
        is_pinned_here: pinned.iter().any(|(_, link)| link.program_id == id),
    };
    let hook = |hook: hooks::Hook| {
        let cgroup = cgroup.as_ref().map_err(|_| "there is no cgroup to look at".to_owned());
        let programs = cgroup.and_then(|cgroup| {
            let ids = link::programs_of(cgroup.fd.as_fd(), hook.attach_type);
            ids.map(|ids| ids.into_iter().map(attached).collect()).map_err(|error| error.to_string())
        });
        Hook { name: hook.name, programs }
    };
    HOOKS.map(hook).into()
}

/// The name of a program.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let program = bpf::program_by_id(id)?;
    Ok(bpf::program_facts(program.as_fd())?.name)
}

/// The pin directory and what is in it.
pub(super) fn pins(dir: &Path) -> Pins {
    Pins {
        dir: dir.to_owned(),
        is_on_bpffs: PinDir::is_on_bpffs(dir),
        is_of_process_1: is_mounted_by_process_1(dir),
        contents: contents(dir).map_err(|error| error.to_string()),
    }
}

/// Each mount of a bpffs is a file system of its own, so its device number tells whose it is.
fn is_mounted_by_process_1(dir: &Path) -> Seen<bool> {
    if !place::is_initial_pid_namespace()? {
        return Err("process 1 of this PID namespace is not the host's".to_owned());
    }
    let found = dir.ancestors().find_map(|path| fs::metadata(path).ok());
    let device = found.ok_or_else(|| "no directory above it can be read".to_owned())?.dev();
    let mounts =
        fs::read_to_string("/proc/1/mountinfo").map_err(|error| format!("mounts of process 1: {error}"))?;
    let device = format!("{}:{}", major(device), minor(device));
    Ok(mounts.lines().any(|line| line.split(' ').nth(2) == Some(&device)))
}

fn contents(dir: &Path) -> io::Result<PinContents> {
    let mut layouts: Vec<String> = names_in(dir)?.into_iter().filter(|name| pin::is_map_set(name)).collect();
    layouts.sort_unstable();
    let pin_dir = PinDir::new(dir, SCHEMA);
    let others = pin_dir.other_sets().map_err(io::Error::other)?;
    let first = |found: Option<String>, set| match found {
        None => pin_dir.foreign_map(set),
        found => Ok(found),
    };
    let foreign_map = MapSet::ALL.into_iter().try_fold(None, first).map_err(|error| error.to_string());
    Ok(PinContents { layouts, others, foreign_map, links: links(dir) })
}

fn links(dir: &Path) -> Seen<Vec<PinnedLink>> {
    // A directory that may not be entered must not look like one without links.
    names_in(&dir.join("links")).map_err(|error| error.to_string())?;
    let links = pinned_links(dir).map_err(|error| error.to_string())?;
    let pinned =
        links.into_iter().map(|(hook, link)| PinnedLink { hook: hook.name, cgroup_id: link.cgroup_id });
    Ok(pinned.collect())
}

/// An error with what lies behind it.
pub(super) fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
