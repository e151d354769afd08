//! The peer program: servers and clients that run inside a namespace and a cgroup of their own choice.
//!
//! It is a program and not a thread of the test because the hooks go by cgroup, which a process has as a whole.

mod connects;
mod crowd;
mod get;
mod serve;
mod talk;
mod until;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use crate::netns;

pub use until::monotonic_nanoseconds;

/// A server or client for tests, in a namespace and a cgroup.
#[derive(Parser)]
#[command(name = "peer")]
pub struct PeerArguments {
    /// Name of the network namespace to enter.
    #[arg(long)]
    netns: Option<String>,
    /// Directory of the cgroup to enter.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Subcommand)]
enum PeerCommand {
    /// Answer each connection with a name; ends when standard input does.
    Serve(serve::ServeArguments),
    /// Connect once, read the name, report as JSON; exit code 1 if that failed.
    Get(get::GetArguments),
    /// Connect and reset as fast as possible, report as JSON; ends early when standard input does.
    Connects(connects::ConnectsArguments),
    /// Connect a UDP socket once; for each line of standard input ask by it, and report as JSON.
    Talk(talk::TalkArguments),
    /// Give back what each connection sends; ends when standard input does.
    Echo(crowd::EchoArguments),
    /// Open connections that stay; for each line of standard input ask by all of them, and report as JSON.
    Crowd(crowd::CrowdArguments),
    /// Connect to each target of standard input until it is let in, and say when.
    Until(until::UntilArguments),
}

/// How a client makes its socket.
#[derive(Args, Clone)]
struct ClientSocket {
    /// Where to connect.
    target: SocketAddr,
    /// Use an IPv6 socket and the IPv4-mapped form of an IPv4 target.
    #[arg(long)]
    mapped: bool,
    /// Bind to this device first.
    #[arg(long)]
    device: Option<String>,
    /// Limit of a connect and of a read, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    timeout: u64,
}

impl ClientSocket {
    fn open(&self) -> io::Result<Socket> {
        self.open_as(Type::STREAM)
    }

    fn open_as(&self, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address()), kind, None)?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.set_read_timeout(Some(self.limit()))?;
        // On Linux this limits a blocking connect too, without the extra calls of a non-blocking one.
        socket.set_write_timeout(Some(self.limit()))?;
        Ok(socket)
    }

    fn address(&self) -> SocketAddr {
        match self.target.ip() {
            IpAddr::V4(ip) if self.mapped => SocketAddr::new(ip.to_ipv6_mapped().into(), self.target.port()),
            _ => self.target,
        }
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// Enters the places that `arguments` name, then does what they say; the exit code.
///
/// To be called while the process has one thread: a namespace is entered by a thread, not by a process.
pub fn run(arguments: PeerArguments) -> Result<u8> {
    if let Some(dir) = &arguments.cgroup {
        let file = dir.join("cgroup.procs");
        std::fs::write(&file, "0").with_context(|| format!("enter cgroup {}", dir.display()))?;
    }
    if let Some(name) = &arguments.netns {
        let path = PathBuf::from(netns::DIR).join(name);
        let file = std::fs::File::open(&path).with_context(|| format!("open namespace {name}"))?;
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter namespace {name}"))?;
    }
    match arguments.command {
        PeerCommand::Serve(arguments) => serve::run(&arguments).map(|()| 0),
        PeerCommand::Get(arguments) => get::run(&arguments),
        PeerCommand::Connects(arguments) => connects::run(&arguments),
        PeerCommand::Talk(arguments) => talk::run(&arguments),
        PeerCommand::Echo(arguments) => crowd::echo(&arguments).map(|()| 0),
        PeerCommand::Crowd(arguments) => crowd::crowd(&arguments).map(|()| 0),
        PeerCommand::Until(arguments) => until::run(&arguments),
    }
}

/// The name of an error as the manual pages have it.
fn error_name(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return format!("{:?}", error.kind()) };
    let name = match Errno::from_raw_os_error(number) {
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::TIMEDOUT => "ETIMEDOUT",
        // A blocking connect whose limit has passed, and a read likewise.
        Errno::INPROGRESS | Errno::AGAIN => "timeout",
        Errno::HOSTUNREACH => "EHOSTUNREACH",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::INVAL => "EINVAL",
        _ => return format!("errno {number}"),
    };
    name.to_owned()
}
