//! Where things lie in this checkout. Reads the environment that cargo gives to `cargo xtask`, and nothing else.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directories that a run reads and writes.
pub(crate) struct Tree {
    /// The root of the checkout.
    pub(crate) root: PathBuf,
    /// The target directory of the workspace.
    pub(crate) target: PathBuf,
    /// The target directory of the eBPF crate, which is a workspace of its own.
    pub(crate) ebpf_target: PathBuf,
    /// Cargo's home: the registry's sources, and `bin` with the tools that set-up installs.
    pub(crate) cargo_home: PathBuf,
}

impl Tree {
    /// Finds the directories of the checkout whose `cargo xtask` this is.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask ...`")?;
        let root = Path::new(&manifest).parent().context("xtask lies in the checkout")?.to_owned();
        let cargo_home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
                .join(".cargo"),
        };
        let (target, ebpf_target) = match env::var_os("CARGO_TARGET_DIR") {
            Some(given) => (root.join(&given), root.join(given).join("ebpf")),
            None => (root.join("target"), root.join("proxy-ebpf/target")),
        };
        Ok(Self { root, target, ebpf_target, cargo_home })
    }

    /// An object that is shipped with the agent.
    pub(crate) fn committed_object(&self, name: &str) -> PathBuf {
        self.root.join("proxy-userspace/bpf").join(format!("{name}.bpf.o"))
    }

    /// What the shipped objects were built from, and with.
    pub(crate) fn committed_record(&self) -> PathBuf {
        self.root.join("proxy-userspace/bpf/shunt.bpf.json")
    }

    /// The object of `name` that this machine built last.
    pub(crate) fn fresh_object(&self, name: &str) -> PathBuf {
        self.target.join("bpf").join(format!("{name}.bpf.o"))
    }
}
