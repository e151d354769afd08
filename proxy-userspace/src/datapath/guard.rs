//! The egress guard's hook: attached and detached while the agent runs, where all others are attached once.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::DatapathError;
use super::attach;
use super::hooks::GUARD;
use super::load::Loaded;
use super::pin::PinDir;
use crate::sys::link::Link;
use crate::sys::map::Map;

/// The hook, and the word by which programs know whether it is in force.
#[derive(Debug)]
pub struct GuardHook {
    program: OwnedFd,
    cgroup: OwnedFd,
    cgroup_id: u64,
    /// Directory of the links; none: nothing is pinned.
    links: Option<PathBuf>,
    word: Map,
    link: Option<Link>,
    /// Whether a link is pinned that this agent has not opened yet.
    is_inherited: bool,
}

impl GuardHook {
    /// Of the programs in `loaded`, at a cgroup with this id. Nothing is attached yet.
    pub fn new(
        loaded: &Loaded,
        (cgroup, cgroup_id): (OwnedFd, u64),
        (pin_dir, word): (Option<&PinDir>, Map),
    ) -> Result<Self, DatapathError> {
        let program = loaded.program(&GUARD)?.try_clone_to_owned();
        let program = program.map_err(|source| DatapathError::System { step: "keep a program", source })?;
        let links = pin_dir.map(PinDir::links);
        let is_inherited = links.as_ref().is_some_and(|links| links.join(GUARD.name).exists());
        Ok(Self { program, cgroup, cgroup_id, links, word, link: None, is_inherited })
    }

    /// Whether it is in force.
    pub const fn is_attached(&self) -> bool {
        self.link.is_some() || self.is_inherited
    }

    /// Takes over what another agent has left in force.
    pub fn adopt(&mut self) -> Result<(), DatapathError> {
        if self.is_inherited { self.attach() } else { Ok(()) }
    }

    /// Attaches it, and tells the programs.
    pub fn attach(&mut self) -> Result<(), DatapathError> {
        let cgroup = (self.cgroup.as_fd(), self.cgroup_id);
        let link = attach::one(&GUARD, self.program.as_fd(), cgroup, self.links.as_deref())?;
        self.link = Some(link);
        self.is_inherited = false;
        self.tell(1)
    }

    /// Tells the programs, and detaches it.
    pub fn detach(&mut self) -> Result<(), DatapathError> {
        self.adopt()?;
        self.tell(0)?;
        let failed = attach::failed("detach", &GUARD);
        if let Some(links) = &self.links {
            attach::remove_if_there(&links.join(GUARD.name))?;
        }
        if let Some(link) = self.link.take() {
            link.detach().map_err(failed)?;
        }
        Ok(())
    }

    fn tell(&self, value: u32) -> Result<(), DatapathError> {
        self.word
            .update(&0_u32.to_ne_bytes(), &value.to_ne_bytes())
            .map_err(|source| DatapathError::System { step: "tell the programs of the guard", source })
    }
}
