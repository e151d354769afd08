//! What the moving of sockets is shown on: a node and a pod, two backends, VIPs, and the mover itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::Iter;
use aya::{Btf, Ebpf};
use proxy_common::addr::{Addr, Port};
use rustix::io::Errno;
use rustix::net::{AddressFamily, connect, getpeername, sockopt};
use shunt::sys::iter::MapIterator;
use shunt::sys::map::Map;
use shunt::sys::pidfd::take_sockets;
use shunt::sys::{netns, socket};
use tests::cgroup::Cgroup;
use tests::netns::Netns;
use zerocopy::{FromBytes, IntoBytes};

use crate::proofs_object::layout::{Backend, Listed, Record, Vip};
use crate::proofs_object::{App, Shell, attach, load, map, map_fd};

/// The VIPs' port, and the backends'.
const VIP_PORT: u16 = 53;
const BACKEND_PORT: u16 = 5300;
const VIPS: [&str; 2] = ["10.96.0.10", "fd96::10"];
const HOOKS: [&str; 4] =
    ["proof_move_getpeername4", "proof_move_getpeername6", "proof_move_connect4", "proof_move_connect6"];

/// Where an application runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the namespace that the mover works in.
    Node,
    /// In another one.
    Pod,
}

/// Where the VIPs lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// No backend is left.
    Nowhere,
    /// Ids 1 (IPv4) and 2 (IPv6).
    A,
    /// Ids 3 and 4.
    B,
}

impl Site {
    fn id(self, vip: IpAddr) -> u32 {
        let family = if vip.is_ipv4() { 1 } else { 2 };
        match self {
            Self::Nowhere => 0,
            Self::A => family,
            Self::B => 2 + family,
        }
    }

    fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::Nowhere => ["0.0.0.0", "::"],
            Self::A => ["10.77.0.11", "fd77::11"],
            Self::B => ["10.77.0.12", "fd77::12"],
        }
    }
}

/// Namespaces, programs, backends. Dropped in this order: programs, servers, namespaces, cgroup.
pub(crate) struct Rig {
    vips: Map,
    records: MapIterator,
    ebpf: Ebpf,
    servers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    node: Netns,
    pod: Netns,
    cgroup: Cgroup,
}

impl Rig {
    /// Both VIPs lead to A.
    pub(crate) fn new() -> Result<Self> {
        let (node, pod) = (Netns::create("node")?, Netns::create("pod")?);
        let cgroup = Cgroup::create("moving")?;
        wire(&node, &pod)?;
        let mut ebpf = load()?;
        attach(&mut ebpf, &cgroup, &HOOKS)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut rig = Self {
            vips: map(&ebpf, "PROOF_VIPS")?,
            records: iterator(&mut ebpf)?,
            servers: Vec::new(),
            stop,
            node,
            pod,
            cgroup,
            ebpf,
        };
        let rows = map(&rig.ebpf, "PROOF_BACKENDS")?;
        for (site, name) in [(Site::A, "A"), (Site::B, "B")] {
            for address in site.addresses() {
                rig.add_backend(&rows, site, name, SocketAddr::new(address.parse()?, BACKEND_PORT))?;
            }
        }
        rig.point_vips_at(Site::A)?;
        Ok(rig)
    }

    fn add_backend(&mut self, rows: &Map, site: Site, name: &'static str, at: SocketAddr) -> Result<()> {
        let port = Port::new(at.port());
        let row = Backend { addr: at.ip().into(), generation: 1, port, pad: 0 };
        rows.update(&site.id(at.ip()).to_ne_bytes(), row.as_bytes())?;
        let socket = self.node.inside(|| UdpSocket::bind(at))?.with_context(|| format!("bind {at}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::clone(&self.stop);
        self.servers.push(std::thread::spawn(move || serve(&socket, name, &stop)));
        Ok(())
    }

    /// An application in one of the namespaces, hooked.
    pub(crate) fn app(&self, place: Place, shell: Shell) -> App {
        App::start(self.netns(place), &self.cgroup, shell).expect("start the application")
    }

    fn netns(&self, place: Place) -> &Netns {
        match place {
            Place::Node => &self.node,
            Place::Pod => &self.pod,
        }
    }

    /// Cookie of one of the namespaces.
    pub(crate) fn cookie(&self, place: Place) -> Result<u64> {
        Ok(self.netns(place).inside(socket::netns_cookie)??)
    }

    /// From now on the hooks pick this site for both VIPs.
    pub(crate) fn point_vips_at(&self, site: Site) -> Result<()> {
        for vip in VIPS {
            let vip: IpAddr = vip.parse()?;
            let key = Vip { addr: Addr::from(vip), port: Port::new(VIP_PORT), pad: 0 };
            self.vips.update(key.as_bytes(), &site.id(vip).to_ne_bytes())?;
        }
        Ok(())
    }

    /// Every record there is.
    pub(crate) fn list(&self) -> Result<Vec<Listed>> {
        let written = self.records.read_all()?;
        let listed = written.chunks(size_of::<Listed>()).map(Listed::read_from_bytes);
        listed.collect::<Result<_, _>>().ok().context("the iterator wrote half a record")
    }

    /// Moves every socket whose record names another backend than its VIP does now; their cookies.
    ///
    /// The work is done in the node's namespace, as the agent does it, and enters no other.
    pub(crate) fn move_stale(&self) -> Result<Vec<u64>> {
        let node = std::fs::File::open(self.node.path())?;
        netns::in_namespace(&node, || {
            let mut owners: HashMap<u32, HashMap<u64, Record>> = HashMap::new();
            for Listed { cookie, record } in self.list()? {
                if self.is_stale(&record)? {
                    owners.entry(record.tgid).or_default().insert(cookie, record);
                }
            }
            let mut moved = Vec::new();
            for (tgid, records) in owners {
                let wanted = records.keys().copied().collect();
                let mut outcomes = Vec::new();
                take_sockets(tgid, &wanted, |cookie, taken| {
                    outcomes.push(move_socket(&taken, &records[&cookie]).map(|done| done.then_some(cookie)));
                })?;
                for outcome in outcomes {
                    moved.extend(outcome?);
                }
            }
            Ok(moved)
        })?
    }

    fn is_stale(&self, record: &Record) -> Result<bool> {
        let id = self.vips.lookup(record.frontend.as_bytes())?.context("the VIP has gone")?;
        Ok(id != record.backend.to_ne_bytes())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            // A server that panicked has said so.
            let _ = server.join();
        }
    }
}

/// Connects the application's socket to its VIP again; false: the application has connected it to something else, or
/// to nothing.
fn move_socket(taken: &OwnedFd, record: &Record) -> Result<bool> {
    let frontend = record.frontend.addr.to_ip();
    let address = match (sockopt::socket_domain(taken)?, frontend) {
        (AddressFamily::INET6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        _ => frontend,
    };
    let vip = SocketAddr::new(address, record.frontend.port.get());
    // The hook shows the VIP exactly while the record is true.
    let peer = match getpeername(taken) {
        Ok(peer) => peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
        Err(Errno::NOTCONN) => None,
        Err(error) => return Err(error.into()),
    };
    if peer != Some(vip) {
        return Ok(false);
    }
    connect(taken, &vip).with_context(|| format!("connect to {vip} again"))?;
    Ok(true)
}

fn iterator(ebpf: &mut Ebpf) -> Result<MapIterator> {
    let records = map_fd(ebpf, "PROOF_UDP_SOCKETS")?;
    let program: &mut Iter = ebpf.program_mut("proof_move_list").context("no iterator")?.try_into()?;
    program.load("bpf_sk_storage_map", &Btf::from_sys_fs()?)?;
    Ok(MapIterator::bind(program.fd()?.as_fd(), records.as_fd())?)
}

/// One link between node and pod; the backends' addresses are the node's.
fn wire(node: &Netns, pod: &Netns) -> Result<()> {
    node.veth("pod0", pod, "eth0")?;
    for address in ["10.77.0.1", "10.77.0.11", "10.77.0.12"] {
        node.add_address("pod0", address.parse()?, 24)?;
    }
    for address in ["fd77::1", "fd77::11", "fd77::12"] {
        node.add_address("pod0", address.parse()?, 64)?;
    }
    pod.add_address("eth0", "10.77.0.2".parse()?, 24)?;
    pod.add_address("eth0", "fd77::2".parse()?, 64)?;
    // A socket that waits at its VIP needs a route to it.
    pod.add_route("default via 10.77.0.1")
}

fn serve(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut question = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        // Only the time limit and refusals of earlier answers end a receive without a question.
        if let Ok((_, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    }
}
