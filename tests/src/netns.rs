//! Scratch network namespaces, and the devices, addresses and routes in them.
//!
//! A namespace has no route out of the machine unless a test makes one. Configuration goes through `ip -n`,
//! commands run by `nsenter`: `ip netns exec` would remount /sys and hide the cgroup tree.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::sweep;

/// Where iproute2 keeps named namespaces.
pub const DIR: &str = "/run/netns";

/// A network namespace that is deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with loopback up. `label` ends up in its name.
    pub fn create(label: &str) -> Result<Self> {
        let name = sweep::scratch_name(label);
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name, as in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIR).join(&self.name)
    }

    /// A command that runs `program` inside, in the caller's mount and cgroup view.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs `program` inside to its end; its standard output, or an error that holds what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// Runs `work` on a thread of its own that lives inside.
    ///
    /// Only the network namespace changes: the thread stays in the caller's cgroup, outside any hooked one.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// Runs `ip` on this namespace with the words of `arguments`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Runs many `ip` command lines, one a line, in one process: making a topology is mostly process starts.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let script = sweep::scratch_dir("batch")?;
        let file = script.join("lines");
        std::fs::write(&file, lines.join("\n"))?;
        let outcome = run(Command::new("ip").args(["-n", &self.name, "-batch"]).arg(&file));
        std::fs::remove_dir_all(&script)?;
        outcome.map(drop).with_context(|| lines.join("\n"))
    }

    /// Sets sysctls inside; keys with slashes.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        let script = r#"while [ $# -gt 1 ]; do printf %s "$2" > "/proc/sys/$1"; shift 2; done"#;
        let words = settings.iter().flat_map(|(key, value)| [*key, *value]);
        let arguments: Vec<&str> = ["-ec", script, "sh"].into_iter().chain(words).collect();
        self.run("sh", &arguments).map(drop)
    }

    /// Makes a pair of devices that are up: `device` here, `far_device` in `far`.
    pub fn veth(&self, device: &str, far: &Self, far_device: &str) -> Result<()> {
        self.ip(&format!("link add {device} type veth peer name {far_device} netns {}", far.name))?;
        self.ip(&format!("link set {device} up"))?;
        far.ip(&format!("link set {far_device} up")).map(drop)
    }

    /// Adds `address` with `prefix` bits to `device`, at once usable.
    pub fn add_address(&self, device: &str, address: IpAddr, prefix: u8) -> Result<()> {
        self.ip(&address_line(device, address, prefix)).map(drop)
    }

    /// Adds a route; `rule` as `ip route` takes it.
    pub fn add_route(&self, rule: &str) -> Result<()> {
        self.ip(&format!("route add {rule}")).map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("network namespace {} stays: {error:#}", self.name);
        }
    }
}

/// The `ip` command line that adds an address without waiting for duplicate detection.
pub fn address_line(device: &str, address: IpAddr, prefix: u8) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("address add {address}/{prefix} dev {device}{nodad}")
}

/// Deletes the named namespace.
pub(crate) fn delete(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Runs `command` to its end; its standard output, or an error that holds what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
