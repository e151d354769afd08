//! Where connects are measured: a client namespace, a namespace of pods behind a veth pair, three services and
//! their listeners.
//!
//! Nobody accepts while a clock runs: the handshake is the kernel's own work, and the queues are emptied between
//! two measurements, so one thread does everything and no second one disturbs it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, BackendState, ROW_WORDS, join};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::service::{CELL_WORDS, Half, Head, View, ViewWord};
use shunt::maps::{Hashes, WordTable, Words};
use shunt::sys::bpf::ProgramFacts;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cgroup::Cgroup;
use crate::hand::Rig;
use crate::netns::{Netns, address_line};

/// Backends of each service.
const BACKENDS: u8 = 8;
/// Connections that a listener holds without anybody accepting; the kernel's own default limit.
const BACKLOG: i32 = 4_096;
const BACKEND_PORT: u16 = 8_080;

/// A service: where it is dialled and where it leads.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) vip: SocketAddr,
    pub(super) backends: Vec<SocketAddr>,
}

/// Everything that is measured on; the process is in the hooked cgroup.
pub(super) struct Site {
    /// Backends on the client's own loopback device: the shortest way a connect can take.
    pub(super) near: Service,
    /// The same over IPv6.
    pub(super) near6: Service,
    /// Backends behind the veth pair, as pods of one node are to each other.
    pub(super) far: Service,
    /// A listener on an unowned address that shares a VIP's /24, and one on a VIP's /64.
    pub(super) neighbours: [SocketAddr; 2],
    /// Listeners on 127.0.0.1 and ::1.
    pub(super) loopbacks: [SocketAddr; 2],
    listeners: Vec<Socket>,
    _pods: Netns,
    plain: Cgroup,
    rig: Rig,
}

impl Site {
    /// Makes it all.
    pub(super) fn new() -> Result<Self> {
        let (mut rig, pods) = (Rig::new("bench")?, Netns::create("bench_pods")?);
        let near = Service::new(v4(10, 96, 0, 1), |host| v4(10, 244, 0, 10 + host));
        let near6 = Service::new(v6(0x96, 1), |host| v6(0x244, 0x10 + u16::from(host)));
        let far = Service::new(v4(10, 96, 0, 2), |host| v4(10, 244, 1, 10 + host));
        let neighbours = [v4(10, 96, 0, 200), v6(0x96, 200)].map(|ip| SocketAddr::new(ip, BACKEND_PORT));
        let loopbacks = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .map(|ip| SocketAddr::new(ip, BACKEND_PORT));

        let here: Vec<SocketAddr> = [&near.backends[..], &near6.backends, &neighbours].concat();
        rig.netns.ip_batch(&address_lines("lo", &here))?;
        connect_pods(&rig.netns, &pods, &far.backends)?;
        for (service, cell) in [&near, &near6, &far].into_iter().zip(1..) {
            service.write(&mut rig.store, cell)?;
        }
        for at in near.backends.iter().chain(&near6.backends) {
            ensure!(!shares_filter_bit(*at, &neighbours), "{at} shares a bit of the filter with a VIP");
        }
        let mut listeners = rig.netns.inside(|| listen(here.iter().chain(&loopbacks)))??;
        listeners.extend(pods.inside(|| listen(far.backends.iter()))??);
        let plain = Cgroup::create("bench_plain")?;
        Ok(Self { near, near6, far, neighbours, loopbacks, listeners, _pods: pods, plain, rig })
    }

    /// Runs `work` on a thread in the client's namespace.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.rig.netns.inside(work)?
    }

    /// The maps, programs and hooks.
    pub(super) const fn rig(&self) -> &Rig {
        &self.rig
    }

    /// Moves this process into the hooked cgroup, or into one without hooks.
    pub(super) fn place(&self, hooked: bool) -> Result<()> {
        if hooked { self.rig.enter() } else { self.plain.add(std::process::id()) }
    }

    /// Empties the queues of all listeners.
    pub(super) fn drain(&self) {
        for listener in &self.listeners {
            while listener.accept().is_ok() {}
        }
    }

    /// What the kernel tells of each program, in the order of the hooks.
    pub(super) fn program_facts(&self) -> Result<Vec<ProgramFacts>> {
        Ok(self.rig.loaded.program_facts()?)
    }
}

impl Service {
    fn new(vip: IpAddr, backend: impl Fn(u8) -> IpAddr) -> Self {
        let backends = (1..=BACKENDS).map(|host| SocketAddr::new(backend(host), BACKEND_PORT)).collect();
        Self { vip: SocketAddr::new(vip, 80), backends }
    }

    /// Writes rows, slots, a view, the head and the frontend; `cell` decides all ids.
    fn write(&self, store: &mut (impl Words + Hashes), cell: u32) -> Result<()> {
        let first = cell * u32::from(BACKENDS);
        let state = BackendState::SERVING.with_view(View::Internal).0;
        for (at, id) in self.backends.iter().zip(first..) {
            let (addr, port) = (Addr::from(at.ip()), Port::new(at.port()));
            let row = Backend { addr, state, generation: 1, service: cell, port, pad: 0 };
            for (word, index) in row.to_words().into_iter().zip(0..) {
                store.store(WordTable::Backends, u64::from(id) * ROW_WORDS as u64 + index, word)?;
            }
        }
        for id in (first..first + u32::from(BACKENDS)).step_by(2) {
            store.store(WordTable::Slots, u64::from(id / 2), join(id, id + 1))?;
        }
        let words = u64::from(cell) * CELL_WORDS as u64;
        let view = ViewWord::random(first, u32::from(BACKENDS));
        store.store(WordTable::Services, words + Half::A.word(View::Internal) as u64, view.0)?;
        store.store(WordTable::Services, words, Head::new(Half::A, 0, 1).0)?;
        let vip = Addr::from(self.vip.ip());
        for bit in filter::bits_of_address(vip) {
            let (word, mask) = filter::position(bit);
            let bits = store.load(WordTable::Filter, u64::from(word))?;
            store.store(WordTable::Filter, u64::from(word), bits | mask)?;
        }
        let key = FrontendKey::new(vip, Port::new(self.vip.port()), Proto::TCP);
        store.insert_frontends(&[(key, FrontendValue::new(cell, FrontendKind::ClusterIp, 0))])?;
        Ok(())
    }
}

/// A TCP socket that will be closed by a reset, which leaves no TIME_WAIT and so no shortage of source ports.
pub(super) fn open(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// Connects a new socket.
pub(super) fn connect(target: SocketAddr) -> io::Result<Socket> {
    let socket = open(target)?;
    socket.connect(&target.into())?;
    Ok(socket)
}

fn listen<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> Result<Vec<Socket>> {
    addresses
        .map(|at| {
            let socket = Socket::new(Domain::for_address(*at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*at).into())?;
            socket.listen(BACKLOG)?;
            anyhow::Ok(socket)
        })
        .collect::<Result<_>>()
        .context("listen")
}

fn connect_pods(client: &Netns, pods: &Netns, backends: &[SocketAddr]) -> Result<()> {
    client.veth("pods", pods, "client")?;
    client.add_address("pods", v4(10, 244, 1, 1), 24)?;
    pods.add_address("client", v4(10, 244, 1, 2), 24)?;
    pods.ip_batch(&address_lines("client", backends))
}

fn address_lines(device: &str, addresses: &[SocketAddr]) -> Vec<String> {
    let width = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    addresses.iter().map(|at| address_line(device, at.ip(), width(at.ip()))).collect()
}

fn shares_filter_bit(at: SocketAddr, owned: &[SocketAddr]) -> bool {
    owned
        .iter()
        .any(|other| filter::bits_of_prefix(other.ip().into()) == filter::bits_of_prefix(at.ip().into()))
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

fn v6(net: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x10, net, 0, 0, 0, 0, host).into()
}
