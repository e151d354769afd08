//! Clients and servers that nobody here wrote, from a distribution's packages: each client is sent through a Service
//! with two backends that answer differently.
//!
//! Each test prints which version it ran and what it saw. `cargo xtask setup` brings the programs.

mod datagrams;
mod dns;
mod http;
mod iperf3;
mod nginx;
mod redis;
mod stage;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::load::Place;
use tests::process::{Process, placed};

use self::stage::Stage;

/// Runs often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;
/// Runs that must all meet the backend that is left.
const RUNS_AFTER: usize = 6;
/// Limit within which a change of manifests is in force.
const CHANGE: Duration = Duration::from_secs(2);
/// How long a client waits for an answer that is to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Limit of one run of a client, and of the start of a server.
const LIMIT: Duration = Duration::from_secs(30);

/// One run of a client, which asks what is at an address: the name of the backend that answered. An error where the
/// client failed, or has seen another peer than that address.
type Ask<'a> = &'a dyn Fn(Way<'_>) -> Result<String>;

/// A client, and the address of the Service that it is to ask.
#[derive(Clone, Copy)]
struct Way<'a> {
    client: Place<'a>,
    vip: IpAddr,
    /// How long to wait for an answer: long enough for any machine, but short where none can come.
    patience: Duration,
}

impl Way<'_> {
    /// Its patience as programs take it: whole seconds.
    fn seconds(&self) -> String {
        self.patience.as_secs().to_string()
    }
}

/// What every client must do: fail where no hook sees it, meet both backends, and only the one that is left after the
/// other has been withdrawn. From a pod and from a host, over IPv4 and IPv6.
#[track_caller]
fn prove(stage: &Stage, asks: &[(&str, Ask<'_>)]) {
    let _agents = stage.agents();
    for (what, ask) in asks {
        fails_unhooked(stage, *ask);
        for way in stage.ways() {
            let mut met = BTreeSet::new();
            for _ in 0..TRIES {
                met.insert(ask(way).unwrap());
                if met.len() == stage::NODES.len() {
                    break;
                }
            }
            assert_eq!(met, stage.names(), "{what} to {}", way.vip);
        }
    }
    stage.list(&[2]);
    let deadline = Instant::now() + CHANGE;
    for (what, ask) in asks {
        for way in stage.ways() {
            settle(deadline, || ask(way).unwrap());
        }
        println!(
            "{what}: from a pod and a host, over IPv4 and IPv6, met both backends, then only the one that was left; \
             failed without hooks"
        );
    }
}

/// The control: without the hooks the same command fails, by each kind of client and over each family.
#[track_caller]
fn fails_unhooked(stage: &Stage, ask: Ask<'_>) {
    for way in stage.corners() {
        let outcome = ask(stage.unhooked(way));
        assert!(outcome.is_err(), "answered without a hook: {outcome:?}");
    }
}

/// Asks until only the second backend answers; none of the runs fails meanwhile.
#[track_caller]
fn settle(deadline: Instant, mut ask: impl FnMut() -> String) {
    let mut in_a_row = 0;
    while in_a_row < RUNS_AFTER {
        let name = ask();
        in_a_row = if name == stage::name(2) { in_a_row + 1 } else { 0 };
        assert!(in_a_row > 0 || Instant::now() < deadline, "{name} answers after its withdrawal");
    }
}

/// Starts a client or a server, without any setting of the user who runs the test: no proxy, no language, no home.
fn spawn(place: Place<'_>, words: &[&str]) -> Result<Process> {
    let (program, arguments) = words.split_first().context("no program is named")?;
    let mut command = placed(Path::new(program), place.netns, place.cgroup);
    command.args(arguments).env_clear().env("PATH", search_path());
    Process::spawn(program, command)
}

/// Runs a client to its end; what it said, or an error that holds it where the client failed.
fn run(place: Place<'_>, words: &[&str]) -> Result<String> {
    let mut process = spawn(place, words)?;
    process.close_stdin();
    let status = process.wait(LIMIT)?;
    ensure!(status.success(), "{words:?} ended with {status}: {}", process.log());
    Ok(process.log())
}

/// The name of a backend, which is a whole line of `said`.
fn named(said: &str) -> Result<String> {
    let is_name = |line: &&str| stage::NODES.iter().any(|node| **line == stage::name(*node));
    said.lines().map(str::trim).find(is_name).map(str::to_owned).with_context(|| format!("no name: {said}"))
}

/// Whether all programs are there, whose versions are printed; where one is missing, the test is skipped.
fn have(programs: &[&str]) -> bool {
    let path = search_path();
    let is_missing =
        |program: &&&str| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = programs.iter().filter(is_missing).copied().collect();
    if !missing.is_empty() {
        tests::skip(&format!("no {} in PATH; `cargo xtask setup` brings it", missing.join(", ")));
        return false;
    }
    for program in programs {
        println!("{}", version(program).unwrap());
    }
    true
}

/// The line in which a program tells its version.
fn version(program: &str) -> Result<String> {
    let option = match program {
        "dig" | "nginx" => "-v",
        "dnsperf" => "-h",
        "socat" => "-V",
        _ => "--version",
    };
    let output = std::process::Command::new(program).arg(option).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let is_version = |line: &&str| {
        line.split('.').skip(1).any(|rest| rest.starts_with(|sign: char| sign.is_ascii_digit()))
    };
    let line = said.lines().find(is_version).map(str::trim);
    let line = line.with_context(|| format!("{program} tells no version: {said}"))?;
    let names_itself = line.to_lowercase().contains(program);
    Ok(if names_itself { line.to_owned() } else { format!("{program}: {line}") })
}

fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// An address as a URL and `host:port` have it.
fn bracketed(ip: IpAddr) -> String {
    if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") }
}
