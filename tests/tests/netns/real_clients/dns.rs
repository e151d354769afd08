//! Clients of DNS: dig, the resolver of the C library, and dnsperf, whose sockets are never connected.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::process::Process;

use super::stage::{Backend, Stage, VIPS, name};
use super::{CHANGE, LIMIT, Way, fails_unhooked, have, prove, run, spawn};

/// A name that each backend has another answer to, as it has to all names below it.
pub(crate) const WHO: &str = "who.test";
/// The name of the Service.
pub(crate) const WEB: &str = "web.test";

/// Answers [`WHO`] with its own address and its own name, and [`WEB`] with the Service's.
pub(crate) fn dnsmasq(backend: &Backend<'_>) -> Vec<String> {
    let (pod, port) = (backend.pod, backend.port);
    let mut words: Vec<String> = ["dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null"]
        .into_iter()
        .chain(["--no-resolv", "--no-hosts", "--pid-file=", "--bind-interfaces"])
        .chain(["--log-facility=-", "--log-queries"])
        .map(str::to_owned)
        .collect();
    words.extend([pod.v4, pod.v6].map(|ip| format!("--listen-address={ip}")));
    words.extend(VIPS.map(|vip| format!("--address=/{WEB}/{vip}")));
    words.push(format!("--port={port}"));
    words.push(format!("--txt-record={WHO},{}", pod.name));
    words.push(format!("--address=/{WHO}/{}", pod.v4));
    words
}

/// A private view of the files that tell the C library whom to ask.
pub(crate) struct Resolver<'a> {
    stage: &'a Stage,
    script: String,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(stage: &'a Stage) -> Self {
        for vip in VIPS {
            stage.write(&format!("resolv-{vip}"), &format!("nameserver {vip}\n"));
        }
        stage.write("nsswitch", "hosts: dns\n");
        // Nothing under /run is there, so that no daemon of this machine is asked instead.
        let script = "set -e; mount -t tmpfs none /run; file=$(readlink -m /etc/resolv.conf); \
                      mkdir -p \"${file%/*}\"; [ -e \"$file\" ] || : > \"$file\"; mount --bind \"$1\" \"$file\"; \
                      mount --bind \"$2\" /etc/nsswitch.conf; shift 2; exec \"$@\"";
        Self { stage, script: script.to_owned() }
    }

    /// Runs a client that resolves names through the Service at `vip`.
    pub(crate) fn run(&self, Way { client, vip, .. }: Way<'_>, words: &[&str]) -> Result<String> {
        let files = [format!("resolv-{vip}"), "nsswitch".to_owned()];
        let [resolv, nsswitch] = files.map(|file| self.stage.dir().join(file).display().to_string());
        let head = ["unshare", "--mount", "sh", "-c", &self.script, "sh", &resolv, &nsswitch];
        run(client, &[&head, words].concat())
    }
}

#[test]
fn dig_meets_both_backends_and_names_the_vip() {
    if !have(&["dig", "dnsmasq"]) {
        return;
    }
    let ports = [("UDP", 53), ("TCP", 53)];
    let stage = Stage::new(&ports);
    let _servers = stage.serve(&ports, dnsmasq);
    let dig = |way: Way<'_>, option: &str, protocol: &str| {
        let vip = way.vip;
        let (at, time) = (format!("@{vip}"), format!("+time={}", way.seconds()));
        let said = run(way.client, &["dig", "-r", &at, option, &time, "+tries=1", WHO, "TXT"])?;
        let server = format!(";; SERVER: {vip}#53({vip}) ({protocol})");
        ensure!(said.lines().any(|line| line == server), "not {server}: {said}");
        let answer = said.lines().find(|line| line.starts_with(WHO)).context(said.clone())?;
        Ok(answer.split('"').nth(1).context("no text")?.to_owned())
    };
    prove(
        &stage,
        &[
            ("dig, UDP, saw the VIP", &|way| dig(way, "+notcp", "UDP")),
            ("dig, TCP, saw the VIP", &|way| dig(way, "+tcp", "TCP")),
        ],
    );
}

#[test]
fn the_resolver_of_the_c_library_meets_both_backends() {
    if !have(&["getent", "dnsmasq", "unshare"]) {
        return;
    }
    let stage = Stage::new(&[("UDP", 53)]);
    let _servers = stage.serve(&[("UDP", 53)], dnsmasq);
    let resolver = Resolver::new(&stage);
    let ask = |way: Way<'_>| {
        let said = resolver.run(way, &["timeout", &way.seconds(), "getent", "ahostsv4", WHO])?;
        let ip = said.split_whitespace().next().context("no address")?.parse()?;
        stage.name_of(ip).with_context(|| format!("of no backend: {said}"))
    };
    prove(&stage, &[("getent", &ask)]);
}

#[test]
fn dnsperf_loses_no_query_of_its_sockets_when_a_backend_is_withdrawn() {
    if !have(&["dnsperf", "dnsmasq"]) {
        return;
    }
    let stage = Stage::new(&[("UDP", 53)]);
    let servers = stage.serve(&[("UDP", 53)], dnsmasq);
    // A name for each way, so that the servers' logs tell who asked.
    let load = |way: usize, Way { client, vip, .. }: Way<'_>, options: &[&str]| {
        let file = stage.write(&format!("queries-{way}"), &format!("{way}.{WHO} A\n"));
        let (file, vip) = (file.display().to_string(), vip.to_string());
        spawn(client, &[&["dnsperf", "-s", &vip, "-d", &file], options].concat()).unwrap()
    };
    let once = |way: Way<'_>| {
        let mut process = load(9, way, &["-n", "1", "-t", &way.seconds()]);
        process.wait(LIMIT)?;
        ensure!(is_complete(&process.log()), "{}", process.log());
        Ok(name(1))
    };
    let _agents = stage.agents();
    fails_unhooked(&stage, &once);
    let mut loads = Vec::new();
    for (number, way) in stage.ways().into_iter().enumerate() {
        once(way).unwrap();
        // Twenty sockets, each of which stays with its backend as long as it is there.
        loads.push(load(number, way, &["-c", "20", "-Q", "400", "-l", "3", "-t", "5"]));
    }
    sleep(Duration::from_millis(700));
    let before: Vec<[usize; 2]> =
        (0..loads.len()).map(|way| [0, 1].map(|server| asked(&servers[server], way))).collect();
    stage.list(&[2]);
    let gone = last_query(&servers[0]);
    assert!(loads.iter_mut().all(Process::is_running), "the loads ended before the withdrawal was in force");
    for (way, mut process) in loads.into_iter().enumerate() {
        process.wait(LIMIT).unwrap();
        let after = asked(&servers[1], way);
        println!("dnsperf: {:?} queries to each backend, and {after} to the one that is left", before[way]);
        assert!(is_complete(&process.log()), "{}", process.log());
        assert!(before[way].iter().all(|count| *count > 0) && after > before[way][1], "{before:?} {after}");
    }
    assert_eq!(servers[0].log().len(), gone, "queries to a backend long after its withdrawal");
}

/// How often the name of a way was asked for.
fn asked(server: &Process, way: usize) -> usize {
    server.log().matches(&format!("query[A] {way}.{WHO} ")).count()
}

/// Whether all queries that dnsperf sent were answered well, and there were some.
fn is_complete(said: &str) -> bool {
    ["Queries completed:", "(100.00%)", "Queries lost:         0 (", "NOERROR"]
        .iter()
        .all(|words| said.contains(words))
}

/// Waits until a server is asked no more; the length of its log then.
fn last_query(server: &Process) -> usize {
    let deadline = Instant::now() + CHANGE;
    loop {
        let length = server.log().len();
        // Each way asks every few milliseconds.
        sleep(Duration::from_millis(200));
        if server.log().len() == length {
            return length;
        }
        assert!(Instant::now() < deadline, "queries to a backend {CHANGE:?} after its withdrawal");
    }
}
