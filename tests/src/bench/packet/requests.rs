//! Connect, ask, be answered, close: how many in a second.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;

use super::site::{By, Site, What};
use super::{Comparison, PacketArguments};
use crate::bench::estimate::Goal;
use crate::bench::site::connect;
use crate::bench::table::Report;
use crate::netns::Netns;

/// Requests ahead of each half that are not timed.
const WARM_UP: u32 = 8;
/// Extra requests of the control that must be seen as slower, in percent.
const SLOW_DOWN: u32 = 5;
const PLAIN: Goal = Goal::AtLeast { bound: 0.98, resolution: 0.02 };
const AHEAD: Goal = Goal::AtLeast { bound: 1.0, resolution: 0.02 };

/// One of the two ways of a line: who serves, what is asked, and requests done for each that counts, in percent.
type Side = (By, What, u32);

pub(super) fn measure(
    site: &Site<'_>,
    arguments: &PacketArguments,
    (report, random): (&mut Report, &mut Rng),
) -> Result<()> {
    let plain = (By::Nobody, What::Local, 100);
    let ours = (By::Shunt, What::Local, 100);
    let mut lines: Vec<(&str, Goal, [Side; 2], &str)> = vec![
        ("requests, NodePort : plain routing", PLAIN, [ours, plain], ""),
        ("control: plain : plain", PLAIN, [plain, plain], "; must be met"),
        (
            "control: 5 % more requests : plain",
            PLAIN,
            [(By::Nobody, What::Local, 100 + SLOW_DOWN), plain],
            "; 0.9524 expected, must be missed",
        ),
    ];
    if site.has_kube_proxy {
        let theirs = |what| (By::KubeProxy, what, 100);
        let remote = [(By::Shunt, What::Remote, 100), theirs(What::Remote)];
        lines.push(("requests, NodePort : kube-proxy", AHEAD, [ours, theirs(What::Local)], "; nftables"));
        lines.push(("requests, remote backend : kube-proxy", AHEAD, remote, "; nftables"));
        lines.push(("requests, kube-proxy : plain routing", Goal::None, [theirs(What::Local), plain], ""));
    }
    for (name, goal, [one, other], note) in lines {
        let count = arguments.requests;
        let note = format!("{} pairs of {count}{note}", arguments.pairs);
        let halves: [&mut dyn FnMut() -> Result<f64>; 2] =
            [&mut || half(site, one, count), &mut || half(site, other, count)];
        let line = Comparison { name, goal, halves, pairs: arguments.pairs, note };
        line.add((&mut *report, &mut *random))?;
    }
    Ok(())
}

/// Seconds that so many requests take.
fn half(site: &Site<'_>, (by, what, work): Side, count: u32) -> Result<f64> {
    let (client, at) = site.way(by, what);
    let took = inside(client, move || {
        for _ in 0..WARM_UP {
            ask(at)?;
        }
        let start = Instant::now();
        for _ in 0..count * work / 100 {
            ask(at)?;
        }
        Ok(start.elapsed())
    })?;
    Ok(took.as_secs_f64())
}

fn inside(netns: &Netns, work: impl FnOnce() -> Result<Duration> + Send) -> Result<Duration> {
    netns.inside(work)?
}

/// One request; the connection is closed by a reset, which leaves no TIME_WAIT and so no shortage of source ports.
fn ask(at: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::from(connect(at).with_context(|| format!("connect to {at}"))?);
    stream.set_nodelay(true)?;
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer).with_context(|| format!("an answer of {at}"))
}
