//! What the peers report: one JSON line on standard output, read back by the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Outcome of `peer get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GetReport {
    /// Where it was told to connect.
    pub target: SocketAddr,
    /// Name that the server answered.
    pub name: Option<String>,
    /// What `getpeername` showed after the connect.
    pub peer: Option<SocketAddr>,
    /// Own address and port after the connect.
    pub local: Option<SocketAddr>,
    /// Name of the error, as `ECONNREFUSED`; none means that connect and read both went well.
    pub error: Option<String>,
    /// Time until the connect returned, in milliseconds.
    pub connect_ms: f64,
}

/// Outcome of a line to `peer crowd`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CrowdReport {
    /// Connections that are open.
    pub connections: usize,
    /// Those whose question was answered.
    pub answered: usize,
    /// What went wrong first.
    pub first_failure: Option<String>,
    /// Time for all.
    pub seconds: f64,
}

/// Outcome of `peer connects`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectsReport {
    /// Connects tried.
    pub attempts: u64,
    /// Connects that succeeded.
    pub connected: u64,
    /// Connects that failed, by error name.
    pub failed: BTreeMap<String, u64>,
    /// Names read from the servers, on those connects that read one.
    pub served: BTreeMap<String, u64>,
    /// Reads of a name that failed after a good connect, by error name; `EOF` is an empty answer.
    pub unanswered: BTreeMap<String, u64>,
    /// Connects that read a name and where `getpeername` did not show the target.
    pub wrong_peer: u64,
    /// Connections held from the start to the end whose `getpeername` still shows the target.
    pub held: u64,
    /// Connects that took more than 100 ms, as those do whose first packet was lost.
    pub slow: u64,
    /// The slowest connect, in milliseconds.
    pub slowest_ms: f64,
    /// Time of the whole run in seconds.
    pub seconds: f64,
    /// The first failures, each with its time in the run.
    pub first_failures: Vec<String>,
}

impl ConnectsReport {
    /// All failed connects.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Connects a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
        let attempts = self.attempts as f64;
        attempts / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Adds the counts of another thread of the same run.
    pub fn merge(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.connected += other.connected;
        for (into, from) in [
            (&mut self.failed, other.failed),
            (&mut self.served, other.served),
            (&mut self.unanswered, other.unanswered),
        ] {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
        self.wrong_peer += other.wrong_peer;
        self.held += other.held;
        self.slow += other.slow;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.seconds = self.seconds.max(other.seconds);
        self.first_failures.extend(other.first_failures);
    }
}

/// Connections that each server name accepted, as `peer serve` answers to `counts`.
pub type Accepted = BTreeMap<String, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let one = ConnectsReport {
            attempts: 3,
            connected: 2,
            failed: [("ECONNREFUSED".to_owned(), 1)].into(),
            slowest_ms: 4.0,
            seconds: 2.0,
            ..Default::default()
        };
        let mut sum = one.clone();
        sum.merge(ConnectsReport {
            failed: [("ETIMEDOUT".to_owned(), 2)].into(),
            slowest_ms: 1.0,
            ..one.clone()
        });
        sum.merge(one);
        assert_eq!((sum.attempts, sum.connected, sum.failures()), (9, 6, 4));
        assert_eq!(sum.failed["ECONNREFUSED"], 2);
        assert!((sum.rate() - 4.5).abs() < 1e-9 && (sum.slowest_ms - 4.0).abs() < 1e-9);
    }
}
