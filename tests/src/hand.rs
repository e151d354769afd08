//! One service written into real maps by hand, word by word, without the writer: what the kernel proofs and the
//! first traffic test stand on.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, BackendState, ROW_WORDS, STATE_WORD};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::names::SCHEMA;
use proxy_common::owned;
use proxy_common::service::{CELL_WORDS, Half, Head, View, ViewWord};
use shunt::datapath::attach::{Attached, Links};
use shunt::datapath::guard::GuardHook;
use shunt::datapath::hooks::Hook;
use shunt::datapath::load::{LoadOptions, Loaded, OBJECT, read_object};
use shunt::datapath::packet;
use shunt::datapath::pin::PinDir;
use shunt::maps::clients::Affinity;
use shunt::maps::store::KernelStore;
use shunt::maps::{Hashes, WordTable, Words};
use shunt::plan::ops::block_word;

use crate::bpffs::Bpffs;
use crate::cgroup::Cgroup;
use crate::netns::Netns;

/// The VIP of the service.
pub const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
/// Its cell, unless a test says otherwise.
pub const SERVICE: u32 = 1;

/// Maps, programs and hooks in scratch places; the test's own process is in the hooked cgroup.
///
/// Fields are dropped in order: the process leaves the cgroup before it is removed.
#[derive(Debug)]
pub struct Rig {
    /// The maps.
    pub store: KernelStore,
    /// The programs in force.
    pub loaded: Loaded,
    links: Option<Links>,
    pin_dir: PinDir,
    /// Where connects start from.
    pub netns: Netns,
    /// The cell of the service, [`SERVICE`] unless a test wants another.
    pub cell: u32,
    cgroup: Cgroup,
    bpffs: Bpffs,
    head: Head,
}

impl Rig {
    /// Loads and attaches; the maps are empty but for one chunk each.
    pub fn new(label: &str) -> Result<Self> {
        let (bpffs, cgroup, netns) = (Bpffs::mount(label)?, Cgroup::create(label)?, Netns::create(label)?);
        let pin_dir = PinDir::new(&bpffs.path().join("shunt"), SCHEMA);
        pin_dir.create()?;
        let loaded = load(&pin_dir)?;
        let mut store = KernelStore::open(loaded.kernel_maps()?)?;
        for table in WordTable::CHUNKED {
            store.grow(table)?;
        }
        let head = Head::default();
        let mut rig = Self { store, loaded, links: None, pin_dir, netns, cell: SERVICE, cgroup, bpffs, head };
        rig.attach()?;
        rig.cgroup.add(std::process::id())?;
        Ok(rig)
    }

    /// Attaches the programs, in place of those that are attached.
    pub fn attach(&mut self) -> Result<Vec<(Hook, Attached)>> {
        let directory = self.cgroup.open()?;
        self.attach_at(&directory)
    }

    /// Attaches them to another cgroup.
    pub fn attach_at(&mut self, directory: &File) -> Result<Vec<(Hook, Attached)>> {
        let id = directory.metadata()?.ino();
        let (links, outcomes) = Links::attach(&self.loaded, (directory.as_fd(), id), Some(&self.pin_dir))?;
        self.links = Some(links);
        Ok(outcomes)
    }

    /// Loads a second set of programs over the same maps.
    pub fn reload(&mut self) -> Result<()> {
        self.loaded = load(&self.pin_dir)?;
        Ok(())
    }

    /// Makes the table of session affinity.
    pub fn remember_clients(&self) -> Result<()> {
        Ok(Affinity::open(self.loaded.client_maps()?.affinity)?.ensure()?)
    }

    /// The egress guard, which is not attached yet.
    pub fn guard(&self) -> Result<GuardHook> {
        let directory = self.cgroup.open()?;
        let id = directory.metadata()?.ino();
        let word = self.loaded.client_maps()?.guard;
        Ok(GuardHook::new(&self.loaded, (directory.into(), id), (None, word))?)
    }

    /// Makes a cgroup below the hooked one.
    pub fn inner_cgroup(&self) -> Result<Cgroup> {
        self.cgroup.child("inner")
    }

    /// Moves this process back into the hooked cgroup.
    pub fn enter(&self) -> Result<()> {
        self.cgroup.add(std::process::id())
    }

    /// Where things are pinned.
    pub fn pin_dir(&self) -> &PinDir {
        &self.pin_dir
    }

    /// The root of the pins.
    pub fn pin_root(&self) -> PathBuf {
        self.bpffs.path().join("shunt")
    }

    /// Writes the row of backend `id`.
    pub fn write_row(&mut self, id: u32, at: SocketAddr) -> Result<()> {
        let state = BackendState::SERVING.with_view(View::Internal);
        let (addr, port) = (Addr::from(at.ip()), Port::new(at.port()));
        let row = Backend { addr, state: state.0, generation: 1, service: self.cell, port, pad: 0 };
        for (index, word) in row.to_words().into_iter().enumerate() {
            self.store.store(WordTable::Backends, u64::from(id) * ROW_WORDS as u64 + index as u64, word)?;
        }
        Ok(())
    }

    /// Writes `ids` from slot `base`, which is even.
    pub fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<()> {
        for (index, pair) in ids.chunks(2).enumerate() {
            let second = pair.get(1).copied().unwrap_or(0);
            let word = proxy_common::backend::join(pair[0], second);
            self.store.store(WordTable::Slots, u64::from(base / 2) + index as u64, word)?;
        }
        Ok(())
    }

    /// Writes the inactive half and switches to it: the one store.
    pub fn switch_to(&mut self, word: ViewWord) -> Result<()> {
        self.switch_views(&[(View::Internal, word)])
    }

    /// The same for some views.
    pub fn switch_views(&mut self, views: &[(View, ViewWord)]) -> Result<()> {
        let half = if self.head == Head::default() { Half::A } else { self.head.half().other() };
        let cell = u64::from(self.cell) * CELL_WORDS as u64;
        for (view, word) in views {
            self.store.store(WordTable::Services, cell + half.word(*view) as u64, word.0)?;
        }
        self.head = Head::new(half, 0, self.head.sequence() + 1);
        self.store.store(WordTable::Services, cell, self.head.0)?;
        Ok(())
    }

    /// Makes the VIP reachable.
    pub fn insert_vip(&mut self) -> Result<()> {
        let addr = Addr::from(VIP.ip());
        self.note_owned(addr)?;
        let value = FrontendValue::new(self.cell, FrontendKind::ClusterIp, 0);
        self.store.insert_frontends(&vip_keys(VIP).map(|key| (key, value)))?;
        Ok(())
    }

    /// Makes the same service reachable at another address of the VIP's /24.
    pub fn insert_frontend(&mut self, at: SocketAddr) -> Result<()> {
        self.insert_frontend_of(FrontendKind::ClusterIp, at)
    }

    /// The same by a frontend of some kind.
    pub fn insert_frontend_of(&mut self, kind: FrontendKind, at: SocketAddr) -> Result<()> {
        self.note_owned(at.ip().into())?;
        for key in vip_keys(at) {
            self.set_bit(filter::bit_of_port(key.port, key.proto))?;
        }
        let value = FrontendValue::new(self.cell, kind, 0);
        self.store.insert_frontends(&vip_keys(at).map(|key| (key, value)))?;
        Ok(())
    }

    /// The same over SCTP alone.
    pub fn insert_frontend_of_sctp(&mut self, at: SocketAddr) -> Result<()> {
        self.note_owned(at.ip().into())?;
        let key = FrontendKey::new(at.ip().into(), Port::new(at.port()), Proto::SCTP);
        self.set_bit(filter::bit_of_port(key.port, key.proto))?;
        let value = FrontendValue::new(self.cell, FrontendKind::ClusterIp, 0);
        Ok(self.store.insert_frontends(&[(key, value)])?)
    }

    /// Says that an address is a cluster IP, whose other ports are nobody's.
    pub fn own_vip(&mut self, ip: IpAddr) -> Result<()> {
        const BLOCK: u32 = 1;
        let addr = Addr::from(ip);
        let (word, mask) = owned::position(addr);
        self.store.store(WordTable::Owned, block_word(BLOCK, word), mask)?;
        let value = FrontendValue::new(BLOCK, FrontendKind::OwnedVip, 0);
        Ok(self.store.insert_frontends(&[(FrontendKey::owned_block(addr), value)])?)
    }

    /// Sets the bits of an address in the filter.
    fn note_owned(&mut self, addr: Addr) -> Result<()> {
        filter::bits_of_address(addr).into_iter().try_for_each(|bit| self.set_bit(bit))
    }

    fn set_bit(&mut self, bit: u32) -> Result<()> {
        let (word, mask) = filter::position(bit);
        let bits = self.store.load(WordTable::Filter, u64::from(word))?;
        Ok(self.store.store(WordTable::Filter, u64::from(word), bits | mask)?)
    }

    /// Frees the row of backend `id`.
    pub fn free_row(&mut self, id: u32) -> Result<()> {
        let word = u64::from(id) * ROW_WORDS as u64 + STATE_WORD as u64;
        Ok(self.store.store(WordTable::Backends, word, proxy_common::backend::join(0, 1))?)
    }

    /// Takes the VIP away.
    pub fn delete_vip(&mut self) -> Result<()> {
        Ok(self.store.delete_frontends(&vip_keys(VIP))?)
    }

    /// `count` listeners on loopback addresses of the namespace.
    pub fn listeners(&self, count: u8) -> Result<Vec<TcpListener>> {
        self.netns.inside(|| {
            (1..=count)
                .map(|host| TcpListener::bind((Ipv4Addr::new(127, 0, 1, host), 8080)).context("listen"))
                .collect()
        })?
    }
}

/// The keys of a frontend that serves TCP and UDP.
fn vip_keys(at: SocketAddr) -> [FrontendKey; 2] {
    [Proto::TCP, Proto::UDP].map(|proto| FrontendKey::new(at.ip().into(), Port::new(at.port()), proto))
}

/// The bytes of the object under test: `SHUNT_TEST_OBJECT`, or the committed one.
pub fn object_under_test() -> Result<Vec<u8>> {
    match std::env::var_os("SHUNT_TEST_OBJECT") {
        Some(path) => Ok(read_object(Path::new(&path))?),
        None => Ok(OBJECT.to_vec()),
    }
}

/// The same of the object of the programs at devices: `SHUNT_PACKET_OBJECT`, or the committed one.
pub fn packet_object_under_test() -> Result<Vec<u8>> {
    match std::env::var_os("SHUNT_PACKET_OBJECT") {
        Some(path) => Ok(read_object(Path::new(&path))?),
        None => Ok(packet::OBJECT.to_vec()),
    }
}

fn load(pin_dir: &PinDir) -> Result<Loaded> {
    let object = object_under_test()?;
    let host_netns = shunt::sys::socket::netns_cookie()?;
    let options = LoadOptions {
        object: &object,
        pin_dir: Some(pin_dir),
        host_netns,
        counter_shards: 2,
        mover: 0,
        host_only: false,
        log_level: 0,
    };
    Ok(Loaded::new(&options)?)
}

/// Connects to the VIP from the calling thread and closes with a reset, which leaves no TIME_WAIT behind.
pub fn connect_once() -> std::io::Result<SocketAddr> {
    let stream = TcpStream::connect(VIP)?;
    let peer = stream.peer_addr()?;
    rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO))?;
    Ok(peer)
}
