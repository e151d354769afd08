//! `bench datagrams`: the cost of a hook run for UDP, and what a sender of UDP pays for each datagram.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use fastrand::Rng;
use proxy_common::service::ViewWord;
use shunt::datapath::guard::GuardHook;
use shunt::sys::bpf;

use super::estimate::{Estimate, Goal};
use super::machine;
use super::runs::{BATCH, Batches, Cost, count};
use super::table::{Figure, Report};
use crate::cgroup::Cgroup;
use crate::hand::{Rig, VIP};

/// How long to measure.
#[derive(Args)]
pub(super) struct DatagramArguments {
    /// Rounds over all kinds of hook run.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Runs of each kind in a round.
    #[arg(long, default_value_t = 50_000)]
    runs: u32,
    /// Pairs of each comparison.
    #[arg(long, default_value_t = 1_000)]
    pairs: u32,
    /// Datagrams of each half of a pair.
    #[arg(long, default_value_t = 1_000)]
    datagrams: u32,
}

/// Datagrams ahead of each half that are not timed.
const WARM_UP: u32 = 16;

/// A service of one backend in each family, and somebody who reads what it gets.
struct Site {
    rig: Rig,
    plain: Cgroup,
    servers: [UdpSocket; 2],
    vips: [SocketAddr; 2],
    backends: [SocketAddr; 2],
}

impl Site {
    fn new() -> Result<Self> {
        let mut rig = Rig::new("datagrams")?;
        let backends: [SocketAddr; 2] =
            [(Ipv4Addr::new(127, 0, 1, 1), 5_353).into(), (Ipv6Addr::LOCALHOST, 5_353).into()];
        let bind = |at: SocketAddr| -> Result<UdpSocket> {
            let socket = rig.netns.inside(|| UdpSocket::bind(at))??;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let servers = [bind(backends[0])?, bind(backends[1])?];
        let vips = [VIP, "[fd00:10:96::1]:80".parse()?];
        for (cell, (vip, backend)) in (1..).zip(vips.into_iter().zip(backends)) {
            rig.cell = cell;
            rig.write_row(cell * 2, backend)?;
            rig.write_slots(cell * 2, &[cell * 2])?;
            rig.switch_to(ViewWord::random(cell * 2, 1))?;
            rig.insert_frontend(vip)?;
        }
        Ok(Self { rig, plain: Cgroup::create("datagrams_plain")?, servers, vips, backends })
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.rig.netns.inside(work)?
    }

    /// Reads what the servers have got.
    fn drain(&self) {
        let mut buffer = [0; 64];
        for server in &self.servers {
            while server.recv_from(&mut buffer).is_ok() {}
        }
    }

    fn place(&self, hooked: bool) -> Result<()> {
        if hooked { self.rig.enter() } else { self.plain.add(std::process::id()) }
    }
}

/// A socket bound to the loopback address of its family: what it sends needs no other route.
fn client(family: usize) -> io::Result<UdpSocket> {
    UdpSocket::bind([SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()][family])
}

pub(super) fn run(arguments: &DatagramArguments) -> Result<()> {
    machine::print();
    let site = Site::new()?;
    let mut report = Report::new();
    site.inside(|| hooks(&site, arguments, &mut report))?;
    println!("\nNanoseconds a hook run, as BPF_ENABLE_STATS counts them.\n");
    report.print();
    let mut report = Report::new();
    site.inside(|| pairs(&site, arguments, &mut report))?;
    println!(
        "\nRate of the first : rate of the second, {} datagrams a half, to a socket on loopback.\n",
        arguments.datagrams
    );
    report.print();
    Ok(())
}

/// How one kind of run comes about.
#[derive(Clone, Copy)]
enum Way {
    /// One socket sends to the same address again.
    Again(SocketAddr),
    /// A new socket sends its first datagram.
    First(SocketAddr),
    /// A new socket connects.
    Connect(SocketAddr),
    /// One socket, connected, sends.
    Send(SocketAddr),
    /// A socket that has sent to an address receives the answer.
    Receive(SocketAddr),
}

fn hooks(site: &Site, arguments: &DatagramArguments, report: &mut Report) -> Result<()> {
    let _stats = bpf::enable_run_time_stats().context("turn on run-time statistics")?;
    let mut random = Rng::with_seed(1);
    let mut cases = Vec::new();
    for (family, version) in ["4", "6"].into_iter().enumerate() {
        let (vip, direct) = (site.vips[family], site.backends[family]);
        let hook = |name: &str| format!("{name}{version}");
        cases.push((family, hook("sendmsg"), "not ours", Way::Again(direct)));
        cases.push((family, hook("sendmsg"), "hit, the socket holds a backend", Way::Again(vip)));
        cases.push((family, hook("sendmsg"), "hit, first datagram of a socket", Way::First(vip)));
        cases.push((family, hook("recvmsg"), "answer of a frontend", Way::Receive(vip)));
        cases.push((family, hook("recvmsg"), "answer of a stranger", Way::Receive(direct)));
        cases.push((family, hook("connect"), "hit, new UDP socket", Way::Connect(vip)));
    }
    let mut guard = site.rig.guard()?;
    guard.attach()?;
    cases.push((0, "egress".to_owned(), "connected UDP socket without a mark", Way::Send(site.vips[0])));
    cases.push((0, "egress".to_owned(), "UDP socket that Shunt does not know", Way::Send(site.backends[0])));
    for (family, hook, what, way) in &cases {
        eprintln!("{hook}: {what}");
        let mut rounds = Vec::new();
        for _ in 0..arguments.rounds {
            let mut batches = Batches::default();
            for _ in 0..arguments.runs.div_ceil(BATCH) {
                batches.add(batch(site, (*family, hook), *way)?);
                site.drain();
            }
            rounds.push(batches.typical()?);
        }
        let estimate = Estimate::bootstrap(&rounds, &mut random).context("no rounds")?;
        let name = format!("{hook}: {what}");
        report.add(&Figure { name: &name, unit: "ns", estimate, goal: Goal::None, note: String::new() });
    }
    guard.detach()?;
    Ok(())
}

fn batch(site: &Site, (family, hook): (usize, &str), way: Way) -> Result<Cost> {
    let rig = &site.rig;
    let send = |socket: &UdpSocket, to: SocketAddr| socket.send_to(b"?", to).map(drop);
    match way {
        Way::Again(to) => {
            let socket = client(family)?;
            send(&socket, to)?;
            count(rig, hook, || send(&socket, to))
        }
        Way::First(to) => count(rig, hook, || send(&client(family)?, to)),
        Way::Connect(to) => count(rig, hook, || client(family)?.connect(to)),
        Way::Send(to) => {
            let socket = client(family)?;
            socket.connect(to)?;
            count(rig, hook, || socket.send(b"?").map(drop))
        }
        Way::Receive(to) => {
            let socket = client(family)?;
            send(&socket, to)?;
            site.drain();
            let (server, own) = (&site.servers[family], socket.local_addr()?);
            let mut buffer = [0; 64];
            count(rig, hook, || {
                server.send_to(b"!", own)?;
                socket.recv_from(&mut buffer).map(drop)
            })
        }
    }
}

/// One side of a comparison.
#[derive(Clone, Copy)]
struct Side {
    to: SocketAddr,
    hooked: bool,
    connects: bool,
    guarded: bool,
}

impl Side {
    /// A bare sender: no hook sees it.
    const fn bare(to: SocketAddr) -> Self {
        Self { to, hooked: false, connects: false, guarded: false }
    }
}

fn pairs(site: &Site, arguments: &DatagramArguments, report: &mut Report) -> Result<()> {
    let (vip, direct) = (site.vips[0], site.backends[0]);
    let hooked = |to| Side { hooked: true, ..Side::bare(to) };
    let connected = |side: Side| Side { connects: true, ..side };
    let guarded = |side: Side| Side { guarded: true, ..side };
    let lines = [
        ("sendto: VIP : direct without hooks", [hooked(vip), Side::bare(direct)]),
        ("sendto: direct with hooks : without", [hooked(direct), Side::bare(direct)]),
        (
            "send, connected: VIP : direct without hooks",
            [connected(hooked(vip)), connected(Side::bare(direct))],
        ),
        ("the same, egress guard in force", [guarded(connected(hooked(vip))), connected(Side::bare(direct))]),
        ("control: direct : direct without hooks", [Side::bare(direct), Side::bare(direct)]),
    ];
    let mut random = Rng::with_seed(2);
    let mut guard = site.rig.guard()?;
    for (name, sides) in lines {
        eprintln!("pairs: {name}");
        let mut ratios = Vec::new();
        let mut extra = Vec::new();
        let mut first = 0;
        for pair in 0..arguments.pairs {
            first = if pair % 2 == 0 { random.usize(..2) } else { 1 - first };
            let mut took = [Duration::ZERO; 2];
            for index in [first, 1 - first] {
                took[index] = half(site, sides[index], arguments.datagrams, &mut guard)?;
            }
            ratios.push(took[1].as_secs_f64() / took[0].as_secs_f64());
            let difference = took[0].as_secs_f64() - took[1].as_secs_f64();
            extra.push(difference * 1e9 / f64::from(arguments.datagrams));
        }
        let estimate = Estimate::bootstrap(&ratios, &mut random).context("no pairs")?;
        let cost = Estimate::bootstrap(&extra, &mut random).context("no pairs")?;
        let note = format!("{:+.0} ns a datagram [{:+.0}, {:+.0}]", cost.median, cost.low, cost.high);
        report.add(&Figure { name, unit: "1", estimate, goal: Goal::None, note });
    }
    Ok(())
}

fn half(site: &Site, one: Side, datagrams: u32, guard: &mut GuardHook) -> Result<Duration> {
    if one.guarded != guard.is_attached() {
        if one.guarded { guard.attach()? } else { guard.detach()? }
    }
    site.place(one.hooked)?;
    let socket = client(0)?;
    if one.connects {
        socket.connect(one.to)?;
    }
    let send = |count: u32| -> io::Result<()> {
        for _ in 0..count {
            if one.connects {
                socket.send(b"?")?
            } else {
                socket.send_to(b"?", one.to)?
            };
        }
        Ok(())
    };
    send(WARM_UP)?;
    let start = Instant::now();
    send(datagrams)?;
    let took = start.elapsed();
    site.drain();
    Ok(took)
}
