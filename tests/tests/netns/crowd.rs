//! Many sockets and many pods: what they cost the agent, and what is left of those that are gone.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::agent::Agent;
use tests::manifests::{ManifestDir, Service, Slice};
use tests::process::Process;
use tests::topology::{Cluster, Node};
use tests::wait;

use crate::proofs_object::{App, LIMIT, Shell, pod};
use crate::scenario::{BACKEND_PORT, DNS, PORT};

/// Backends of the Service.
const BACKENDS: u8 = 10;
/// Sockets of each pod.
const EACH: u32 = 100;
/// Brief pods that live at the same time.
const AT_ONCE: u32 = 8;

/// A number that a longer run takes from the environment.
fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// A Service of UDP with addresses of one pod as backends.
struct Dns {
    backends: Vec<IpAddr>,
    manifests: ManifestDir,
}

impl Dns {
    fn new(cluster: &Cluster) -> Self {
        let all = cluster.node(1).add_addresses(1, BACKENDS).unwrap();
        let manifests = ManifestDir::create().unwrap();
        manifests.write_cluster(cluster).unwrap();
        let cluster_ips = [DNS[0].parse().unwrap()];
        let service = Service { name: "dns", cluster_ips: &cluster_ips, port: PORT, protocol: "UDP" };
        manifests.write_service(&service).unwrap();
        let dns = Self { backends: all.into_iter().map(|[v4, _]| v4).collect(), manifests };
        dns.list(0);
        dns
    }

    /// Lists all backends but the first few.
    fn list(&self, without: usize) {
        let endpoints: Vec<_> = self.backends.iter().skip(without).map(|ip| (*ip, "node-1")).collect();
        let slice = Slice { service: "dns", port: BACKEND_PORT, protocol: "UDP", endpoints: &endpoints };
        self.manifests.write_slice(&slice).unwrap();
    }
}

/// Pods that have connected sockets.
fn connect(node: &Node) -> Vec<App> {
    let start = |pod: &tests::topology::Pod| {
        let mut app = App::start(&pod.netns, &node.cgroup, Shell::Bare).unwrap();
        app.tell(&format!("crowd {EACH} {}:{PORT}", DNS[0])).unwrap();
        app
    };
    node.pods[1..].iter().map(start).collect()
}

/// Who answers each of the sockets.
fn ask(apps: &mut [App]) -> Vec<String> {
    let names = |app: &mut App| -> Vec<String> {
        app.tell("crowd-ask").unwrap().split(' ').map(str::to_owned).collect()
    };
    apps.iter_mut().flat_map(names).collect()
}

/// Processor time of a process so far, of all its threads.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a short line")?.parse()?) };
    // Hundredths of a second, as Linux has told since it was for one kind of machine.
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// `SHUNT_CROWD_PODS=100` has 10 000 sockets over 100 pods.
#[test]
fn of_many_connected_sockets_those_of_the_backend_that_went_move() {
    let pods = u8::try_from(number("SHUNT_CROWD_PODS", 3)).unwrap();
    let cluster = Cluster::new(1, pods + 1).unwrap();
    let dns = Dns::new(&cluster);
    let mut servers = cluster.pod(1, 1).place().serve([]).unwrap();
    for ip in &dns.backends {
        servers.open_udp(SocketAddr::new(*ip, BACKEND_PORT), &ip.to_string()).unwrap();
    }
    let agent = Agent::start(cluster.node(1), dns.manifests.path()).unwrap();
    let mut apps = connect(cluster.node(1));
    let before = ask(&mut apps);
    let gone = dns.backends[0].to_string();
    let concerned = before.iter().filter(|name| **name == gone).count() as u64;
    assert!(concerned > 0);
    let moved = |agent: &Agent<'_>| -> Result<u64> { Ok(agent.progress()?.clients.udp_moved) };
    assert_eq!(moved(&agent).unwrap(), 0);

    let spent = processor_time(agent.pid()).unwrap();
    let event = Instant::now();
    dns.list(1);
    wait::until(Duration::from_secs(20), "all to move", || Ok((moved(&agent)? == concerned).then_some(())))
        .unwrap();
    let took = event.elapsed();
    let spent = processor_time(agent.pid()).unwrap().saturating_sub(spent);
    println!(
        "{concerned} of {} sockets over {pods} pods moved {took:?} after the event, {spent:?} of CPU",
        before.len()
    );
    let after = ask(&mut apps);
    for (before, after) in before.iter().zip(&after) {
        assert!(*after != gone && (before == after || *before == gone), "{before} became {after}");
    }
    assert_eq!(moved(&agent).unwrap(), concerned, "and nobody else");
}

/// What a process holds: descriptors, threads, kilobytes of its own memory.
fn held(pid: u32) -> [usize; 3] {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes = anonymous.trim().split(' ').next().unwrap().parse().unwrap();
    [count("fd"), count("task"), kilobytes]
}

/// A pod that lives for 50 ms, in a network namespace of its own.
fn brief(node: &Node) -> Process {
    let target = format!("{}:{PORT}", DNS[0]);
    let arguments = ["pod", &*target, "--linger", "50"];
    Process::spawn("pod", pod(&node.cgroup, &["10.78.1.1/8"], &arguments).unwrap()).unwrap()
}

/// `SHUNT_BRIEF_PODS=10000` has as many.
#[test]
fn pods_that_come_and_go_leave_nothing_in_the_agent() {
    let cluster = Cluster::new(1, 1).unwrap();
    let node = cluster.node(1);
    let dns = Dns::new(&cluster);
    let agent = Agent::start(node, dns.manifests.path()).unwrap();
    let known = |agent: &Agent<'_>| -> Result<u64> { Ok(agent.progress()?.clients.namespaces) };
    // The node itself. What is set up once is set up by the first.
    brief(node).wait(LIMIT).unwrap();
    let swept =
        || wait::until(Duration::from_secs(30), "a sweep", || Ok((known(&agent)? == 1).then_some(())));
    swept().unwrap();
    let before = held(agent.pid());

    let mut most = 0;
    for _ in 0..number("SHUNT_BRIEF_PODS", 96) / AT_ONCE {
        let mut pods: Vec<Process> = (0..AT_ONCE).map(|_| brief(node)).collect();
        for pod in &mut pods {
            assert!(pod.wait(LIMIT).unwrap().success(), "{}", pod.log());
        }
        most = most.max(known(&agent).unwrap());
    }
    swept().unwrap();
    let after = held(agent.pid());
    println!(
        "descriptors, threads, RssAnon in kB: {before:?} before, {after:?} after; {most} namespaces at most"
    );
    assert!(most > 1, "they were known");
    assert_eq!(after[..2], before[..2], "descriptors and threads");
    assert!(after[2] < before[2] + 2_048, "{} kB became {}", before[2], after[2]);
}
