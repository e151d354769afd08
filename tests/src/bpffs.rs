//! Scratch mounts of the BPF file system, for pins that go away with the test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::sweep;

/// A mounted BPF file system that is unmounted on drop; its pins go with it.
#[derive(Debug)]
pub struct Bpffs {
    dir: PathBuf,
}

impl Bpffs {
    /// Mounts one on a new directory. `label` ends up in its name.
    pub fn mount(label: &str) -> Result<Self> {
        let dir = sweep::scratch_dir(label).context("make a mount point")?;
        let flags = MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID;
        mount("bpf", &dir, "bpf", flags, None).with_context(|| format!("mount bpf on {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let unmounted = unmount(&self.dir, UnmountFlags::DETACH).map_err(std::io::Error::from);
        if let Err(error) = unmounted.and_then(|()| fs::remove_dir(&self.dir)) {
            eprintln!("mount {} stays: {error}", self.dir.display());
        }
    }
}
