//! Scratch directories of the cgroup v2 tree.
//!
//! Programs are only ever attached to these, never to the root or to a group that something else made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::sweep;
use crate::wait;

/// Limit of stopping what runs in a cgroup: system calls end first.
const FREEZE: Duration = Duration::from_secs(5);

/// A cgroup that is removed on drop, with what runs in it and below.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup under the mount of the v2 tree. `label` ends up in its name.
    pub fn create(label: &str) -> Result<Self> {
        let name = sweep::scratch_name(label);
        Self::make(mount_point()?.join(name))
    }

    /// Makes a cgroup below this one; it is to be dropped before its parent, or with it.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.dir.join(name))
    }

    fn make(dir: PathBuf) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The directory, opened for attaching programs.
    pub fn open(&self) -> Result<File> {
        File::open(&self.dir).with_context(|| format!("open cgroup {}", self.dir.display()))
    }

    /// Moves process `pid`, with all its threads, into this cgroup.
    pub fn add(&self, pid: u32) -> Result<()> {
        move_process(&self.dir, pid)
    }

    /// Stops everything in it, and below, from running; being removed thaws it.
    pub fn freeze(&self) -> Result<()> {
        fs::write(self.dir.join("cgroup.freeze"), "1").context("freeze a cgroup")?;
        wait::until(FREEZE, "a cgroup to be frozen", || {
            let events = fs::read_to_string(self.dir.join("cgroup.events"))?;
            Ok(events.lines().any(|line| line == "frozen 1").then_some(()))
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir) {
            eprintln!("cgroup {} stays: {error:#}", self.dir.display());
        }
    }
}

/// Where the cgroup v2 tree is mounted; on hybrid hosts that is not /sys/fs/cgroup.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    find_mount(&mounts).context("no cgroup v2 tree is mounted")
}

fn find_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, dir, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(dir))
    })
}

/// Kills what runs in the scratch cgroup `dir` and below, and removes it.
///
/// Whatever is in a scratch cgroup was put there by the run that made it. This process itself is moved out
/// instead, should a test have put it in.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let groups = subtree(dir)?;
        let mut empty = true;
        for group in &groups {
            empty &= kill_members(group)?;
        }
        // A group may count dying members for a moment after the list of processes is empty.
        if empty && groups.iter().all(|group| fs::remove_dir(group).is_ok()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("still in use after 5 s");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `dir` and all below it, deepest first.
fn subtree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            groups.extend(subtree(&entry.path())?);
        }
    }
    groups.push(dir.to_path_buf());
    Ok(groups)
}

/// Kills the members of one cgroup by id; whether there were none.
fn kill_members(group: &Path) -> Result<bool> {
    let members = fs::read_to_string(group.join("cgroup.procs"))?;
    for pid in members.lines().filter_map(|line| line.parse::<u32>().ok()) {
        if pid == std::process::id() {
            move_process(&mount_point()?, pid)?;
        } else if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended since the list was read.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(members.is_empty())
}

fn move_process(dir: &Path, pid: u32) -> Result<()> {
    fs::write(dir.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("move process {pid} into cgroup {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_mount_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
