//! What an agent shows of flows from outside: which there are, and how many.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::Agent;
use tests::exposition::Exposition;
use tests::wait;

use super::layout::Layout;
use super::policies::{End, end};
use super::site::{Backend, Site};
use crate::scenario::BACKEND_PORT;
use crate::traffic::{Client, Transfer, Way, exchange};

/// Limit of what takes a moment.
const SOON: Duration = Duration::from_secs(5);
/// Connections that are open while they are counted: through each frontend of two backends.
const FLOWS: u8 = 12;
/// Bytes of a transfer.
const LENGTH: usize = 20_000;

/// A flow from outside.
#[derive(Clone, Copy, Debug)]
struct Asked {
    backend: Backend,
    frontend: SocketAddr,
    way: Way,
    own: SocketAddr,
}

/// The only line of `shunt dump flows` about a flow.
fn listed(agent: &Agent<'_>, asked: &Asked) -> Result<Value, String> {
    let said = agent.shunt(&["dump", "flows", "-o", "json"]).map_err(|error| format!("{error:#}"))?;
    let rows: Vec<Value> = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    let (client, vip, protocol) = (json!(asked.own), json!(asked.frontend), asked.way.protocol());
    let is_it = |row: &&Value| row["client"] == client && row["vip"] == vip && row["protocol"] == protocol;
    match rows.iter().filter(is_it).collect::<Vec<_>>()[..] {
        [row] => Ok(row.clone()),
        _ => Err(format!("{asked:?} in {said}")),
    }
}

/// Waits until a flow stands like this, and checks what else is said of it; what its backend sees, if that is not the client.
#[track_caller]
fn stands(site: &Site, agent: &Agent<'_>, asked: &Asked, state: &str) -> Option<SocketAddr> {
    let row = wait::until_ok(SOON, state, || {
        let row = listed(agent, asked)?;
        if row["state"] == state { Ok(row) } else { Err(row.to_string()) }
    });
    let row = row.unwrap();
    let (_, ips) = asked.backend.place(&site.cluster);
    let is_v6 = asked.own.is_ipv6();
    assert_eq!(row["backend"], json!(SocketAddr::new(ips[usize::from(is_v6)], BACKEND_PORT)), "{row}");
    let (name, protocol) = (asked.backend.service(), asked.way.protocol());
    let family = if is_v6 { "6" } else { "" };
    assert_eq!(row["service"], format!("default/{name}:{protocol}/{protocol}{family}"), "{row}");
    row["snat"].as_str().map(|text| text.parse().unwrap())
}

/// What is listed as seen is what the backend says that it sees.
#[track_caller]
fn is_seen_as(asked: &Asked, snat: Option<SocketAddr>, client: Client) {
    assert_eq!(snat.unwrap_or(client.own), client.seen, "{asked:?}");
    assert_eq!(snat.is_some(), asked.backend.is_remote(), "{asked:?}: {snat:?}");
}

#[test]
fn flows_from_outside_are_listed_with_all_their_ends_while_they_last() {
    for layout in [Layout::Routed, Layout::Bridge] {
        let site = Site::new(layout).unwrap();
        let agents = site.agents();
        let agent = &agents[0];
        let mut open = Vec::new();
        for backend in Backend::ALL {
            for frontend in backend.frontends(&site.cluster) {
                let transfer = Transfer::open(&site.client, (None, frontend)).unwrap();
                let own = transfer.own().unwrap();
                open.push((Asked { backend, frontend, way: Way::Tcp, own }, transfer));
                let client = exchange(&site.client, frontend, Way::Udp).unwrap();
                let asked = Asked { backend, frontend, way: Way::Udp, own: client.own };
                is_seen_as(&asked, stands(&site, agent, &asked, "open"), client);
            }
        }
        for (asked, transfer) in open {
            let snat = stands(&site, agent, &asked, "open");
            is_seen_as(&asked, snat, transfer.complete(LENGTH).unwrap());
            stands(&site, agent, &asked, "finished");
        }
    }
}

fn scrape(agent: &Agent<'_>) -> Exposition {
    let text = agent.scrape("").unwrap();
    Exposition::parse(&text, false).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

fn flows(read: &Exposition, state: &str) -> f64 {
    read.get("shunt_flows", &[("state", state)]).expect("flows")
}

fn drops(read: &Exposition, reason: &str) -> f64 {
    read.get("shunt_drops_total", &[("reason", reason)]).expect("drops")
}

#[test]
fn flows_from_outside_and_whatever_is_not_served_are_counted() {
    let site = Site::new(Layout::Routed).unwrap();
    site.list(Backend::LocalHost, false).unwrap();
    site.write_service(Backend::RemoteHost, json!({ "externalTrafficPolicy": "Local" })).unwrap();
    let mut agents = site.agents();
    let before = scrape(&agents[0]);
    let backends = [Backend::LocalPod, Backend::RemotePod];
    let targets = backends.iter().flat_map(|backend| backend.frontends(&site.cluster));
    let open: Vec<Transfer> = targets.map(|to| Transfer::open(&site.client, (None, to)).unwrap()).collect();
    assert_eq!(open.len(), usize::from(FLOWS));
    for (backend, expected, reason) in [
        (Backend::LocalHost, End::Refused, "no-endpoints"),
        (Backend::RemoteHost, End::Silence, "no-local-endpoints"),
    ] {
        let frontend = backend.frontends(&site.cluster)[0];
        assert_eq!(end(&site, frontend, Way::Tcp), expected);
        let counted = || {
            let gained = drops(&scrape(&agents[0]), reason) - drops(&before, reason);
            if gained >= 1.0 { Ok(()) } else { Err(format!("{gained}")) }
        };
        wait::until_ok(SOON, reason, counted).unwrap();
    }
    assert!(drops(&scrape(&agents[0]), "flood").abs() < 0.5, "what is not the reason is not counted");
    // Flows are counted by a sweep, of which an agent makes the first when it starts.
    assert!(flows(&before, "settled").abs() < 0.5, "the control");
    agents[0].kill().unwrap();
    agents[0].start_again().unwrap();
    let counted = || {
        let settled = flows(&scrape(&agents[0]), "settled");
        if settled >= f64::from(FLOWS) { Ok(()) } else { Err(format!("{settled} of {FLOWS}")) }
    };
    wait::until_ok(SOON, "a sweep", counted).unwrap();
    for transfer in open {
        transfer.complete(LENGTH).unwrap();
    }
}
