//! `peer until`: connects to each target that standard input names until it is let in, and says when that was.

use std::io::{BufRead, stdin};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

/// Between two connects: a busy one would take the processor from whoever is to let it in.
const PAUSE: Duration = Duration::from_micros(200);

/// Arguments of `peer until`.
#[derive(Args)]
pub(super) struct UntilArguments {
    /// Limit of one connect, in milliseconds.
    #[arg(long, default_value_t = 100)]
    timeout: u64,
}

/// For each line `IP:PORT` of standard input, prints `refused` once a connect has failed, then `connected <nanoseconds
/// of CLOCK_MONOTONIC>`.
pub(super) fn run(arguments: &UntilArguments) -> Result<u8> {
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line?;
        let target: SocketAddr = line.parse().with_context(|| format!("a target, not {line:?}"))?;
        let mut was_refused = false;
        while !connect(target, Duration::from_millis(arguments.timeout))? {
            if !was_refused {
                println!("refused");
                was_refused = true;
            }
            sleep(PAUSE);
        }
        println!("connected {}", monotonic_nanoseconds());
    }
    Ok(0)
}

/// Whether one connect was let in; it is reset at once.
fn connect(target: SocketAddr, limit: Duration) -> Result<bool> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket.connect_timeout(&target.into(), limit).is_ok())
}

/// The clock that all processes of a machine share.
pub fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}
