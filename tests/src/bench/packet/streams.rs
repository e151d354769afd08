//! Streams of iperf3: how much in a second.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use serde_json::Value;

use super::site::{By, Site, What};
use super::{Comparison, PacketArguments};
use crate::bench::estimate::Goal;
use crate::bench::table::Report;
use crate::netns::Netns;
use crate::process::Process;

const PLAIN: Goal = Goal::AtLeast { bound: 0.98, resolution: 0.02 };
/// What makes way for others. One that paces itself by what it has measured (BBR, the default of some hosts) is most of what a
/// short stream would tell.
const CONGESTION: &str = "reno";
const SOON: Duration = Duration::from_secs(5);

pub(super) fn measure(
    site: &Site<'_>,
    arguments: &PacketArguments,
    (report, random): (&mut Report, &mut Rng),
) -> Result<()> {
    if arguments.streams == 0 {
        return Ok(());
    }
    if Command::new("iperf3").arg("--version").output().is_err() {
        bail!("no iperf3 in PATH; `cargo xtask setup` brings it, and `cargo xtask bench` finds it");
    }
    let servers: Vec<Process> = [By::Nobody, By::Shunt, By::KubeProxy]
        .into_iter()
        .map(|by| serve(site.pod(by)))
        .collect::<Result<_>>()?;
    let mut lines = vec![
        ("stream, NodePort : plain routing", PLAIN, [By::Shunt, By::Nobody]),
        ("control: stream, plain : plain", PLAIN, [By::Nobody, By::Nobody]),
    ];
    if site.has_kube_proxy {
        lines.push(("stream, NodePort : kube-proxy", Goal::None, [By::Shunt, By::KubeProxy]));
    }
    for (name, goal, [one, other]) in lines {
        let mib = arguments.mib;
        let note = format!("{} pairs of {mib} MiB, iperf3", arguments.streams);
        let halves: [&mut dyn FnMut() -> Result<f64>; 2] =
            [&mut || half(site, one, mib), &mut || half(site, other, mib)];
        let line = Comparison { name, goal, halves, pairs: arguments.streams, note };
        line.add((&mut *report, &mut *random))?;
    }
    drop(servers);
    Ok(())
}

fn serve(pod: &Netns) -> Result<Process> {
    let mut command = pod.command("iperf3");
    command.args(["--server", "--forceflush"]);
    let mut server = Process::spawn("iperf3", command)?;
    server.wait_line(SOON, |line| line.contains("listening"))?;
    Ok(server)
}

/// Seconds that a bit takes.
fn half(site: &Site<'_>, by: By, mib: u32) -> Result<f64> {
    let (client, at) = site.way(by, What::Stream);
    let (address, port, bytes) = (at.ip().to_string(), at.port().to_string(), format!("{mib}M"));
    let all =
        ["--client", &address, "--port", &port, "--bytes", &bytes, "--congestion", CONGESTION, "--json"];
    let said = client.run("iperf3", &all)?;
    let said: Value = serde_json::from_str(&said).context("what iperf3 says")?;
    match said["end"]["sum_received"]["bits_per_second"].as_f64() {
        Some(rate) if rate > 0.0 => Ok(1.0 / rate),
        _ => bail!("no rate in what iperf3 says: {said}"),
    }
}
