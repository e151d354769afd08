//! The scenes, in the order in which they are played.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::agent::Agent;
use tests::cgroup::Cgroup;
use tests::churn::{Candidate, Churn, Pace};
use tests::load::{Place, Servers, Talker};
use tests::manifests::{ManifestDir, Slice};
use tests::netns::Netns;
use tests::report::{ConnectsReport, GetReport};
use tests::topology::{Cluster, Pod};

use crate::screen::{Screen, print_command};

/// The Service that changes under traffic, and its port on the backends; as in deploy/demo/web.yaml.
const WEB: &str = "10.96.0.10:80";
const WEB_PORT: u16 = 8080;
/// The Service of UDP, as in deploy/demo/names.yaml, and its port on the backends.
const NAMES: &str = "10.96.0.53:53";
const NAMES_PORT: u16 = 5353;
/// The NodePort of deploy/demo/door.yaml.
const NODE_PORT: u16 = 30_080;
/// The number of the host outside, among those of nodes.
const OUTSIDE: u8 = 9;
/// Connects to each node from there: with two backends one in a million runs shows only one of them.
const OUTSIDE_TRIES: usize = 10;
/// The second port of deploy/demo/shop.yaml.
const ADMIN_PORT: u16 = 9090;

/// Says who is there.
pub(crate) fn show_cluster(cluster: &Cluster, screen: &mut Screen) {
    screen.scene("Two nodes with two pods each, every one with a network and a cgroup of its own");
    for node in &cluster.nodes {
        let [v4, v6] = node.addresses();
        println!("  {}   {v4:<13} {v6}", node.name);
        for pod in &node.pods {
            println!("    {} {:<13} {}", pod.name, pod.v4, pod.v6);
        }
    }
}

/// Starts the servers: every pod but the first is a backend, and answers with its own name.
pub(crate) fn start_backends(cluster: &Cluster) -> Result<Vec<Servers>> {
    backends(cluster)
        .map(|pod| {
            let ports = [WEB_PORT, ADMIN_PORT];
            let addresses =
                ports.into_iter().flat_map(|port| [pod.v4, pod.v6].map(|ip| SocketAddr::new(ip, port)));
            let mut servers = pod.place().serve(addresses.map(|address| (address, &*pod.name)))?;
            servers.open_udp(SocketAddr::new(pod.v4, NAMES_PORT), &pod.name)?;
            Ok(servers)
        })
        .collect()
}

fn backends(cluster: &Cluster) -> impl Iterator<Item = &Pod> {
    cluster.nodes.iter().flat_map(|node| &node.pods).skip(1)
}

/// Shows that a cluster IP means nothing by itself, then announces the agents.
pub(crate) fn nothing_works_yet(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.scene("A cluster IP is no machine's address: without a proxy nobody answers");
    let report = cluster.pod(1, 1).place().get(WEB.parse()?, &["--timeout", "500"])?;
    let error = report.error.unwrap_or_default();
    screen.check(&format!("before the agents start, {WEB} cannot be reached: {error}"), !error.is_empty());
    println!("  An agent for each node reads the manifests in deploy/demo and loads its BPF programs:");
    Ok(())
}

/// Connects from pods and hosts of both nodes to every Service.
pub(crate) fn clients_reach_services(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.scene("Clients connect to cluster IPs");
    println!("  {:<12} {:<34} {:<12} who the client believes it talks to", "from", "to", "answered by");
    let clients = [
        ("pod-1-1", cluster.pod(1, 1).place()),
        ("host node-1", cluster.node(1).host()),
        ("pod-2-2", cluster.pod(2, 2).place()),
        ("host node-2", cluster.node(2).host()),
    ];
    let targets = [
        ("web, IPv4", WEB, false),
        ("web, IPv4 from an IPv6 socket", WEB, true),
        ("web6, IPv6", "[fd00:10:96::10]:80", false),
        ("shop http, IPv4", "10.96.0.20:80", false),
        ("shop admin, IPv6", "[fd00:10:96::20]:9090", false),
    ];
    let (mut answered, mut shown) = (0, 0);
    for (client, place) in &clients {
        for (what, target, is_mapped) in targets {
            let target: SocketAddr = target.parse()?;
            let options: &[&str] = if is_mapped { &["--mapped"] } else { &[] };
            let report = place.get(target, options)?;
            print_get(client, what, &report);
            answered += usize::from(report.name.is_some());
            shown += usize::from(report.peer.is_some_and(|peer| canonical(peer) == target));
        }
    }
    let all = clients.len() * targets.len();
    screen.check(&format!("{answered} of {all} connects were answered by a backend pod"), answered == all);
    screen
        .check(&format!("{shown} of {all} clients see the Service as their peer, not the pod"), shown == all);
    Ok(())
}

fn print_get(client: &str, what: &str, report: &GetReport) {
    let answer = report.name.as_deref().or(report.error.as_deref()).unwrap_or("nobody");
    let peer = report.peer.map(|peer| peer.to_string()).unwrap_or_default();
    println!("  {client:<12} {what:<34} {answer:<12} {peer}");
}

/// The address without its IPv4-mapped form.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Asks both nodes from a host that runs nothing of the cluster and knows no way to a pod.
pub(crate) fn outside_host(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.scene("A host outside the cluster asks a node: packets are rewritten as they enter and leave it");
    let (netns, cgroup) = (Netns::create("outside")?, Cgroup::create("outside")?);
    cluster.plug(&netns, OUTSIDE)?;
    for node in &cluster.nodes {
        for range in node.pod_ranges() {
            netns.ip(&format!("route delete {range}"))?;
        }
    }
    let place = Place { netns: &netns, cgroup: &cgroup };
    let (mut answered, mut names) = (0, BTreeSet::new());
    for node in &cluster.nodes {
        for _ in 0..OUTSIDE_TRIES {
            let target = SocketAddr::new(node.addresses()[0], NODE_PORT);
            let report = place.get(target, &[])?;
            if names.len() < 2 || report.name.is_none() {
                print_get("outside", &format!("NodePort of {}", node.name), &report);
            }
            answered += usize::from(report.name.is_some());
            names.extend(report.name);
        }
    }
    let all = cluster.nodes.len() * OUTSIDE_TRIES;
    screen.check(&format!("{answered} of {all} connects from outside were answered"), answered == all);
    let by = names.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
    screen.check(&format!("by pods of both nodes, whichever was asked: {by}"), names.len() == 2);
    Ok(())
}

/// Connects to what cannot be served.
pub(crate) fn refusals(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.scene("What cannot be served is refused at once, not left to time out");
    for (what, target) in
        [("a Service without endpoints", "10.96.0.30:80"), ("an unknown port of web", "10.96.0.10:81")]
    {
        let report = cluster.pod(1, 1).place().get(target.parse()?, &[])?;
        let error = report.error.unwrap_or_default();
        let line = format!("{what} ({target}): {error} after {:.1} ms", report.connect_ms);
        screen.check(&line, error == "ECONNREFUSED" && report.connect_ms < 1_000.0);
    }
    Ok(())
}

/// Withdraws and returns endpoints ten times a second while two clients connect.
pub(crate) fn endpoints_change(
    cluster: &Cluster,
    manifests: &ManifestDir,
    servers: &mut [Servers],
    screen: &mut Screen,
) -> Result<()> {
    screen.scene(
        "Endpoints change under traffic: ten times a second one of three leaves and another comes back",
    );
    let candidates = web_candidates(cluster);
    println!(
        "  A backend that was withdrawn stops listening 50 ms later; a connect that still goes there fails."
    );
    let pace = Pace {
        listed: 2,
        replaced: 1,
        step: Duration::from_millis(100),
        ahead: 0,
        grace: Duration::from_millis(50),
    };
    let mut churn = Churn { manifests, service: "web", servers, candidates: &candidates, pace, first: 0 };
    churn.start()?;
    let loads = [cluster.pod(1, 1).place(), cluster.node(2).host()].map(|place| stream(place));
    let steps = churn.run(Duration::from_secs(6))?;
    let mut sum = ConnectsReport::default();
    for load in loads {
        sum.merge(load?.finish()?);
    }
    screen.check(
        &format!("{} connects during {steps} endpoint changes: {} failed", sum.attempts, sum.failures()),
        sum.failures() == 0 && sum.unanswered.is_empty() && sum.attempts > 1_000 && steps > 30,
    );
    let served: Vec<String> = sum.served.iter().map(|(name, count)| format!("{name} {count}")).collect();
    screen.check(
        &format!("every backend took its part: {}", served.join(", ")),
        served.len() == candidates.len(),
    );
    sum.first_failures.iter().for_each(|failure| println!("         {failure}"));
    Ok(())
}

/// The backends of web; the servers of each are a process of their own.
fn web_candidates(cluster: &Cluster) -> Vec<Candidate> {
    let pods = cluster.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)));
    pods.skip(1)
        .enumerate()
        .map(|(process, (node, pod))| Candidate {
            address: SocketAddr::new(pod.v4, WEB_PORT),
            name: pod.name.clone(),
            node: node.name.clone(),
            process,
        })
        .collect()
}

/// A calm stream of connects to web, each answered.
fn stream(place: Place<'_>) -> Result<tests::load::Load> {
    place.connects(WEB.parse()?, &["--threads", "1", "--pause", "200", "--read-every", "4"])
}

/// Withdraws the backend that clients of UDP talk to, while they keep their sockets.
pub(crate) fn udp_follows(cluster: &Cluster, manifests: &ManifestDir, screen: &mut Screen) -> Result<()> {
    screen.scene("A backend of UDP goes; clients that keep one connected socket do not notice");
    let target: SocketAddr = NAMES.parse()?;
    let pods = [cluster.pod(1, 2), cluster.pod(2, 2)];
    let list = |pod: &Pod, node: &str| {
        let endpoints = [(pod.v4, node)];
        let slice = Slice { service: "names", port: NAMES_PORT, protocol: "UDP", endpoints: &endpoints };
        manifests.write_slice(&slice)
    };
    let mut clients = [
        ("pod-1-1", cluster.pod(1, 1).place().talker(target, &[])?),
        ("host node-2", cluster.node(2).host().talker(target, &[])?),
    ];
    let before = ask_all(&mut clients)?;
    for (gone, pod) in pods.iter().enumerate() {
        let node = &cluster.nodes[gone].name;
        list(pod, node)?;
        std::thread::sleep(Duration::from_millis(500));
        println!("  Only {} is listed now:", pod.name);
        let after = ask_all(&mut clients)?;
        let all = |is_so: fn(&GetReport, &GetReport) -> bool| {
            before.iter().zip(&after).all(|(old, new)| is_so(old, new))
        };
        let served = after.iter().all(|report| report.name.as_deref() == Some(&*pod.name));
        screen.check(&format!("both are answered by {}", pod.name), served);
        screen.check(
            "from the same source port, and their peer is still the Service",
            all(|old, new| old.local == new.local && new.peer == Some(new.target)),
        );
    }
    Ok(())
}

fn ask_all<const N: usize>(clients: &mut [(&str, Talker); N]) -> Result<Vec<GetReport>> {
    clients
        .iter_mut()
        .map(|(client, talker)| {
            let report = talker.ask()?;
            print_get(client, "names, UDP, one socket", &report);
            Ok(report)
        })
        .collect()
}

/// Lets the agent tell what it knows.
pub(crate) fn agent_explains(agent: &Agent<'_>, screen: &mut Screen) -> Result<()> {
    screen.scene("The agent explains itself, reading from the kernel");
    let status = agent.shunt(&["status"])?;
    print_command("shunt status", &status);
    let services = agent.shunt(&["dump", "services"])?;
    print_command("shunt dump services", &services);
    let backends = agent.shunt(&["dump", "backends", "--service", "default/web"])?;
    print_command("shunt dump backends --service default/web", &backends);
    let trace = agent.shunt(&["trace", "pod", WEB])?;
    print_command(&format!("shunt trace pod {WEB}"), &trace);
    screen.check("`shunt dump` shows the Services of deploy/demo", services.contains("default/web"));
    screen.check(
        "`shunt trace` names the Service and where it leads",
        trace.contains("default/web") && trace.contains("10.244."),
    );
    Ok(())
}

/// Kills an agent under traffic, lets the kernel go on alone, and starts it again.
pub(crate) fn agent_restarts(cluster: &Cluster, agent: &mut Agent<'_>, screen: &mut Screen) -> Result<()> {
    screen.scene("The agent of node-1 is killed (kill -9) and started again, under traffic");
    let load = stream(cluster.pod(1, 1).place())?;
    std::thread::sleep(Duration::from_millis(500));
    agent.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    println!("  The agent was dead for a second; its programs and maps in the kernel went on.");
    let start = Instant::now();
    agent.start_again()?;
    println!("  It is ready again after {} ms.", start.elapsed().as_millis());
    std::thread::sleep(Duration::from_millis(500));
    let report = load.finish()?;
    screen.check(
        &format!("{} connects meanwhile: {} failed", report.attempts, report.failures()),
        // Enough to see that connects go on; how many there are in two seconds is up to the machine.
        report.failures() == 0 && report.attempts > 50,
    );
    let status = agent.status()?;
    let written = |key: &str| status["sync"][key].as_u64().with_context(|| format!("sync.{key} of /status"));
    let (ops, stores) = (written("ops")?, written("stores")?);
    screen.check(&format!("the restart wrote {stores} words and made {ops} map changes"), ops + stores == 0);
    Ok(())
}
