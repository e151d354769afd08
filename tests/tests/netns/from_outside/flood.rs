//! Many flows at once, and a flood of SYNs from everywhere: those that are there notice nothing, and memory has an end.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use etherparse::PacketBuilder;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tests::netns::Netns;
use tests::process::{Process, binary};
use tests::report::CrowdReport;
use tests::topology::Node;

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::proofs_object::layout::FLOOD_WORDS;
use crate::scenario::BACKEND_PORT;

/// Flows at once, and SYNs of the flood; `SHUNT_FLOOD_FLOWS` and `SHUNT_FLOOD_SYNS` say otherwise.
const FLOWS: usize = 2_000;
const SYNS: usize = 600_000;
/// Segments of those who ask that may be lost where the run is a short one on any machine.
const SPARED: u64 = 20;
/// Connections whose clients ask all the time.
const BUSY: usize = 200;
/// Bytes by which maps may grow in a flood: an eighth of a million records, and some.
const GROWTH: u64 = 32 << 20;
/// Flows that may begin on a CPU in a second, and some.
const OF_CPU: f64 = 150_000.0;
/// Connections of one process and from one address, well below what either may have.
const OF_PROCESS: usize = 14_000;
/// Limit for all connections of a crowd, and for all their answers.
const LONG: Duration = Duration::from_mins(5);
/// SYNs that the kernel makes at one go, and those that it hands on together: as many as a device's poll.
const CHUNK: usize = 10_000;
const BATCH: u32 = 64;

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().map_or(usual, |text| text.parse().unwrap())
}

fn peer(netns: &Netns, words: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary("peer")?);
    command.args(["--netns", netns.name()]).args(words);
    Process::spawn("peer", command)
}

/// Servers that share an address, some more than there are clients: the kernel deals connections out by chance.
fn serve(pod: &Netns, (at, flows): (SocketAddr, usize)) -> Result<Vec<Process>> {
    (0..=flows.div_ceil(OF_PROCESS))
        .map(|_| {
            let mut process = peer(pod, &["echo", &at.to_string()])?;
            process.wait_line(Duration::from_secs(5), |line| line == "ready")?;
            Ok(process)
        })
        .collect()
}

/// Connections of the client to a frontend, from as many of its addresses as it takes.
struct Crowd(Vec<Process>);

impl Crowd {
    fn open(site: &Site, (to, flows): (SocketAddr, usize)) -> Result<Self> {
        let gateway = crate::wire::clients()[0];
        let mut all = Vec::new();
        for host in 0..flows.div_ceil(OF_PROCESS) {
            let from = Ipv4Addr::new(172, 31, 1, u8::try_from(host + 1)?);
            site.client.add_address("eth0", from.into(), 32)?;
            site.cluster.node(1).netns.ip(&format!("route replace {from} via {gateway}"))?;
            let count = OF_PROCESS.min(flows - host * OF_PROCESS);
            let [to, from, count] = [to.to_string(), from.to_string(), count.to_string()];
            all.push(peer(&site.client, &["crowd", &to, "--from", &from, "--count", &count])?);
        }
        for process in &mut all {
            process.wait_line(LONG, |line| line.starts_with("ready"))?;
        }
        Ok(Self(all))
    }

    /// Every connection asks and is answered.
    fn ask(&mut self) -> Result<()> {
        for process in &mut self.0 {
            process.send("ask")?;
            let line = process.wait_line(LONG, |line| line.starts_with('{'))?;
            let report: CrowdReport = serde_json::from_str(&line)?;
            ensure!(report.connections > 0 && report.answered == report.connections, "{report:?}");
        }
        Ok(())
    }
}

fn connect(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).with_context(|| format!("{from} to {to}"))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks by every connection, one after the other, until told to stop; how often each.
fn keep_asking(
    mut busy: Vec<TcpStream>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Result<(Vec<TcpStream>, usize)>> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            for stream in &mut busy {
                stream.write_all(b"?")?;
                stream.read_exact(&mut [0])?;
            }
            rounds += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok((busy, rounds))
    })
}

/// Segments of TCP that were sent again by anybody in a namespace.
fn sent_again(netns: &Netns) -> Result<u64> {
    let said = netns.run("cat", &["/proc/net/snmp"])?;
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "RetransSegs").context("no such counter")?;
    Ok(value.parse()?)
}

/// Lets so many SYNs from random addresses come in by the client's link, on every CPU; how many did in a second.
///
/// Nobody sends them: a sender would take most of the CPUs that the node has, too. The kernel makes them where a device would.
fn flood(node: &Node, (to, count): (SocketAddr, usize)) -> Result<f64> {
    let threads = std::thread::available_parallelism()?.get();
    let device = node.netns.ip("-json link show ext0")?;
    let device: Vec<Value> = serde_json::from_str(&device)?;
    let field = |name: &str| device[0][name].clone();
    let index = u32::try_from(field("ifindex").as_u64().context("no index")?)?;
    let mac = field("address").as_str().context("no address")?.to_owned();
    let mut ebpf = node.netns.inside(|| source((to, &mac)))??;
    let start = Instant::now();
    let program: &mut Xdp = ebpf.program_mut("proof_flood").context("no such program")?.try_into()?;
    let program = &*program;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || node.netns.inside(|| let_in(program, (index, count / threads)))))
            .collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??)
    })?;
    Ok(f64::from(u32::try_from(count)?) / start.elapsed().as_secs_f64())
}

/// The programs, with the packet that is made again and again; the link takes such packets as long as they are there.
fn source((to, mac): (SocketAddr, &str)) -> Result<Ebpf> {
    let IpAddr::V4(ip) = to.ip() else { anyhow::bail!("IPv4 only") };
    let mut receiver = [0; 6];
    for (byte, text) in receiver.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2; 6], receiver)
        .ipv4([198, 18, 0, 0], ip.octets(), 64)
        .tcp(0, to.port(), 7, 64_000)
        .syn()
        .write(&mut packet, &[])?;
    packet.resize(8 * FLOOD_WORDS, 0);
    let mut ebpf = crate::proofs_object::load()?;
    let map = ebpf.map_mut("PROOF_FLOOD_PACKET").context("no such map")?;
    let bytes: [u8; 8 * FLOOD_WORDS] = packet.as_slice().try_into()?;
    Array::<_, [u8; 8 * FLOOD_WORDS]>::try_from(map)?.set(0, bytes, 0)?;
    let door: &mut Xdp = ebpf.program_mut("proof_flood_door").context("no such program")?.try_into()?;
    door.load()?;
    door.attach("ext0", XdpMode::Driver)?;
    let program: &mut Xdp = ebpf.program_mut("proof_flood").context("no such program")?.try_into()?;
    program.load()?;
    Ok(ebpf)
}

/// So many packets come in by a device.
fn let_in(program: &Xdp, (device, count): (u32, usize)) -> Result<()> {
    let packet = [0; 8 * FLOOD_WORDS];
    let length = u32::try_from(packet.len())?;
    // `xdp_md`: data, its end and metadata, the device, its queue, and where to.
    let context = [0, length, 0, device, 0, 0].map(u32::to_ne_bytes).concat();
    let mut left = count;
    while left > 0 {
        let some = left.min(CHUNK);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.ctx_in = Some(&context);
        options.repeat = u32::try_from(some)?;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        program.test_run(options)?;
        left -= some;
    }
    Ok(())
}

#[test]
fn a_flood_of_syns_is_turned_away_and_those_who_talk_notice_nothing() {
    let (flows, syns) = (number("SHUNT_FLOOD_FLOWS", FLOWS), number("SHUNT_FLOOD_SYNS", SYNS));
    let site = Site::new(Layout::Routed).unwrap();
    let pod = &site.cluster.pod(1, 2).netns;
    for netns in [pod, &site.client] {
        netns
            .sysctls(&[
                ("net/ipv4/tcp_max_syn_backlog", "65535"),
                ("net/ipv4/ip_local_port_range", "10000 60000"),
            ])
            .unwrap();
    }
    let backend = SocketAddr::new(site.cluster.pod(1, 2).v4, BACKEND_PORT + 1);
    let _servers = serve(pod, (backend, flows)).unwrap();
    site.list_at(Backend::LocalPod, BACKEND_PORT + 1).unwrap();
    let mut agents = site.agents();
    let frontend = Backend::LocalPod.frontends(&site.cluster)[0];
    let begun = Instant::now();
    let mut crowd = Crowd::open(&site, (frontend, flows)).unwrap();
    println!("{flows} connections in {:?}", begun.elapsed());
    crowd.ask().unwrap();
    let again = || sent_again(pod).unwrap() + sent_again(&site.client).unwrap();

    // The control run: the same without a flood, for as long as one takes.
    let [own, _] = crate::wire::clients();
    let busy = site.client.inside(|| (0..BUSY).map(|_| connect(own, frontend)).collect::<Result<Vec<_>>>());
    let busy = busy.unwrap().unwrap();
    let (before, stop) = (again(), Arc::new(AtomicBool::new(false)));
    let asking = keep_asking(busy, &stop);
    std::thread::sleep(Duration::from_secs(3));
    stop.store(true, Ordering::Relaxed);
    let (busy, rounds) = asking.join().unwrap().unwrap();
    let in_peace = again() - before;

    let memory = map_memory(agents[0].pid()).unwrap();
    let (before, stop) = (again(), Arc::new(AtomicBool::new(false)));
    let asking = keep_asking(busy, &stop);
    // Nobody answers: what the sender's CPUs would spend on that goes into more SYNs.
    let (_, [victim, _]) = Backend::RemotePod.place(&site.cluster);
    site.cluster.node(1).netns.ip(&format!("route add blackhole {victim}/32")).unwrap();
    let target = Backend::RemotePod.frontends(&site.cluster)[0];
    let rate = flood(site.cluster.node(1), (target, syns)).unwrap();
    stop.store(true, Ordering::Relaxed);
    let (_busy, meanwhile) = asking.join().unwrap().unwrap();
    let in_flood = again() - before;
    println!(
        "{syns} SYNs at {rate:.0} a second; sent again {in_peace} in {rounds} rounds of peace, {in_flood} in {meanwhile} of flood"
    );
    assert!(rounds > 10 && meanwhile > 0, "{rounds} {meanwhile}");
    // A machine that does something else besides may drop a few of either; asked for in full, none is spared.
    let spared = if std::env::var_os("SHUNT_FLOOD_SYNS").is_some() { 0 } else { SPARED };
    assert!(in_flood <= in_peace + spared, "{in_flood} segments were sent again, {in_peace} without a flood");
    crowd.ask().unwrap();
    let grown = map_memory(agents[0].pid()).unwrap().saturating_sub(memory);
    println!("maps had {memory} bytes before the flood, and {grown} more after it");
    assert!(memory > 0 && grown < GROWTH, "{memory}, {grown}");
    check_refused(&agents.remove(0), (syns, rate)).unwrap();
}

/// Bytes of memory in all maps of a process.
fn map_memory(pid: u32) -> Result<u64> {
    let mut all = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed by now.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        if let Some(bytes) = text.lines().find_map(|line| line.strip_prefix("memlock:")) {
            all += bytes.trim().parse::<u64>()?;
        }
    }
    Ok(all)
}

/// Each SYN was let in or turned away, but for a few that came twice, and more than the guard lets in on all CPUs were turned away;
/// on few machines is that much sent.
fn check_refused(agent: &tests::agent::Agent<'_>, (syns, rate): (usize, f64)) -> Result<()> {
    let counters = agent.shunt(&["dump", "counters"])?;
    let count = |name: &str| -> Result<usize> {
        let value = counters.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        Ok(value.trim().parse()?)
    };
    let let_in = count("default/remote-pod:tcp/tcp picked")?;
    let flood = count("reason flood")?;
    println!("{let_in} were let in, {flood} turned away");
    ensure!(let_in + flood <= syns && let_in + flood > syns - syns / 100, "{let_in} and {flood} of {syns}");
    ensure!(count("default/remote-pod:tcp/tcp refused")? == flood, "{counters}");
    let of_all = OF_CPU * f64::from(u32::try_from(std::thread::available_parallelism()?.get())?);
    ensure!(rate < of_all || flood > 0, "{rate} a second, and none was turned away");
    Ok(())
}
