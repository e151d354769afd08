//! Peers as the tests use them: where they run, one look, servers that come and go, and a stream of connects.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::process::{Process, binary, placed};
use crate::report::{Accepted, ConnectsReport, GetReport};

/// Limit of everything that takes a moment only.
const SOON: Duration = Duration::from_secs(20);

/// Where a process runs: whose network it sees, and which hooks see it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Network namespace.
    pub netns: &'a Netns,
    /// Cgroup.
    pub cgroup: &'a Cgroup,
}

impl Place<'_> {
    /// A command that runs the workspace's binary `name` here.
    pub fn command(&self, name: &str) -> Result<Command> {
        Ok(placed(&binary(name)?, self.netns, self.cgroup))
    }

    /// The peer program, told to enter this place by itself.
    fn peer(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(binary("peer")?);
        command.args(["--netns", self.netns.name(), "--cgroup"]).arg(self.cgroup.path()).arg(subcommand);
        Ok(command)
    }

    /// Connects once to `target`, with the further `options` of `peer get`.
    pub fn get(&self, target: SocketAddr, options: &[&str]) -> Result<GetReport> {
        let output = self.peer("get")?.arg(target.to_string()).args(options).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&said)
            .with_context(|| format!("peer get said {said:?} {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts servers, each answering its name; they are listening when this returns.
    pub fn serve<'s>(&self, servers: impl IntoIterator<Item = (SocketAddr, &'s str)>) -> Result<Servers> {
        let mut command = self.peer("serve")?;
        command.args(servers.into_iter().map(|(address, name)| format!("{address}={name}")));
        let mut process = Process::spawn("peer serve", command)?;
        process.wait_line(SOON, |line| line == "ready")?;
        Ok(Servers { process, unread: 0 })
    }

    /// Starts a prober.
    pub fn prober(&self) -> Result<Prober> {
        let mut process = Process::spawn("peer until", self.peer("until")?)?;
        process.wait_line(SOON, |line| line == "ready")?;
        Ok(Prober { process })
    }

    /// Starts a client that keeps one connected UDP socket.
    pub fn talker(&self, target: SocketAddr, options: &[&str]) -> Result<Talker> {
        let mut command = self.peer("talk")?;
        command.arg(target.to_string()).args(options);
        let mut process = Process::spawn("peer talk", command)?;
        process.wait_line(SOON, |line| line == "ready")?;
        Ok(Talker { process })
    }

    /// Starts connecting to `target` without end, with the further `options` of `peer connects`.
    pub fn connects(&self, target: SocketAddr, options: &[&str]) -> Result<Load> {
        let mut command = self.peer("connects")?;
        command.arg(target.to_string()).args(options);
        let mut process = Process::spawn("peer connects", command)?;
        process.wait_line(SOON, |line| line == "ready")?;
        Ok(Load { process })
    }
}

/// Connects to one target after another until each is let in.
#[derive(Debug)]
pub struct Prober {
    process: Process,
}

impl Prober {
    /// Starts to connect to a target that refuses so far; returns once it has been refused.
    pub fn aim(&mut self, target: SocketAddr) -> Result<()> {
        self.process.send(&target.to_string())?;
        let said = self.process.next_line(SOON)?;
        ensure!(said == "refused", "{target} is served before it should be: {said}");
        Ok(())
    }

    /// When the target let it in, in nanoseconds of the monotonic clock.
    pub fn hit(&mut self) -> Result<u64> {
        let said = self.process.next_line(Duration::from_mins(1))?;
        said.strip_prefix("connected ").and_then(|time| time.parse().ok()).with_context(|| said.clone())
    }
}

/// A client with one connected UDP socket.
#[derive(Debug)]
pub struct Talker {
    process: Process,
}

impl Talker {
    /// Sends one datagram and waits for the answer.
    pub fn ask(&mut self) -> Result<GetReport> {
        self.process.send("ask")?;
        let said = self.process.next_line(SOON)?;
        serde_json::from_str(&said).with_context(|| format!("peer talk said {said:?}"))
    }
}

/// Servers of one process.
#[derive(Debug)]
pub struct Servers {
    process: Process,
    /// Answers that nobody has waited for yet.
    unread: usize,
}

impl Servers {
    /// Opens one more server; it is listening when this returns.
    pub fn open(&mut self, address: SocketAddr, name: &str) -> Result<()> {
        self.send_open(address, name)?;
        self.settle(0)
    }

    /// Opens one more server of UDP.
    pub fn open_udp(&mut self, address: SocketAddr, name: &str) -> Result<()> {
        self.send(&format!("open udp:{address} {name}"))?;
        self.settle(0)
    }

    /// Asks for one more server, which listens once that is settled.
    pub fn send_open(&mut self, address: SocketAddr, name: &str) -> Result<()> {
        self.send(&format!("open {address} {name}"))
    }

    /// Asks for a server to be closed after `delay`, counted from now.
    pub fn send_close(&mut self, address: SocketAddr, delay: Duration) -> Result<()> {
        self.send(&format!("close {address} {}", delay.as_millis()))
    }

    /// Waits until all that was asked for has been done, but for the last `outstanding`.
    pub fn settle(&mut self, outstanding: usize) -> Result<()> {
        while self.unread > outstanding {
            self.answer()?;
        }
        Ok(())
    }

    /// How many connections each name has accepted.
    pub fn accepted(&mut self) -> Result<Accepted> {
        self.settle(0)?;
        self.send("counts")?;
        Ok(serde_json::from_str(&self.answer()?)?)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        self.unread += 1;
        self.process.send(line)
    }

    fn answer(&mut self) -> Result<String> {
        let answer = self.process.next_line(SOON)?;
        self.unread -= 1;
        ensure!(!answer.starts_with("error"), "{answer}");
        Ok(answer)
    }
}

/// A stream of connects.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Ends the stream if it still runs, and returns what it saw.
    pub fn finish(mut self) -> Result<ConnectsReport> {
        self.process.close_stdin();
        self.wait(SOON)
    }

    /// Waits until the stream has ended by its own count or time.
    pub fn wait(&mut self, limit: Duration) -> Result<ConnectsReport> {
        let line = self.process.wait_line(limit, |line| line.starts_with('{'))?;
        serde_json::from_str(&line).with_context(|| format!("peer connects said {line:?}"))
    }

    /// Whether it is still connecting.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}
