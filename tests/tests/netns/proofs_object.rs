//! The proof programs, loaded and attached; and the process that they are shown to.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use shunt::sys::map::Map;
use tests::cgroup::Cgroup;
use tests::netns::Netns;
use tests::process::{Process, binary, placed};

/// The layouts that the programs and these tests share.
#[path = "../../../proxy-ebpf/src/proofs/layout.rs"]
#[expect(unreachable_pub, reason = "the file is written for the crate of the programs")]
pub(crate) mod layout;

/// How long a process may take to answer on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Loads the proof object; this process is the one that moves sockets.
pub(crate) fn load() -> Result<Ebpf> {
    let path = std::env::var_os("SHUNT_PROOFS_OBJECT").unwrap_or_else(built_object);
    let object = fs::read(&path)
        .with_context(|| format!("read {}: build it by `cargo xtask ebpf`", Path::new(&path).display()))?;
    let mover = std::process::id();
    let ebpf = EbpfLoader::new().override_global("PROOF_MOVER", &mover, true).load(&object)?;
    Ok(ebpf)
}

fn built_object() -> OsString {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/bpf/proofs.bpf.o").into_os_string()
}

/// Loads the named socket hooks and attaches them to `cgroup`, for as long as `ebpf` lives.
pub(crate) fn attach(ebpf: &mut Ebpf, cgroup: &Cgroup, names: &[&str]) -> Result<()> {
    let cgroup = cgroup.open()?;
    for name in names {
        let program: &mut CgroupSockAddr = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load()?;
        program.attach(&cgroup, CgroupAttachMode::Single).with_context(|| format!("attach {name}"))?;
    }
    Ok(())
}

/// A second handle on a map of the object.
pub(crate) fn map(ebpf: &Ebpf, name: &str) -> Result<Map> {
    Ok(Map::from_fd(map_fd(ebpf, name)?)?)
}

/// A second descriptor of a map of the object.
pub(crate) fn map_fd(ebpf: &Ebpf, name: &str) -> Result<OwnedFd> {
    use aya::maps::Map as Any;
    match ebpf.map(name) {
        Some(Any::Array(map) | Any::HashMap(map) | Any::SkStorage(map)) => {
            Ok(map.fd().as_fd().try_clone_to_owned()?)
        }
        _ => bail!("no map {name} of a known type"),
    }
}

/// What stands between an application and whoever wants to reach into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    /// Nothing.
    Bare,
    /// A user namespace of its own.
    UserNamespace,
}

/// A `peer-proofs app`, inside a network namespace and a cgroup.
pub(crate) struct App {
    process: Process,
    next: u32,
}

impl App {
    /// Starts one.
    pub(crate) fn start(netns: &Netns, cgroup: &Cgroup, shell: Shell) -> Result<Self> {
        let program = peer()?;
        let mut command = match shell {
            Shell::Bare => placed(&program, netns, cgroup),
            Shell::UserNamespace => {
                let mut command = placed(Path::new("unshare"), netns, cgroup);
                command.args(["--user", "--map-root-user"]).arg(&program);
                command
            }
        };
        command.arg("app");
        Ok(Self { process: Process::spawn("app", command)?, next: 0 })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives a command and returns the answer; an error of the application is one here.
    pub(crate) fn tell(&mut self, command: &str) -> Result<String> {
        self.next += 1;
        let prefix = format!("{} ", self.next);
        self.process.send(&format!("{prefix}{command}"))?;
        let line = self.process.wait_line(LIMIT, |line| line.starts_with(&prefix))?;
        let answer = line.strip_prefix(&prefix).unwrap_or_default();
        match answer.strip_prefix("error ") {
            Some(error) => bail!("{command}: {error}"),
            None => Ok(answer.to_owned()),
        }
    }
}

/// Path of the helper binary.
pub(crate) fn peer() -> Result<PathBuf> {
    binary("peer-proofs")
}

/// A command of the helper binary in a *new*, unnamed network namespace that has `address` and ends with it.
pub(crate) fn pod(cgroup: &Cgroup, addresses: &[&str], arguments: &[&str]) -> Result<Command> {
    let script = r#"echo $$ > "$1/cgroup.procs"; shift; exec unshare --net sh -ec '
        ip link set lo up
        for address in $1; do ip address add "$address" dev lo; done
        shift; exec "$@"' sh "$@""#;
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh"]).arg(cgroup.path()).arg(addresses.join(" ")).arg(peer()?);
    command.args(arguments);
    Ok(command)
}
