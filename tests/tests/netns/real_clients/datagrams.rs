//! Clients of UDP that speak no protocol of names: logger, which sends and waits for nothing, and socat with a socket
//! that it never connects.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::process::Process;
use tests::wait::until;

use super::stage::{Backend, Stage, name};
use super::{
    CHANGE, RUNS_AFTER, TRIES, Way, bracketed, fails_unhooked, have, named, prove, run, settle, spawn,
};

/// Prints what comes by datagrams, or by connections.
fn receiver(backend: &Backend<'_>, is_udp: bool) -> Vec<String> {
    let kind = if is_udp { "UDP6-RECV" } else { "TCP6-LISTEN" };
    let options = if is_udp { "ipv6only=0" } else { "ipv6only=0,fork" };
    ["socat", "-u", &format!("{kind}:{},{options}", backend.port), "STDOUT"].map(str::to_owned).into()
}

/// Answers each datagram, or each connection, with the backend's name.
fn answerer(backend: &Backend<'_>, is_udp: bool) -> Vec<String> {
    // A datagram is taken before it is answered, as socat gives up on a program that does not.
    let (kind, first) = if is_udp { ("UDP6-RECVFROM", "read line &&") } else { ("TCP6-LISTEN", "") };
    let address = format!("{kind}:{},ipv6only=0,fork", backend.port);
    ["socat", &address, &format!("SYSTEM:{first} echo {}", backend.pod.name)].map(str::to_owned).into()
}

#[test]
fn messages_of_logger_come_to_both_backends() {
    if !have(&["logger", "socat"]) {
        return;
    }
    let stage = Stage::new(&[("UDP", 514), ("TCP", 514)]);
    let by_udp = stage.serve(&[("UDP", 514)], |backend| receiver(backend, true));
    let by_tcp = stage.serve(&[("TCP", 514)], |backend| receiver(backend, false));
    let next = Cell::new(0);
    let log = |Way { client, vip, patience }: Way<'_>, option: &str, receivers: &[Process; 2]| {
        let message = format!("message-{}.", next.replace(next.get() + 1));
        let vip = vip.to_string();
        run(client, &["logger", "--server", &vip, "--port", "514", option, "--tag", "shunt", &message])?;
        // It is no failure for logger that nobody gets what it sent.
        let got = || Ok([1, 2].into_iter().find(|node| receivers[node - 1].log().contains(&message)));
        Ok(name(until(patience, &message, got)?))
    };
    prove(
        &stage,
        &[
            ("logger, UDP", &|way| log(way, "--udp", &by_udp)),
            ("logger, TCP", &|way| log(way, "--tcp", &by_tcp)),
        ],
    );
}

#[test]
fn socat_meets_both_backends() {
    if !have(&["socat"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", 7), ("UDP", 7)]);
    let _by_tcp = stage.serve(&[("TCP", 7)], |backend| answerer(backend, false));
    let _by_udp = stage.serve(&[("UDP", 7)], |backend| answerer(backend, true));
    let tcp = |Way { client, vip, .. }: Way<'_>| {
        let address = format!("TCP:{}:7,connect-timeout=2", bracketed(vip));
        named(&run(client, &["socat", "-u", &address, "STDOUT"])?)
    };
    let udp = |way: Way<'_>| Talk::start(way, CONNECTED).ask();
    prove(&stage, &[("socat, TCP", &tcp), ("socat, connected UDP", &udp)]);
}

/// Socat's names of the two kinds of UDP socket, with a place for the family.
const CONNECTED: &str = "UDP*";
const UNCONNECTED: &str = "UDP*-SENDTO";

/// A socat that keeps one socket.
struct Talk {
    process: Process,
    patience: Duration,
}

impl Talk {
    fn start(Way { client, vip, patience }: Way<'_>, kind: &str) -> Self {
        let family = if vip.is_ipv4() { '4' } else { '6' };
        let address = kind.replace('*', &family.to_string()) + &format!(":{}:7", bracketed(vip));
        Self { process: spawn(client, &["socat", "STDIO", &address]).unwrap(), patience }
    }

    /// Sends a datagram; who answered. What does not come from the address that it sends to, socat takes for a
    /// stranger's and drops.
    fn ask(&mut self) -> Result<String> {
        self.process.send("?")?;
        named(&self.process.next_line(self.patience)?)
    }
}

#[test]
fn a_socket_of_socat_that_is_not_connected_loses_nothing_when_its_backend_is_withdrawn() {
    if !have(&["socat"]) {
        return;
    }
    let stage = Stage::new(&[("UDP", 7)]);
    let _servers = stage.serve(&[("UDP", 7)], |backend| answerer(backend, true));
    let _agents = stage.agents();
    // Nobody tells such a socket that its datagram got nowhere.
    fails_unhooked(&stage, &|way| Talk::start(way, UNCONNECTED).ask());
    let at_first = |way| {
        let mut talks = (0..TRIES).map(|_| Talk::start(way, UNCONNECTED));
        talks.find_map(|mut talk| (talk.ask().unwrap() == name(1)).then_some(talk)).unwrap()
    };
    let mut talks: Vec<Talk> = stage.ways().into_iter().map(at_first).collect();
    for talk in &mut talks {
        for _ in 0..RUNS_AFTER {
            assert_eq!(talk.ask().unwrap(), name(1), "a socket stays with its backend while that is there");
        }
    }
    stage.list(&[2]);
    let deadline = Instant::now() + CHANGE;
    for talk in &mut talks {
        settle(deadline, || talk.ask().unwrap());
        assert!(talk.process.is_running());
    }
    println!("socat, UDP that is not connected: one socket each, no datagram lost over the withdrawal");
}
