//! Clients of HTTP: curl, wget by a name that is resolved through the Service too, and the HTTP/2 clients of nghttp2.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::process::Process;

use super::stage::{Backend, Stage};
use super::{
    CHANGE, LIMIT, Way, bracketed, dns, fails_unhooked, have, named, nginx, prove, run, settle, spawn,
};

/// Serves a file `who` with the backend's name over HTTP/2 without TLS.
fn nghttpd(backend: &Backend<'_>) -> Vec<String> {
    std::fs::write(backend.dir.join("who"), format!("{}\n", backend.pod.name)).unwrap();
    let dir = backend.dir.display().to_string();
    ["nghttpd", "--no-tls", "-d", &dir, &backend.port.to_string()].map(str::to_owned).into()
}

#[test]
fn curl_meets_both_backends_and_names_the_vip() {
    if !have(&["curl", "nginx", "nghttpd"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", 80), ("TCP", 81)]);
    let _web = stage.serve(&[("TCP", 80)], nginx::web_server);
    let _web_2 = stage.serve(&[("TCP", 81)], nghttpd);
    let curl = |way: Way<'_>, (option, port): (&str, u16), version: &str| {
        let url = format!("http://{}:{port}/who", bracketed(way.vip));
        let format = "%{http_version} %{remote_ip} %{remote_port}\n";
        let said = run(way.client, &["curl", "-sS", "-m", &way.seconds(), option, "-w", format, &url])?;
        let end = format!("{version} {} {port}", way.vip);
        ensure!(said.lines().last() == Some(&end), "not {end}: {said}");
        named(&said)
    };
    prove(
        &stage,
        &[
            ("curl, HTTP/1.1, saw the VIP", &|way| curl(way, ("--http1.1", 80), "1.1")),
            ("curl, HTTP/2, saw the VIP", &|way| curl(way, ("--http2-prior-knowledge", 81), "2")),
        ],
    );
}

#[test]
fn wget_finds_the_vip_by_its_name_and_meets_both_backends() {
    if !have(&["wget", "nginx", "dnsmasq", "unshare"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", 80), ("UDP", 53)]);
    let _web = stage.serve(&[("TCP", 80)], nginx::web_server);
    let _names = stage.serve(&[("UDP", 53)], dns::dnsmasq);
    let resolver = dns::Resolver::new(&stage);
    let ask = |way: Way<'_>| {
        let family = if way.vip.is_ipv4() { "-4" } else { "-6" };
        let url = format!("http://{}/who", dns::WEB);
        let words = ["wget", family, "-T", &way.seconds(), "-t", "1", "-O", "-", &url];
        let said = resolver.run(way, &words)?;
        ensure!(said.contains(&format!("|{}|:80... connected.", way.vip)), "another peer: {said}");
        named(&said)
    };
    prove(&stage, &[("wget, resolved and saw the VIP", &ask)]);
}

/// One request; nghttp succeeds also where it could not connect, but then it shows no name.
fn nghttp(Way { client, vip, .. }: Way<'_>) -> Result<String> {
    named(&run(client, &["nghttp", &url(vip)])?)
}

fn url(vip: IpAddr) -> String {
    format!("http://{}/who", bracketed(vip))
}

#[test]
fn nghttp_meets_both_backends() {
    if !have(&["nghttp", "nghttpd"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", 80)]);
    let _servers = stage.serve(&[("TCP", 80)], nghttpd);
    prove(&stage, &[("nghttp", &nghttp)]);
}

#[test]
fn h2load_loses_no_request_of_a_connection_whose_backend_is_withdrawn() {
    if !have(&["h2load", "nghttp", "nghttpd"]) {
        return;
    }
    let stage = Stage::new(&[("TCP", 80)]);
    let _servers = stage.serve(&[("TCP", 80)], nghttpd);
    let _agents = stage.agents();
    let once = |Way { client, vip, .. }: Way<'_>| {
        let said = run(client, &["h2load", "-c", "1", "-n", "1", &url(vip)])?;
        ensure!(said.contains("1 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        Ok(said)
    };
    fails_unhooked(&stage, &once);
    let start = |Way { client, vip, .. }: Way<'_>| {
        spawn(client, &["h2load", "-c", "10", "--rps=20", "-D", "3", &url(vip)]).unwrap()
    };
    let mut loads: Vec<Process> = stage.ways().into_iter().map(start).collect();
    for load in &mut loads {
        load.wait_line(LIMIT, |line| line.starts_with("Main benchmark duration is started")).unwrap();
    }
    stage.list(&[2]);
    let deadline = Instant::now() + CHANGE;
    for way in stage.corners() {
        settle(deadline, || nghttp(way).unwrap());
    }
    assert!(loads.iter_mut().all(Process::is_running), "the loads ended before the withdrawal was in force");
    for mut load in loads {
        let said = load.wait_line(LIMIT, |line| line.starts_with("requests: ")).unwrap();
        println!("h2load, 10 connections over the withdrawal of a backend: {said}");
        assert!(said.ends_with("0 failed, 0 errored, 0 timeout"), "{said}");
        let done: u32 = said.split(' ').nth(5).unwrap().parse().unwrap();
        assert!(done > 300, "{said}");
    }
}
