//! Attaches the hooks to a cgroup, or puts new programs under the links that are there.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::DatapathError;
use super::hooks::{GUARD, HOOKS, Hook, MOVING};
use super::load::Loaded;
use super::pin::PinDir;
use crate::sys::link::{Link, LinkFacts};

/// What happened to one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// A new link.
    Fresh,
    /// The pinned link got the new program, in one step.
    Replaced,
    /// The pinned link was at another cgroup, or its cgroup had gone: a new link took its place.
    Moved,
}

/// The links of this agent, held open so that they last as long as it even where nothing is pinned.
#[derive(Debug, Default)]
pub struct Links {
    links: Vec<(Hook, Link)>,
}

impl Links {
    /// Attaches every hook of `loaded` to the cgroup, whose id is `cgroup_id`.
    pub fn attach(
        loaded: &Loaded,
        (cgroup, cgroup_id): (BorrowedFd<'_>, u64),
        pin_dir: Option<&PinDir>,
    ) -> Result<(Self, Vec<(Hook, Attached)>), DatapathError> {
        let (mut links, mut outcomes) = (Vec::new(), Vec::new());
        for hook in HOOKS {
            let program = loaded.program(&hook)?;
            let (link, outcome) = match pin_dir {
                Some(pin_dir) => attach_pinned(&hook, program, (cgroup, cgroup_id), &pin_dir.links())?,
                None => (create(&hook, program, cgroup)?, Attached::Fresh),
            };
            links.push((hook, link));
            outcomes.push((hook, outcome));
        }
        Ok((Self { links }, outcomes))
    }

    /// Detaches every hook whose link is pinned, and returns their names.
    pub fn detach_pinned(pin_dir: &PinDir) -> Result<Vec<&'static str>, DatapathError> {
        let mut detached = Vec::new();
        for hook in HOOKS.iter().chain([&GUARD]) {
            let path = pin_dir.links().join(hook.name);
            if path.exists() {
                let link = Link::open_pinned(&path).map_err(failed("open the pinned link of", hook))?;
                link.detach().map_err(failed("detach", hook))?;
                remove_if_there(&path)?;
                detached.push(hook.name);
            }
        }
        Ok(detached)
    }

    /// What the kernel says of each link.
    pub fn facts(&self) -> Result<Vec<(Hook, LinkFacts)>, DatapathError> {
        self.links
            .iter()
            .map(|(hook, link)| link.facts().map(|facts| (*hook, facts)).map_err(failed("read", hook)))
            .collect()
    }
}

/// What the kernel says of each link pinned under `root`; hooks without a pin are absent.
pub fn pinned_links(root: &Path) -> Result<Vec<(Hook, LinkFacts)>, DatapathError> {
    let mut found = Vec::new();
    for hook in HOOKS.into_iter().chain([GUARD]) {
        let path = root.join("links").join(hook.name);
        if path.exists() {
            let link = Link::open_pinned(&path).map_err(failed("open the pinned link of", &hook))?;
            found.push((hook, link.facts().map_err(failed("read", &hook))?));
        }
    }
    Ok(found)
}

/// Attaches one hook, or puts the program under the link that is pinned in the directory.
pub(super) fn one(
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup: (BorrowedFd<'_>, u64),
    links: Option<&Path>,
) -> Result<Link, DatapathError> {
    match links {
        Some(links) => attach_pinned(hook, program, cgroup, links).map(|(link, _)| link),
        None => create(hook, program, cgroup.0),
    }
}

fn attach_pinned(
    hook: &Hook,
    program: BorrowedFd<'_>,
    (cgroup, cgroup_id): (BorrowedFd<'_>, u64),
    directory: &Path,
) -> Result<(Link, Attached), DatapathError> {
    let path = directory.join(hook.name);
    if !path.exists() {
        let link = create(hook, program, cgroup)?;
        link.pin(&path).map_err(failed("pin", hook))?;
        return Ok((link, Attached::Fresh));
    }
    let old = Link::open_pinned(&path).map_err(failed("open the pinned link of", hook))?;
    let facts = old.facts().map_err(failed("read", hook))?;
    if facts.cgroup_id == cgroup_id && facts.attach_type == hook.attach_type as u32 {
        old.replace(program).map_err(failed("replace", hook))?;
        return Ok((old, Attached::Replaced));
    }
    // The new link is in force before the old one goes.
    let link = create(hook, program, cgroup)?;
    let fresh = directory.join(format!("{}{MOVING}", hook.name));
    remove_if_there(&fresh)?;
    link.pin(&fresh).map_err(failed("pin", hook))?;
    std::fs::rename(&fresh, &path).map_err(|source| DatapathError::Path {
        step: "rename",
        path: fresh,
        source,
    })?;
    Ok((link, Attached::Moved))
}

fn create(hook: &Hook, program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> Result<Link, DatapathError> {
    Link::attach_cgroup(program, cgroup, hook.attach_type).map_err(failed("attach", hook))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), DatapathError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DatapathError::Path { step: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(super) fn failed(step: &'static str, hook: &Hook) -> impl Fn(std::io::Error) -> DatapathError + use<> {
    let hook = hook.name;
    move |source| DatapathError::Link { step, hook, source }
}
