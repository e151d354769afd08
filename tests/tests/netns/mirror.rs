//! A Service whose backends tell each client how they see it, and clients that keep their connections.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::process::{Process, placed};
use tests::topology::{Node, Pod};
use tests::wait;

use crate::proofs_object::{App, Shell, peer};
use crate::scenario::Scenario;
use crate::shop::{endpoint, laid_over, put, slice, tcp, udp};

/// Where the backends listen.
pub(crate) const MIRROR_PORT: u16 = 9090;
/// Limit within which a change is in force.
const CHANGE: Duration = Duration::from_secs(5);

/// Starts a mirror in the second pod of a node.
pub(crate) fn mirror(scenario: &Scenario, node: usize) -> Process {
    let pod = scenario.cluster.pod(node, 2);
    let mut command = placed(&peer().unwrap(), &pod.netns, pod.place().cgroup);
    command.arg("mirror").args(addresses(pod).map(|address| address.to_string()));
    let mut process = Process::spawn("mirror", command).unwrap();
    process.wait_line(CHANGE, |line| line == "ready").unwrap();
    process
}

/// Where the mirror of a pod listens, IPv4 and IPv6.
pub(crate) fn addresses(pod: &Pod) -> [SocketAddr; 2] {
    [pod.v4, pod.v6].map(|ip| SocketAddr::new(ip, MIRROR_PORT))
}

/// Lists the mirrors of these nodes as the Service's endpoints, each with what else its endpoint says.
pub(crate) fn list_mirrors(scenario: &Scenario, endpoints: &[(usize, Value)]) {
    for family in [0, 1] {
        let listed = endpoints
            .iter()
            .map(|(node, rest)| laid_over(endpoint(scenario, family, (*node, 2)), rest.clone()));
        put(
            scenario,
            &slice(("shop", family), &json!([tcp(MIRROR_PORT), udp(MIRROR_PORT)]), listed.collect()),
        );
    }
}

/// An agent on node 1.
pub(crate) fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

/// An application in pod `pod` of `node`, or, without one, on its host.
pub(crate) fn app(node: &Node, pod: Option<usize>) -> App {
    let netns = pod.map_or(&node.netns, |pod| &node.pods[pod - 1].netns);
    App::start(netns, &node.cgroup, Shell::Bare).unwrap()
}

/// What a mirror and its client see of each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The client, as the backend sees it.
    pub(crate) client: SocketAddr,
    /// The backend.
    pub(crate) backend: SocketAddr,
    /// The backend, as the client sees it.
    pub(crate) peer: SocketAddr,
}

impl Seen {
    fn parse(text: &str) -> Result<Self> {
        let all: Result<Vec<SocketAddr>, _> = text.split(' ').map(str::parse).collect();
        match all.with_context(|| text.to_owned())?[..] {
            [client, backend, peer] => Ok(Self { client, backend, peer }),
            _ => anyhow::bail!("{text:?} is not what a mirror says"),
        }
    }
}

/// How an application asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    /// UDP by a connected socket.
    Connected,
    /// UDP by one that is not connected.
    Datagram,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Connected, Self::Datagram];
}

/// Asks once by a new socket, which is kept under `name`.
pub(crate) fn ask(app: &mut App, name: &str, way: Way, to: SocketAddr) -> Result<Seen> {
    if way == Way::Tcp {
        app.tell(&format!("dial {name} {to}"))?;
        return say(app, name);
    }
    app.tell(&format!("open {name} {}", if to.is_ipv4() { "v4" } else { "v6" }))?;
    if way == Way::Datagram {
        return Seen::parse(&app.tell(&format!("ask {name} 64 of {to}"))?);
    }
    app.tell(&format!("connect {name} {to}"))?;
    let shown = app.tell(&format!("show {name}"))?;
    let peer = shown.rsplit(' ').next().unwrap_or_default();
    Seen::parse(&format!("{} {peer}", app.tell(&format!("ask {name}"))?))
}

/// Asks again by the connection `name`.
pub(crate) fn say(app: &mut App, name: &str) -> Result<Seen> {
    Seen::parse(&app.tell(&format!("say {name}"))?)
}

/// Waits until new connections lead to this backend alone, or fail like this.
#[track_caller]
pub(crate) fn leads_to(app: &mut App, to: SocketAddr, wanted: Result<IpAddr, &str>) {
    let (mut in_a_row, mut last) = (0, String::new());
    let enough = if wanted.is_ok() { 16 } else { 3 };
    let settled = wait::until(CHANGE, "new connections", || {
        let seen = ask(app, "probe", Way::Tcp, to);
        last = format!("{seen:?}");
        let is_wanted = match (&seen, wanted) {
            (Ok(seen), Ok(ip)) => seen.backend.ip() == ip,
            (Err(error), Err(name)) => error.to_string().ends_with(name),
            _ => false,
        };
        in_a_row = if is_wanted { in_a_row + 1 } else { 0 };
        Ok((in_a_row == enough).then_some(()))
    });
    assert!(settled.is_ok(), "{to}: {last}, not {wanted:?}");
}
