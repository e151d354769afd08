//! redis-cli: one command a connection, and one connection for many commands.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use tests::process::Process;

use super::stage::{Backend, Stage, name};
use super::{CHANGE, LIMIT, TRIES, Way, have, prove, run, settle, spawn};

const PORT: u16 = 6379;

/// Keeps nothing on a disk and lets everybody in; its setting `bind` tells the servers apart.
fn server(backend: &Backend<'_>) -> Vec<String> {
    let pod = backend.pod;
    let (port, dir) = (backend.port.to_string(), backend.dir.display().to_string());
    let words =
        ["redis-server", "--port", &port, "--dir", &dir, "--save", "", "--protected-mode", "no", "--bind"];
    words.map(str::to_owned).into_iter().chain([pod.v4, pod.v6].map(|ip| ip.to_string())).collect()
}

fn words(vip: IpAddr) -> [String; 5] {
    ["redis-cli".to_owned(), "-h".to_owned(), vip.to_string(), "-p".to_owned(), PORT.to_string()]
}

/// The backend that answered with its setting `bind`.
fn named(stage: &Stage, said: &str) -> Result<String> {
    let ip = said.split_whitespace().find_map(|word| word.parse().ok());
    ip.and_then(|ip| stage.name_of(ip)).with_context(|| format!("of no backend: {said}"))
}

#[test]
fn redis_cli_meets_both_backends() {
    if !have(&["redis-cli", "redis-server"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", PORT)]);
    let _servers = stage.serve(&[("TCP", PORT)], server);
    let ask = |Way { client, vip, .. }: Way<'_>| {
        let words = words(vip);
        let words: Vec<&str> = words.iter().map(|word| &**word).chain(["config", "get", "bind"]).collect();
        named(&stage, &run(client, &words)?)
    };
    prove(&stage, &[("redis-cli", &ask)]);
}

/// redis-cli with a connection that it keeps.
struct Session<'a> {
    stage: &'a Stage,
    process: Process,
}

impl<'a> Session<'a> {
    fn start(stage: &'a Stage, Way { client, vip, .. }: Way<'_>) -> Self {
        let words = words(vip);
        Self { stage, process: spawn(client, &words.each_ref().map(|word| &**word)).unwrap() }
    }

    /// Which backend answers; one that has ended is told of first, and then asked no more.
    fn ask(&mut self) -> String {
        self.process.send("config get bind").unwrap();
        let has_ended = |line: &str| line.starts_with("Error: Server closed the connection");
        let is_answer = |line: &str| named(self.stage, line).is_ok();
        let said = self.process.wait_line(LIMIT, |line| has_ended(line) || is_answer(line)).unwrap();
        if has_ended(&said) { self.ask() } else { named(self.stage, &said).unwrap() }
    }
}

#[test]
fn redis_cli_keeps_its_connection_to_a_withdrawn_backend_and_connects_anew_when_that_ends() {
    if !have(&["redis-cli", "redis-server"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", PORT)]);
    let [mut first, _second] = stage.serve(&[("TCP", PORT)], server);
    let _agents = stage.agents();
    let at_first = |way| {
        let mut sessions = (0..TRIES).map(|_| Session::start(&stage, way));
        sessions.find_map(|mut session| (session.ask() == name(1)).then_some(session)).unwrap()
    };
    let mut sessions: Vec<Session<'_>> = stage.ways().into_iter().map(at_first).collect();
    stage.list(&[2]);
    let deadline = Instant::now() + CHANGE;
    for way in stage.ways() {
        settle(deadline, || Session::start(&stage, way).ask());
    }
    for session in &mut sessions {
        assert_eq!(session.ask(), name(1), "what is established stays");
    }
    first.kill().unwrap();
    for session in &mut sessions {
        assert_eq!(session.ask(), name(2));
    }
    println!(
        "redis-cli: kept its connection over the withdrawal, and found the other backend after the end of its own"
    );
}
