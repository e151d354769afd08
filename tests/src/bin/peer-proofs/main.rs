//! The processes that the kernel proofs look at: a client on a leash, a pod that connects once, and a process in
//! a private cgroup namespace; and a server that says how it sees its clients. The traffic tests have their own peer.

mod calls;
mod mirror;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write, stdin, stdout};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{AddressFamily, SocketType, connect_unspec, socket, sockopt};
use rustix::time::{ClockId, clock_gettime};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use shunt::sys;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Obeys `NUMBER COMMAND...` lines on standard input and answers each with `NUMBER RESULT`.
    App,
    /// Connects a UDP socket once, prints when (monotonic nanoseconds) and from which namespace, and ends later.
    Pod {
        /// Where to connect to.
        target: SocketAddr,
        /// How many times, with a new socket each.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// Milliseconds from the first connect to the end.
        #[arg(long, default_value_t = 0)]
        linger: u64,
    },
    /// Answers each client with what it looks like from here, by TCP and UDP; ends when standard input does.
    Mirror {
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// Asks a server once, by a way of its own, and prints who answered and whom the socket shows as its peer.
    Call {
        /// How.
        way: calls::Way,
        /// Whom.
        target: SocketAddr,
    },
    /// Hides every cgroup v2 mount, mounts the tree anew (which, in a private cgroup namespace, shows only a part)
    /// and prints what its mount and the true root are. To be run in a mount namespace of its own.
    CgroupRoot {
        /// An empty directory to mount on.
        mount_point: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Call { way, target } => calls::run(way, target),
        Role::App => App::default().run(),
        Role::Mirror { addresses } => mirror::run(&addresses),
        Role::Pod { target, times, linger } => pod(target, times, linger),
        Role::CgroupRoot { mount_point } => cgroup_root(&mount_point),
    }
}

#[derive(Default)]
struct App {
    sockets: HashMap<String, UdpSocket>,
    crowd: Vec<UdpSocket>,
    streams: streams::Streams,
}

impl App {
    fn run(mut self) -> Result<()> {
        for line in stdin().lock().lines() {
            let line = line?;
            let (number, command) = line.split_once(' ').context("a command without a number")?;
            let words: Vec<&str> = command.split(' ').collect();
            let result = self.obey(&words).unwrap_or_else(|error| format!("error {error:#}"));
            println!("{number} {result}");
            stdout().flush()?;
        }
        Ok(())
    }

    fn obey(&mut self, words: &[&str]) -> Result<String> {
        if let Some(result) = self.streams.obey(words) {
            return result;
        }
        match *words {
            ["open", name, from] => {
                let socket = open(from)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                self.sockets.insert(name.to_owned(), socket);
                Ok("opened".to_owned())
            }
            ["connect", name, to] => {
                self.socket(name)?.connect(to.parse::<SocketAddr>()?)?;
                Ok("connected".to_owned())
            }
            ["disconnect", name] => {
                connect_unspec(self.socket(name)?)?;
                Ok("disconnected".to_owned())
            }
            ["show", name] => show(self.socket(name)?),
            ["ask", name] => ask(self.socket(name)?),
            ["ask", name, length, "of", to] => ask_long(self.socket(name)?, length.parse()?, to.parse()?),
            ["crowd", count, to] => {
                let to: SocketAddr = to.parse()?;
                for _ in 0..count.parse::<u32>()? {
                    let socket = open(if to.is_ipv4() { "v4" } else { "v6" })?;
                    socket.connect(to)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    self.crowd.push(socket);
                }
                let cookies: std::io::Result<Vec<String>> = self.crowd.iter().map(cookie_text).collect();
                Ok(cookies?.join(" "))
            }
            ["crowd-ask"] => {
                let names: Result<Vec<String>> = self.crowd.iter().map(ask).collect();
                Ok(names?.join(" "))
            }
            ["lock"] => {
                forbid_connect()?;
                Ok("locked".to_owned())
            }
            _ => bail!("unknown command {words:?}"),
        }
    }

    fn socket(&self, name: &str) -> Result<&UdpSocket> {
        self.sockets.get(name).with_context(|| format!("no socket {name}"))
    }
}

/// A UDP socket: `v4` or `v6` leaves it unbound, an address binds it.
fn open(from: &str) -> Result<UdpSocket> {
    let unbound = |family| Ok(UdpSocket::from(socket(family, SocketType::DGRAM, None)?));
    match from {
        "v4" => unbound(AddressFamily::INET),
        "v6" => unbound(AddressFamily::INET6),
        address => UdpSocket::bind(address.parse::<SocketAddr>()?).context("bind"),
    }
}

/// Cookie, own address and peer, as the application sees them.
fn show(socket: &UdpSocket) -> Result<String> {
    let peer = socket.peer_addr().map_or_else(|_| "none".to_owned(), |peer| peer.to_string());
    Ok(format!("{} {} {peer}", cookie_text(socket)?, socket.local_addr()?))
}

fn cookie_text(socket: &UdpSocket) -> std::io::Result<String> {
    Ok(sockopt::socket_cookie(socket)?.to_string())
}

/// Who answers at the other end.
fn ask(socket: &UdpSocket) -> Result<String> {
    socket.send(b"who").context("send")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).context("receive")?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Sends `length` bytes, to `to` if the socket is not connected, and takes as many back: what they say, and from whom
/// they come.
fn ask_long(socket: &UdpSocket, length: usize, to: SocketAddr) -> Result<String> {
    let question = vec![b'?'; length];
    let is_connected = socket.peer_addr().is_ok();
    let sent = if is_connected { socket.send(&question) } else { socket.send_to(&question, to) };
    sent.context("send")?;
    let mut answer = vec![0; length + 1];
    let (received, from) = socket.recv_from(&mut answer).context("receive")?;
    anyhow::ensure!(received == length, "{received} bytes came back");
    let text = String::from_utf8_lossy(&answer[..received]).trim_end().to_owned();
    Ok(format!("{text} {from}"))
}

/// From now on this process may neither connect nor touch other processes' descriptors.
fn forbid_connect() -> Result<()> {
    let forbidden = [libc::SYS_connect, libc::SYS_pidfd_open, libc::SYS_pidfd_getfd, libc::SYS_ptrace];
    let rules: BTreeMap<i64, _> = forbidden.map(|number| (number, vec![])).into();
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?.try_into()?;
    Ok(apply_filter(&filter)?)
}

fn pod(target: SocketAddr, times: u32, linger: u64) -> Result<()> {
    let cookie = sys::socket::netns_cookie()?;
    let sockets: Result<Vec<UdpSocket>> =
        (0..times).map(|_| open(if target.is_ipv4() { "v4" } else { "v6" })).collect();
    let now = clock_gettime(ClockId::Monotonic);
    for socket in sockets? {
        socket.connect(target)?;
    }
    println!("connected {} {cookie}", now.tv_sec * 1_000_000_000 + now.tv_nsec);
    std::thread::sleep(Duration::from_millis(linger));
    Ok(())
}

fn cgroup_root(mount_point: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("cgroup2")) = (fields.next(), fields.next()) {
            unmount(path, UnmountFlags::DETACH).with_context(|| format!("unmount {path}"))?;
        }
    }
    mount("none", mount_point, "cgroup2", MountFlags::empty(), None).context("mount the cgroup tree")?;
    let seen = sys::cgroup::open_dir(mount_point)?;
    let root = sys::cgroup::true_root()?;
    println!("mounted {} root {} {}", sys::cgroup::id(&seen)?, sys::cgroup::id(&root)?, kind_of(root)?);
    Ok(())
}

/// Only the true root has no `cgroup.type`; it still lists the controllers.
fn kind_of(dir: OwnedFd) -> Result<&'static str> {
    let entries = rustix::fs::Dir::new(dir)?;
    let names: Result<Vec<_>, _> = entries.map(|entry| entry.map(|it| it.file_name().to_owned())).collect();
    let names = names?;
    let has = |name: &str| names.iter().any(|it| it.to_bytes() == name.as_bytes());
    Ok(match (has("cgroup.controllers"), has("cgroup.type")) {
        (true, false) => "is-root",
        (true, true) => "is-child",
        (false, _) => "is-nothing",
    })
}
