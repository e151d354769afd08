//! Endpoints that come and go under traffic, in the order that Kubernetes promises: a backend listens before it is
//! listed, and stops listening a while after it was withdrawn.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::load::Servers;
use crate::manifests::{ManifestDir, Slice};

/// A backend that may be listed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it listens; all candidates of a churn have the same port.
    pub address: SocketAddr,
    /// What it answers.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Which of the server processes it belongs to.
    pub process: usize,
}

/// How endpoints change.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Backends listed at any time.
    pub listed: usize,
    /// Backends that are replaced at each step.
    pub replaced: usize,
    /// Time between two steps.
    pub step: Duration,
    /// Steps by which a backend listens before it is listed.
    pub ahead: usize,
    /// How long a withdrawn backend goes on listening.
    pub grace: Duration,
}

/// A window of listed backends that moves round the candidates.
#[derive(Debug)]
pub struct Churn<'a> {
    /// Where the slice is written.
    pub manifests: &'a ManifestDir,
    /// The Service.
    pub service: &'a str,
    /// Processes that serve.
    pub servers: &'a mut [Servers],
    /// Who takes part.
    pub candidates: &'a [Candidate],
    /// How.
    pub pace: Pace,
    /// Number of the first listed candidate, counted on round after round.
    pub first: usize,
}

impl Churn<'_> {
    /// Lists the first backends, and makes them listen.
    pub fn start(&mut self) -> Result<()> {
        ensure!(
            self.pace.ahead == 0 || self.servers.len() == 1,
            "answers of several processes have no common order"
        );
        let gone = self.candidates.len() - self.pace.listed;
        let away = self.pace.step * u32::try_from(gone / self.pace.replaced - self.pace.ahead)?;
        ensure!(away > self.pace.grace, "a backend would be back after {away:?}, before it has closed");
        for at in 0..self.pace.listed + self.pace.ahead * self.pace.replaced {
            self.open(at)?;
        }
        self.settle(0)?;
        self.write_slice()
    }

    /// Replaces backends step by step for `time`; the number of steps.
    ///
    /// Steps that are late are made up for, so that the mean pace is kept.
    pub fn run(&mut self, time: Duration) -> Result<usize> {
        let start = Instant::now();
        let mut steps = 0;
        while start.elapsed() < time {
            self.step()?;
            steps += 1;
            let due = start + self.pace.step * u32::try_from(steps)?;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(steps)
    }

    /// Moves the window by one step.
    fn step(&mut self) -> Result<()> {
        let Pace { listed, replaced, ahead, grace, .. } = self.pace;
        let first = self.first;
        for at in 0..replaced {
            self.open(first + listed + ahead * replaced + at)?;
        }
        // Each step asks for as many closes as opens, so these answers cover all who are to be listed now.
        self.settle(ahead * replaced * 2)?;
        self.first += replaced;
        self.write_slice()?;
        for at in first..first + replaced {
            let Candidate { address, process, .. } = &self.candidates[at % self.candidates.len()];
            self.servers[*process].send_close(*address, grace)?;
        }
        Ok(())
    }

    fn open(&mut self, at: usize) -> Result<()> {
        let candidate = &self.candidates[at % self.candidates.len()];
        self.servers[candidate.process].send_open(candidate.address, &candidate.name)
    }

    fn settle(&mut self, outstanding: usize) -> Result<()> {
        self.servers.iter_mut().try_for_each(|servers| servers.settle(outstanding))
    }

    fn write_slice(&self) -> Result<()> {
        let listed =
            self.candidates.iter().cycle().skip(self.first % self.candidates.len()).take(self.pace.listed);
        let endpoints: Vec<(IpAddr, &str)> =
            listed.map(|candidate| (candidate.address.ip(), &*candidate.node)).collect();
        let port = self.candidates[0].address.port();
        self.manifests.write_slice(&Slice {
            service: self.service,
            port,
            protocol: "TCP",
            endpoints: &endpoints,
        })
    }
}
