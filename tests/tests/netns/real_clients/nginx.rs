//! nginx: as the web server of other tests, and as a client that asks a Service for names and passes datagrams on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::load::Place;
use tests::process::Process;

use super::stage::{Backend, Stage};
use super::{LIMIT, Way, bracketed, dns, have, named, prove, run, search_path, spawn};

/// Where nginx as a client serves, in the network of that client.
const PROXY: &str = "127.0.0.1:8081";
/// Where it takes datagrams.
const UDP_PROXY: u16 = 5300;

/// Answers every request with the backend's name.
pub(crate) fn web_server(backend: &Backend<'_>) -> Vec<String> {
    let server = format!(
        "http {{ {} server {{ listen [::]:{} ipv6only=off; location / {{ return 200 \"{}\\n\"; }} }} }}",
        http_settings(&backend.dir),
        backend.port,
        backend.pod.name,
    );
    nginx(&backend.dir, &server)
}

/// What starts nginx with these blocks of configuration, and all of its files in `dir`.
fn nginx(dir: &Path, blocks: &str) -> Vec<String> {
    // One process, which is gone at once when it is killed.
    let head = format!("daemon off; master_process off; user root; pid {}/pid;", dir.display());
    let file = dir.join("nginx.conf");
    fs::write(&file, format!("{head}\n{blocks}\nevents {{}}\n")).unwrap();
    let (dir, file) = (format!("{}/", dir.display()), file.display().to_string());
    ["nginx", "-p", &dir, "-c", &file, "-e", "stderr"].map(str::to_owned).into()
}

/// Where it would else write.
fn http_settings(dir: &Path) -> String {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = folders.map(|name| format!("{name}_temp_path {}/{name};", dir.display()));
    format!("access_log off; {}", folders.concat())
}

/// Starts nginx as a client, with these blocks of configuration.
fn start(stage: &Stage, client: Place<'_>, blocks: &str) -> Result<Process> {
    let words = nginx(stage.dir(), &format!("{blocks} error_log stderr notice;"));
    let mut process = spawn(client, &words.iter().map(|word| &**word).collect::<Vec<_>>())?;
    // Said when its sockets are open.
    process.wait_line(LIMIT, |line| line.contains("getrlimit(RLIMIT_NOFILE)"))?;
    Ok(process)
}

#[test]
fn nginx_resolves_its_upstreams_by_both_backends() {
    if !have(&["nginx", "dnsmasq", "curl"]) {
        return;
    }
    let stage = Stage::new(&[("UDP", 53), ("TCP", 80)]);
    let _names = stage.serve(&[("UDP", 53)], dns::dnsmasq);
    let _web = stage.serve(&[("TCP", 80)], web_server);
    let ask = |way: Way<'_>| {
        let seconds = way.seconds();
        let block = format!(
            "http {{ {} resolver {}:53 ipv6=off; resolver_timeout {seconds}s; server {{ listen {PROXY}; \
             location / {{ proxy_pass http://$arg_name:8080; }} }} }}",
            http_settings(stage.dir()),
            bracketed(way.vip),
        );
        let _nginx = start(&stage, way.client, &block)?;
        // Each name is new to it, so it asks for each, with one socket that it keeps; the answer is the address of
        // the backend that was asked, where the web server tells its name.
        let mut names = Vec::new();
        for number in 0..3 {
            let url = format!("http://{PROXY}/?name={number}.{}", dns::WHO);
            names.push(named(&run(way.client, &["curl", "-sSf", &url])?)?);
        }
        ensure!(names.iter().all(|name| *name == names[0]), "one socket, several backends: {names:?}");
        names.pop().context("no name was asked for")
    };
    prove(&stage, &[("nginx, resolver", &ask)]);
}

#[test]
fn nginx_passes_datagrams_on_to_both_backends() {
    if !have(&["nginx", "dnsmasq", "dig"]) {
        return;
    }
    let Some(module) = stream_module() else {
        tests::skip("no stream module beside nginx; `cargo xtask setup` brings it");
        return;
    };
    let stage = Stage::new(&[("UDP", 53)]);
    let _servers = stage.serve(&[("UDP", 53)], dns::dnsmasq);
    let ask = |way: Way<'_>| {
        let seconds = way.seconds();
        let block = format!(
            "load_module {}; stream {{ server {{ listen 127.0.0.1:{UDP_PROXY} udp; proxy_pass {}:53; proxy_responses 1; \
             proxy_timeout {seconds}s; }} }}",
            module.display(),
            bracketed(way.vip),
        );
        let _nginx = start(&stage, way.client, &block)?;
        let (port, time) = (UDP_PROXY.to_string(), format!("+time={seconds}"));
        let words = ["dig", "-r", "@127.0.0.1", "-p", &port, "+short", &time, "+tries=1", dns::WHO, "TXT"];
        let said = run(way.client, &words)?;
        named(&said.replace('"', ""))
    };
    prove(&stage, &[("nginx, stream of UDP", &ask)]);
}

/// The module for streams, which lies where the package of this nginx puts it.
fn stream_module() -> Option<PathBuf> {
    let nginx = std::env::split_paths(&search_path())
        .map(|folder| folder.join("nginx"))
        .find(|program| program.is_file())?;
    let module = nginx.parent()?.parent()?.join("lib/nginx/modules/ngx_stream_module.so");
    module.is_file().then_some(module)
}
