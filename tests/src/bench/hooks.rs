//! Nanoseconds a hook run, from the kernel's own run-time statistics, under real connects.
//!
//! Nothing is subtracted. The first line of each family is a run that leaves at the program's second test, which is
//! about what an empty program would show: the share of every other figure that is not the decision.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use fastrand::Rng;
use rustix::net::connect_unspec;
use shunt::sys::bpf;

use super::connect::ConnectArguments;
use super::estimate::{Estimate, Goal, float};
use super::runs::{BATCH, Batches, Cost, count};
use super::site::{Site, connect, open};
use super::table::{Figure, Report};

const NOT_OURS: Goal = Goal::AtMost(100.0);
const HIT: Goal = Goal::AtMost(500.0);
const HIT_WITH_RECORD: Goal = Goal::AtMost(1_500.0);

/// How one kind of run comes about.
#[derive(Clone, Copy)]
enum Way {
    /// A new socket connects.
    Connect(SocketAddr),
    /// A new socket, bound to the loopback device, connects: such sockets are left alone.
    Bound(SocketAddr),
    /// One socket connects again and again, disconnected by AF_UNSPEC in between, so that its record exists.
    Again(SocketAddr),
    /// One connected socket is asked for its peer.
    PeerName(SocketAddr),
}

struct Case {
    hook: &'static str,
    what: &'static str,
    goal: Goal,
    way: Way,
}

/// What the rounds of one case gave.
#[derive(Default)]
struct Tally {
    rounds: Vec<f64>,
    total: Cost,
}

/// Measures every case in turn, round by round, so that a drift of the machine hits all alike.
pub(super) fn measure(site: &Site, arguments: &ConnectArguments, report: &mut Report) -> Result<()> {
    let _stats = bpf::enable_run_time_stats().context("turn on run-time statistics")?;
    let cases = cases(site);
    let mut tallies: Vec<Tally> = cases.iter().map(|_| Tally::default()).collect();
    for round in 1..=arguments.rounds {
        eprintln!("hook runs, round {round} of {}", arguments.rounds);
        for (case, tally) in cases.iter().zip(&mut tallies) {
            case.round(site, arguments.runs.div_ceil(BATCH), tally)
                .with_context(|| format!("{}: {}", case.hook, case.what))?;
        }
    }
    let mut random = Rng::with_seed(1);
    for (case, tally) in cases.iter().zip(&tallies) {
        let estimate = Estimate::bootstrap(&tally.rounds, &mut random).context("no rounds")?;
        let Cost { nanoseconds, runs } = tally.total;
        let note = format!("{runs} runs, mean {:.0}", float(nanoseconds) / float(runs));
        let name = format!("{}: {}", case.hook, case.what);
        report.add(&Figure { name: &name, unit: "ns", estimate, goal: case.goal, note });
    }
    Ok(())
}

fn cases(site: &Site) -> Vec<Case> {
    let mapped = match site.near.vip.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), site.near.vip.port()),
        IpAddr::V6(_) => site.near.vip,
    };
    let families = [("connect4", "getpeername4", &site.near), ("connect6", "getpeername6", &site.near6)];
    let mut cases = Vec::new();
    for (index, (hook, peer_hook, service)) in families.into_iter().enumerate() {
        let (vip, direct) = (service.vip, service.backends[0]);
        let mut add = |hook, what, goal, way| cases.push(Case { hook, what, goal, way });
        add(hook, "bound to a device, to a foreign address", Goal::None, Way::Bound(direct));
        add(hook, "not ours, outside every owned range", NOT_OURS, Way::Connect(direct));
        add(hook, "not ours, a pod's own loopback", NOT_OURS, Way::Connect(site.loopbacks[index]));
        add(hook, "not ours, filter hit", NOT_OURS, Way::Connect(site.neighbours[index]));
        add(hook, "hit, record exists (same socket again)", HIT, Way::Again(vip));
        add(hook, "hit with getpeername record", HIT_WITH_RECORD, Way::Connect(vip));
        add(peer_hook, "translated socket", Goal::None, Way::PeerName(vip));
        add(peer_hook, "other socket", Goal::None, Way::PeerName(direct));
    }
    let what = "mapped IPv4, hit with getpeername record";
    cases.push(Case { hook: "connect6", what, goal: HIT_WITH_RECORD, way: Way::Connect(mapped) });
    cases
}

impl Case {
    fn round(&self, site: &Site, batches: u32, tally: &mut Tally) -> Result<()> {
        let mut costs = Batches::default();
        for _ in 0..batches {
            costs.add(self.batch(site)?);
            site.drain();
        }
        tally.total.nanoseconds += costs.total.nanoseconds;
        tally.total.runs += costs.total.runs;
        tally.rounds.push(costs.typical()?);
        Ok(())
    }

    fn batch(&self, site: &Site) -> Result<Cost> {
        match self.way {
            Way::Connect(target) => count(site.rig(), self.hook, || connect(target).map(drop)),
            Way::Bound(target) => count(site.rig(), self.hook, || {
                let socket = open(target)?;
                socket.bind_device(Some(b"lo"))?;
                socket.connect(&target.into())
            }),
            Way::Again(target) => {
                let socket = connect(target)?;
                count(site.rig(), self.hook, || {
                    connect_unspec(&socket)?;
                    socket.connect(&target.into())
                })
            }
            Way::PeerName(target) => {
                let socket = connect(target)?;
                count(site.rig(), self.hook, || socket.peer_addr().map(drop))
            }
        }
    }
}
