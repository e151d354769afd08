//! `bench sync`: an agent that follows an API server, and a real kube-proxy that follows the same one after it.
//!
//! An update is the write of a slice that gives an endpoint to a service that had none. It counts from just before the
//! request until a client on the node is let in; the client tries every 0.2 ms.

mod server;
mod usage;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use fastrand::Rng;
use serde_json::json;

use self::server::{Server, Size};
use self::usage::Usage;
use super::estimate::{Estimate, Goal, float, take_quantile};
use super::machine;
use super::scale::memory;
use super::table::{Figure, Report};
use crate::agent::{Agent, pin_dir};
use crate::apiserver::ApiServer;
use crate::cluster::bulk::{BACKEND_PORT, PORT, unreachable};
use crate::cluster::{ControlPlane, KubeProxy, Options};
use crate::peer::monotonic_nanoseconds;
use crate::topology::{Cluster, Node};

/// What to measure.
#[derive(Args)]
pub(super) struct SyncArguments {
    /// Services whose endpoints nobody reaches.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each.
    #[arg(long, default_value_t = 5)]
    endpoints: usize,
    /// Updates of each peer.
    #[arg(long, default_value_t = 200)]
    updates: usize,
    /// Starts of the agent on a node without pins.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Serve from a stand-in in the place of etcd and an API server, and leave kube-proxy out.
    #[arg(long)]
    stand_in: bool,
    /// Seconds of endpoint churn, a thousand updates a second over the first thousand services; with the stand-in.
    #[arg(long, requires = "stand_in")]
    churn: Option<u64>,
    /// Leave kube-proxy out.
    #[arg(long)]
    alone: bool,
}

/// What one peer did.
#[derive(Debug, Default)]
struct Run {
    /// Seconds from start to ready.
    starts: Vec<f64>,
    /// Milliseconds from write to reachable.
    updates: Vec<f64>,
    /// Bytes, once the updates are done.
    anonymous: u64,
    /// Seconds of processor time of the last start, and of the updates.
    cpu: [f64; 2],
    /// Bytes of all maps.
    maps: u64,
}

pub(super) fn run(arguments: &SyncArguments) -> Result<()> {
    machine::print();
    let topology = Cluster::new(2, 2)?;
    let options = Options { without_controllers: true, ..Options::default() };
    let control = if arguments.stand_in { None } else { Some(ControlPlane::start(&topology, &options)?) };
    let server = match &control {
        Some(control) => Server::Real(control),
        None => Server::StandIn(topology.node(1).netns.inside(ApiServer::start)??),
    };
    let peers = if arguments.stand_in || arguments.alone { 1 } else { 2 };
    let size = Size {
        services: arguments.services,
        endpoints: arguments.endpoints,
        waiting: arguments.updates * peers + usize::from(arguments.churn.is_some()),
    };
    println!(
        "\n{} services x {} endpoints, {} updates a peer",
        size.services, size.endpoints, arguments.updates
    );
    let start = Instant::now();
    let waiting = server.fill(size, &topology.nodes)?;
    println!("the objects were made in {:.1} s\n", start.elapsed().as_secs_f64());
    let pod = topology.pod(1, 2);
    let _backend = pod.place().serve([(SocketAddr::new(pod.v4, BACKEND_PORT), &*pod.name)])?;

    let bench = Bench { arguments, server: &server, backend: pod.v4 };
    let (agent, shunt) = bench.shunt(control.as_ref(), topology.node(1), &waiting)?;
    if let Some(seconds) = arguments.churn {
        bench.churn(&agent, topology.node(1), (seconds, &waiting))?;
    }
    drop(agent);
    let mut report = Report::new();
    add(&mut report, ("Shunt", goals(size)), &shunt)?;
    if let Some(control) = control.as_ref().filter(|_| peers == 2) {
        let proxy = bench.kube_proxy(control, topology.node(2), &waiting[arguments.updates..])?;
        add(&mut report, ("kube-proxy", [Goal::None; 4]), &proxy)?;
        let median = |samples: &[f64]| take_quantile(&mut samples.to_vec(), 0.5).context("no samples");
        let ratio =
            |one: f64, other: f64| Estimate { median: one / other, low: one / other, high: one / other };
        for (name, goal, estimate) in [
            ("start, of kube-proxy's", 1.0 / 20.0, ratio(median(&shunt.starts)?, median(&proxy.starts)?)),
            (
                "update p50, of kube-proxy's",
                1.0 / 50.0,
                ratio(median(&shunt.updates)?, median(&proxy.updates)?),
            ),
        ] {
            let note = "in this run".to_owned();
            report.add(&Figure { name, unit: "1", estimate, goal: Goal::AtMost(goal), note });
        }
    }
    report.print();
    Ok(())
}

/// Goals of start (s), update p50 and p99 (ms) and memory (MB).
fn goals(size: Size) -> [Goal; 4] {
    let (start, memory) = if size.services > 20_000 { (10.0, 250.0) } else { (1.0, 40.0) };
    [start, 5.0, 20.0, memory].map(Goal::AtMost)
}

struct Bench<'a> {
    arguments: &'a SyncArguments,
    server: &'a Server<'a>,
    backend: IpAddr,
}

impl Bench<'_> {
    fn shunt<'n>(
        &self,
        control: Option<&ControlPlane>,
        node: &'n Node,
        waiting: &[IpAddr],
    ) -> Result<(Agent<'n>, Run)> {
        let mut run = Run::default();
        let mut last = None;
        for _ in 0..self.arguments.starts.max(1) {
            drop(last.take());
            let start = Instant::now();
            let agent = self.start(control, node)?;
            run.starts.push(start.elapsed().as_secs_f64());
            last = Some(agent);
            if run.starts.len() < self.arguments.starts {
                last.take().context("an agent")?.clean_up()?;
            }
        }
        let agent = last.context("no start")?;
        let ready = Usage::of(agent.pid())?;
        run.updates = self.updates(node, waiting, 0)?;
        let done = Usage::of(agent.pid())?;
        (run.anonymous, run.cpu) = (done.anonymous, [ready.cpu, done.cpu - ready.cpu]);
        let pins = shunt::datapath::pin::PinDir::new(&pin_dir(node), proxy_common::names::SCHEMA);
        run.maps = memory::maps(&pins)?.values().sum();
        Ok((agent, run))
    }

    fn start<'n>(&self, control: Option<&ControlPlane>, node: &'n Node) -> Result<Agent<'n>> {
        match (self.server, control) {
            (Server::StandIn(server), _) => Agent::follow_at(node, &server.url()),
            (Server::Real(_), Some(control)) => {
                Agent::follow(node, &control.kubeconfig("system:kube-proxy")?, &["--devices", "auto"])
            }
            (Server::Real(_), None) => anyhow::bail!("a real server has a control plane"),
        }
    }

    fn kube_proxy(&self, control: &ControlPlane, node: &Node, waiting: &[IpAddr]) -> Result<Run> {
        let start = Instant::now();
        // Zero would be taken for "not set", which means a second.
        let settings = json!({ "nftables": { "minSyncPeriod": "1ms" } });
        let proxy = KubeProxy::start(control, node, "nftables", &settings)?;
        let mut run = Run { starts: vec![start.elapsed().as_secs_f64()], ..Run::default() };
        let ready = Usage::of(proxy.pid())?;
        run.updates = self.updates(node, waiting, self.arguments.updates)?;
        let done = Usage::of(proxy.pid())?;
        (run.anonymous, run.cpu) = (done.anonymous, [ready.cpu, done.cpu - ready.cpu]);
        Ok(run)
    }

    /// Fills the slices of the services that wait from number `first` on, one after the other.
    fn updates(&self, node: &Node, waiting: &[IpAddr], first: usize) -> Result<Vec<f64>> {
        let mut prober = node.pods[0].place().prober()?;
        let mut updates = Vec::with_capacity(self.arguments.updates);
        for (index, vip) in waiting.iter().take(self.arguments.updates).enumerate() {
            prober.aim(SocketAddr::new(*vip, PORT))?;
            let before = monotonic_nanoseconds();
            self.server.point(self.arguments.services + first + index, &[self.backend])?;
            let after = prober.hit()?;
            updates.push(float(after.saturating_sub(before)) / 1e6);
        }
        Ok(updates)
    }

    /// A thousand updates a second, of which ten are of the service that a client waits for.
    fn churn(&self, agent: &Agent<'_>, node: &Node, (seconds, waiting): (u64, &[IpAddr])) -> Result<()> {
        let index = self.arguments.services + waiting.len() - 1;
        let target = SocketAddr::new(waiting[waiting.len() - 1], PORT);
        let mut prober = node.pods[0].place().prober()?;
        let (before, start) = (Usage::of(agent.pid())?, Instant::now());
        let (mut lags, mut writes) = (Vec::new(), 0_u32);
        while start.elapsed() < Duration::from_secs(seconds) {
            prober.aim(target)?;
            let written = monotonic_nanoseconds();
            self.server.point(index, &[self.backend])?;
            lags.push(float(prober.hit()?.saturating_sub(written)) / 1e6);
            self.server.point(index, &[])?;
            writes += 2;
            // The rest of a tenth of a second's updates, evenly.
            let tenth = 100 * u32::try_from(lags.len()).unwrap_or(u32::MAX);
            while writes < tenth {
                let service = writes as usize % 1_000.min(self.arguments.services);
                let shift = writes as usize / 1_000 + 1;
                let endpoints = unreachable(service + shift, self.arguments.endpoints);
                self.server.point(service, &endpoints)?;
                writes += 1;
                let due = start + Duration::from_millis(1) * writes;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        let used = Usage::of(agent.pid())?.cpu - before.cpu;
        let took = start.elapsed().as_secs_f64();
        let [p50, p99] = [0.5, 0.99].map(|share| take_quantile(&mut lags, share).unwrap_or(f64::NAN));
        let verdict = agent.shunt_verify()?;
        println!(
            "churn: {writes} updates in {took:.1} s ({:.0}/s); lag p50 {p50:.2} ms, p99 {p99:.2} ms of {}; processor \
             {used:.2} s ({:.1} %); verify: {}",
            f64::from(writes) / took,
            lags.len(),
            used / took * 100.0,
            verdict.trim()
        );
        ensure!(verdict.contains("the maps hold what the source says"), "{verdict}");
        Ok(())
    }
}

fn add(report: &mut Report, (peer, goals): (&str, [Goal; 4]), run: &Run) -> Result<()> {
    let [start, half, most, memory] = goals;
    let mut random = Rng::with_seed(1);
    let starts = Estimate::bootstrap(&run.starts, &mut random).context("no start")?;
    let exact = |value: f64| Estimate { median: value, low: value, high: value };
    let quantile = |share| take_quantile(&mut run.updates.clone(), share).map(exact).context("no updates");
    let megabytes = |bytes: u64| exact(float(bytes) / 1e6);
    let updates = format!("{} updates", run.updates.len());
    let rows = [
        ("start to ready", "s", starts, start, format!("{} starts", run.starts.len())),
        ("update to reachable, p50", "ms", quantile(0.5)?, half, updates.clone()),
        ("update to reachable, p99", "ms", quantile(0.99)?, most, updates),
        ("update to reachable, greatest", "ms", quantile(1.0)?, Goal::None, String::new()),
        ("RssAnon", "MB", megabytes(run.anonymous), memory, "after the updates".to_owned()),
        ("maps", "MB", megabytes(run.maps), Goal::None, "memlock; rules are not counted".to_owned()),
        ("processor time to ready", "s", exact(run.cpu[0]), Goal::None, String::new()),
        ("processor time of the updates", "s", exact(run.cpu[1]), Goal::None, String::new()),
    ];
    for (name, unit, estimate, goal, note) in rows {
        report.add(&Figure { name: &format!("{peer}: {name}"), unit, estimate, goal, note });
    }
    Ok(())
}
