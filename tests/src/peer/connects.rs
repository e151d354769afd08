//! `peer connects`: connects as fast as possible, each closed by a reset.
//!
//! A reset leaves no TIME_WAIT behind on either side, so a million connects need no more source ports than
//! there are threads.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;

use super::{ClientSocket, error_name};
use crate::report::ConnectsReport;

/// A connect that takes longer lost its first packet, or met a server that sleeps.
const SLOW: Duration = Duration::from_millis(100);

/// How many failures each thread describes.
const DESCRIBED: usize = 5;

/// Arguments of `peer connects`.
#[derive(Args)]
pub(super) struct ConnectsArguments {
    #[command(flatten)]
    socket: ClientSocket,
    /// Stop after this many connects.
    #[arg(long)]
    count: Option<u64>,
    /// Stop after this time.
    #[arg(long)]
    seconds: Option<f64>,
    /// Threads that connect at the same time.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Read the server's name, and look at the peer's address, on every so manieth connect; 0 is never.
    #[arg(long, default_value_t = 64)]
    read_every: u64,
    /// Wait this many microseconds between two connects of a thread.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Each thread opens one connection more before all others, and looks at its peer's address after them.
    #[arg(long)]
    hold: bool,
}

/// What the threads of one run share.
struct Run<'a> {
    arguments: &'a ConnectsArguments,
    start: Instant,
    next: AtomicU64,
    stopped: AtomicBool,
}

pub(super) fn run(arguments: &ConnectsArguments) -> Result<u8> {
    let run =
        Run { arguments, start: Instant::now(), next: AtomicU64::new(0), stopped: AtomicBool::new(false) };
    println!("ready");
    let mut report = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(|| run.client())).collect();
        stop_with_input(&run, &threads);
        threads.into_iter().try_fold(ConnectsReport::default(), |mut sum, thread| {
            sum.merge(thread.join().map_err(|_| anyhow!("a client thread panicked"))?);
            anyhow::Ok(sum)
        })
    })?;
    report.seconds = run.start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&report)?);
    Ok(u8::from(report.failures() > 0))
}

/// Waits until the clients are done, or tells them to stop when standard input ends.
fn stop_with_input<T>(run: &Run<'_>, threads: &[std::thread::ScopedJoinHandle<'_, T>]) {
    let stdin = io::stdin();
    while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
        let mut descriptors = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let readable = rustix::event::poll(&mut descriptors, Some(&limit)).is_ok_and(|ready| ready > 0);
        if readable && !matches!(stdin.lock().read(&mut [0; 64]), Ok(1..)) {
            run.stopped.store(true, Ordering::Relaxed);
            return;
        }
    }
}

impl Run<'_> {
    fn client(&self) -> ConnectsReport {
        let mut report = ConnectsReport::default();
        let held = self.arguments.hold.then(|| self.hold(&mut report)).flatten();
        while let Some(ordinal) = self.take() {
            let every = self.arguments.read_every;
            self.connect(&mut report, every != 0 && ordinal % every == 0);
            if self.arguments.pause != 0 {
                std::thread::sleep(Duration::from_micros(self.arguments.pause));
            }
        }
        report.held += u64::from(held.is_some_and(|socket| shows(&socket, self.arguments.socket.address())));
        report
    }

    /// Opens the connection that outlasts the others.
    fn hold(&self, report: &mut ConnectsReport) -> Option<socket2::Socket> {
        let client = &self.arguments.socket;
        let opened = client.open().and_then(|socket| {
            socket.connect(&client.address().into())?;
            Ok(socket)
        });
        opened.inspect_err(|error| report.first_failures.push(format!("{} to hold", error_name(error)))).ok()
    }

    /// The number of the next connect, if there is to be one.
    fn take(&self) -> Option<u64> {
        let late = self.arguments.seconds.is_some_and(|limit| self.start.elapsed().as_secs_f64() >= limit);
        if late || self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let ordinal = self.next.fetch_add(1, Ordering::Relaxed);
        self.arguments.count.is_none_or(|count| ordinal < count).then_some(ordinal)
    }

    fn connect(&self, report: &mut ConnectsReport, read: bool) {
        report.attempts += 1;
        let client = &self.arguments.socket;
        let address = client.address();
        let mut took = Duration::ZERO;
        let outcome = client.open().and_then(|socket| {
            socket.set_linger(Some(Duration::ZERO))?;
            let start = Instant::now();
            let outcome = socket.connect(&address.into());
            took = start.elapsed();
            outcome.map(|()| socket)
        });
        report.slow += u64::from(took > SLOW);
        report.slowest_ms = report.slowest_ms.max(took.as_secs_f64() * 1e3);
        match outcome {
            Ok(socket) => {
                report.connected += 1;
                if read {
                    look(socket, address, report);
                }
            }
            Err(error) => {
                let name = error_name(&error);
                if report.first_failures.len() < DESCRIBED {
                    let at = self.start.elapsed();
                    report.first_failures.push(format!("{name} at {at:.3?} after {took:.3?}"));
                }
                *report.failed.entry(name).or_default() += 1;
            }
        }
    }
}

/// Whether the peer that the socket shows is the one that was asked for.
fn shows(socket: &socket2::Socket, asked: std::net::SocketAddr) -> bool {
    socket.peer_addr().is_ok_and(|peer| peer.as_socket() == Some(asked))
}

/// Reads the server's name and compares the peer's address with what was asked for.
fn look(mut socket: socket2::Socket, asked: std::net::SocketAddr, report: &mut ConnectsReport) {
    report.wrong_peer += u64::from(!shows(&socket, asked));
    let mut name = String::new();
    let problem = match socket.read_to_string(&mut name) {
        Ok(0) => "EOF".to_owned(),
        Ok(_) => {
            *report.served.entry(name).or_default() += 1;
            return;
        }
        Err(error) => error_name(&error),
    };
    *report.unanswered.entry(problem).or_default() += 1;
}
