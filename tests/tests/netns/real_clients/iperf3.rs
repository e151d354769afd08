//! iperf3: a control connection of TCP beside the stream that is measured.
//!
//! Both must come to the same server, so one backend at a time is listed.

use anyhow::{Context, Result, ensure};
use tests::wait::until;

use super::stage::{Backend, NODES, Stage, name};
use super::{CHANGE, Way, fails_unhooked, have, run};

const PORT: u16 = 5201;

fn server(backend: &Backend<'_>) -> Vec<String> {
    ["iperf3", "--server", "--forceflush", "--port", &backend.port.to_string()].map(str::to_owned).into()
}

/// One measurement; the name of the backend whose address the server reports.
fn iperf3(stage: &Stage, Way { client, vip, .. }: Way<'_>, options: &[&str]) -> Result<String> {
    let (vip, port) = (vip.to_string(), PORT.to_string());
    let words = ["iperf3", "--client", &vip, "--port", &port, "--get-server-output"];
    let said = run(client, &[&words, options].concat())?;
    let (seen, of_server) = said.split_once("Server output:").context(said.clone())?;
    let sees_vip = format!(" connected to {vip} port {PORT}");
    ensure!(seen.lines().any(|line| line.ends_with(&sees_vip)), "another peer than {vip}: {seen}");
    let local = of_server.split_once("] local ").context(said.clone())?.1;
    let ip = local.split(' ').next().context("no address")?.parse()?;
    stage.name_of(ip).with_context(|| format!("{ip} is of no backend"))
}

#[test]
fn iperf3_measures_each_backend_over_tcp_and_udp_and_names_the_vip() {
    if !have(&["iperf3"]) {
        return;
    }
    let ports = [("TCP", PORT), ("UDP", PORT)];
    let stage = Stage::new(&ports);
    // It opens the port for datagrams only when a client asks for one.
    let _servers = stage.serve(&ports[..1], server);
    stage.list(&[]);
    let _agents = stage.agents();
    let kinds: [(&str, &[&str]); 2] =
        [("TCP", &["--bytes", "1M"]), ("UDP", &["--udp", "--bitrate", "50M", "--bytes", "128K"])];
    for (_, options) in kinds {
        fails_unhooked(&stage, &|way| iperf3(&stage, way, options));
    }
    for node in NODES {
        for way in stage.ways() {
            until(CHANGE, "the withdrawal", || Ok(is_refused(&stage, way).then_some(()))).unwrap();
        }
        stage.list(&[node]);
        for (kind, options) in kinds {
            for way in stage.ways() {
                // What comes before the change is in force is refused.
                until(CHANGE, "the endpoint", || iperf3(&stage, way, options).map(Some)).unwrap();
                for _ in 0..2 {
                    assert_eq!(iperf3(&stage, way, options).unwrap(), name(node), "{kind}");
                }
            }
            println!(
                "iperf3, {kind}, saw the VIP: from a pod and a host, over IPv4 and IPv6, met only {}",
                name(node)
            );
        }
        stage.list(&[]);
    }
}

/// Whether a client is told that nobody serves.
fn is_refused(stage: &Stage, way: Way<'_>) -> bool {
    iperf3(stage, way, &["--bytes", "1K"])
        .is_err_and(|error| error.to_string().contains("Connection refused"))
}
