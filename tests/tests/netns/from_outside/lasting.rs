//! Connections through NodePorts outlast agents: killed, started again, with other programs.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::wait;

use super::layout::Layout;
use super::masquerading::Masquerading;
use super::site::{Backend, Site};
use super::streams::{CHUNK, Stream};
use crate::scenario::BACKEND_PORT;
use crate::traffic::{Way, exchange};

/// Connections, of which half go to each backend.
const CONNECTIONS: usize = 500;
/// Time between two lines of one connection.
const BEAT: Duration = Duration::from_millis(100);
/// An answer that takes longer is a gap.
const GAP: Duration = Duration::from_millis(300);
/// Connections that begin under each of several agents.
const FEW: usize = 40;
/// Limit within which an agent does what it is told.
const SOON: Duration = Duration::from_secs(5);

/// Gives back each byte; ends with its connections.
fn echo(site: &Site, backend: Backend) -> Result<()> {
    let (node, ips) = backend.place(&site.cluster);
    for ip in ips {
        let at = SocketAddr::new(ip, BACKEND_PORT + 1);
        let listener = site.cluster.pod(node, 2).netns.inside(|| TcpListener::bind(at))??;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut writer = stream.try_clone()?;
    writer.set_nodelay(true)?;
    std::io::copy(&mut stream, &mut writer)?;
    Ok(())
}

/// One connection, and how far it has counted.
struct Counting {
    reader: BufReader<TcpStream>,
    worst: Duration,
}

impl Counting {
    fn open(site: &Site, to: SocketAddr) -> Result<Self> {
        let stream = site.client.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { reader: BufReader::new(stream), worst: Duration::ZERO })
    }

    fn say(&mut self, number: usize) -> Result<()> {
        Ok(self.reader.get_mut().write_all(format!("{number}\n").as_bytes())?)
    }

    fn hear(&mut self, number: usize, since: Instant) -> Result<()> {
        let mut line = String::new();
        self.reader.read_line(&mut line).with_context(|| format!("line {number} is missing"))?;
        ensure!(line.trim_end() == number.to_string(), "{line:?} instead of {number}");
        self.worst = self.worst.max(since.elapsed());
        Ok(())
    }
}

/// Counts by all connections until told to stop; how many lines, and the longest gap.
fn count(mut all: Vec<Counting>, stop: &AtomicBool) -> Result<(usize, Duration)> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for one in &mut all {
            one.say(number)?;
        }
        for one in &mut all {
            one.hear(number, begun)?;
        }
        number += 1;
        std::thread::sleep(BEAT.saturating_sub(begun.elapsed()));
    }
    Ok((number, all.iter().map(|one| one.worst).max().unwrap_or_default()))
}

fn begin_counting(
    site: &Site,
    connections: usize,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Result<(usize, Duration)>> {
    let backends = [Backend::LocalPod, Backend::RemotePod];
    let targets: Vec<SocketAddr> = backends.iter().flat_map(|one| one.frontends(&site.cluster)).collect();
    let all = (0..connections).map(|at| Counting::open(site, targets[at % targets.len()]).unwrap()).collect();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || count(all, &stop))
}

/// Transfers that begin now: to a backend on each node, over each family.
fn streams(site: &Site) -> Vec<Stream> {
    let backends = [Backend::LocalPod, Backend::RemotePod];
    let targets = backends.into_iter().flat_map(|backend| backend.frontends(&site.cluster)[..2].to_owned());
    targets.map(|to| Stream::open(site, to).unwrap()).collect()
}

/// Waits until each of the transfers has got further.
#[track_caller]
fn flow_on(all_along: &[Stream], from_here: &[Stream], when: &str) {
    let streams: Vec<&Stream> = all_along.iter().chain(from_here).collect();
    let before: Vec<usize> = streams.iter().map(|stream| stream.came_back()).collect();
    for (stream, before) in streams.iter().zip(before) {
        let is_further = || {
            let now = stream.came_back();
            if now >= before + CHUNK { Ok(()) } else { Err(format!("{now} bytes after {before}")) }
        };
        wait::until_ok(SOON, when, is_further).unwrap();
    }
}

#[test]
fn connections_from_outside_miss_nothing_while_agents_die_and_programs_are_replaced() {
    let site = Site::new(Layout::Routed).unwrap();
    for backend in [Backend::LocalPod, Backend::RemotePod] {
        echo(&site, backend).unwrap();
        site.list_at(backend, BACKEND_PORT + 1).unwrap();
    }
    let mut agents = site.agents();
    let stop = Arc::new(AtomicBool::new(false));
    let counting = begin_counting(&site, CONNECTIONS, &stop);
    let all_along = streams(&site);
    let mut bytes = Vec::new();
    for _ in 0..3 {
        let from_here = streams(&site);
        flow_on(&all_along, &from_here, "before the agents are killed");
        for agent in &mut agents {
            agent.kill().unwrap();
        }
        std::thread::sleep(Duration::from_secs(1));
        flow_on(&all_along, &from_here, "while no agent runs");
        for agent in &mut agents {
            agent.start_again().unwrap();
        }
        flow_on(&all_along, &from_here, "under other programs");
        std::thread::sleep(Duration::from_secs(1));
        bytes.extend(from_here.into_iter().map(|stream| stream.end().unwrap()));
    }
    bytes.extend(all_along.into_iter().map(|stream| stream.end().unwrap()));
    println!("transfers of {bytes:?} bytes and back");
    stop.store(true, Ordering::Relaxed);
    let (lines, worst) = counting.join().unwrap().unwrap();
    println!("{CONNECTIONS} connections, {lines} lines each, the longest gap {worst:?}");
    assert!(lines > 50, "{lines}");
    assert!(worst < GAP, "{worst:?}");
}

/// kube-proxy's `masqueradeAll` may be another at each start: what began under one goes on under the other, in every layout.
#[test]
fn connections_from_outside_go_on_while_agents_change_their_mind_about_masquerading() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        for backend in [Backend::LocalPod, Backend::RemotePod] {
            echo(&site, backend).unwrap();
            site.list_at(backend, BACKEND_PORT + 1).unwrap();
        }
        site.list_pod_for_host().unwrap();
        let mut masquerading = Masquerading::wish(false).unwrap();
        let mut agents = masquerading.agents(&site, &[]);
        let stop = Arc::new(AtomicBool::new(false));
        let mut counting = Vec::new();
        for is_wished in [false, true, false, true] {
            if !counting.is_empty() {
                masquerading.change(is_wished).unwrap();
                for agent in &mut agents {
                    agent.kill().unwrap();
                    agent.start_again().unwrap();
                }
            }
            // What begins now has another source as it is wished: else nothing would have changed.
            for target in Backend::LocalHost.frontends(&site.cluster) {
                let is_so = || {
                    let seen =
                        exchange(&site.client, target, Way::Tcp).map_err(|error| format!("{error:#}"))?;
                    if (seen.own != seen.seen) == is_wished { Ok(()) } else { Err(format!("{seen:?}")) }
                };
                wait::until_ok(SOON, "the start", is_so).unwrap();
            }
            counting.push(begin_counting(&site, FEW, &stop));
            std::thread::sleep(Duration::from_secs(1));
        }
        stop.store(true, Ordering::Relaxed);
        for counting in counting {
            let (lines, worst) =
                counting.join().unwrap().unwrap_or_else(|error| panic!("{layout:?}: {error:#}"));
            assert!(lines > 5, "{layout:?}: {lines}");
            assert!(worst < GAP, "{layout:?}: {worst:?}");
        }
    }
}
