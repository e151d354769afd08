//! Loads the object: checks pins, makes or adopts maps, runs every program through the verifier.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::{Map as AyaMap, MapData, RingBuf};
use aya::programs::{Iter, Program};
use aya::{Btf, Ebpf, EbpfLoader};
use proxy_common::names;

use super::DatapathError;
use super::hooks::{GUARD, HOOKS, Hook, LISTER};
use super::pin::PinDir;
use crate::maps::clients::ClientMaps;
use crate::maps::store::KernelMaps;
use crate::sys::bpf;
use crate::sys::iter::MapIterator;
use crate::sys::map::Map;

/// The object that `cargo xtask ebpf` built and that is committed with this crate.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/shunt.bpf.o");

/// What a load depends on.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// The object's bytes, aligned as an ELF wants.
    pub object: &'a [u8],
    /// Where maps are pinned; `None`: nowhere, and they end with the process.
    pub pin_dir: Option<&'a PinDir>,
    /// Cookie of the agent's network namespace.
    pub host_netns: u64,
    /// Shards of each counter.
    pub counter_shards: u32,
    /// Process that moves connected UDP sockets, as the initial PID namespace numbers it; zero: none does.
    pub mover: u32,
    /// Whether sockets of pods are left alone.
    pub host_only: bool,
    /// Level of the programs' own log records, as `log::Level` counts; zero: off, which costs no instruction.
    pub log_level: u8,
}

/// Programs that passed the verifier, not attached yet, and their maps.
#[derive(Debug)]
pub struct Loaded {
    /// Owns the programs; dropping it detaches nothing that is linked by [`super::attach`].
    ebpf: Ebpf,
}

/// What the programs know from their load on.
pub(super) struct Globals {
    host_netns: u64,
    host_only: u32,
    mover: u32,
    seed: u64,
    counter_shards: u32,
    log_level: u8,
}

impl Globals {
    pub(super) fn new(options: &LoadOptions<'_>) -> Self {
        Self {
            host_netns: options.host_netns,
            host_only: u32::from(options.host_only),
            mover: options.mover,
            // Each hasher has random keys of its own: enough that no two nodes draw alike.
            seed: RandomState::new().hash_one(0),
            counter_shards: options.counter_shards,
            log_level: options.log_level,
        }
    }

    /// Hands them to a load; the compiler drops those that an object never reads, so that they may be absent.
    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>, must_exist: bool) {
        loader.override_global("HOST_NETNS", &self.host_netns, must_exist);
        loader.override_global("HOST_ONLY", &self.host_only, must_exist);
        loader.override_global("MOVER", &self.mover, must_exist);
        loader.override_global("SEED", &self.seed, must_exist);
        loader.override_global("COUNTER_SHARDS", &self.counter_shards, must_exist);
        loader.override_global("AYA_LOG_LEVEL", &self.log_level, must_exist);
    }
}

impl Loaded {
    /// Loads every program.
    pub fn new(options: &LoadOptions<'_>) -> Result<Self, DatapathError> {
        let globals = Globals::new(options);
        let mut loader = EbpfLoader::new();
        globals.set(&mut loader, true);
        if let Some(pin_dir) = options.pin_dir {
            for (name, path) in pin_dir.map_paths() {
                loader.map_pin_path(name, path);
            }
        }
        let mut ebpf = loader.load(options.object)?;
        for hook in HOOKS.iter().chain([&GUARD]) {
            load_program(&mut ebpf, hook)?;
        }
        Ok(Self { ebpf })
    }

    /// The program of a hook.
    pub fn program(&self, hook: &Hook) -> Result<BorrowedFd<'_>, DatapathError> {
        let absent = DatapathError::Absent { kind: "program", name: hook.program };
        let program = self.ebpf.program(hook.program).ok_or(absent)?;
        let fd = program.fd().map_err(|source| DatapathError::Program { name: hook.program, source })?;
        Ok(fd.as_fd())
    }

    /// The object, for the reader of the programs' log.
    pub(super) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The list of connected UDP sockets that cannot stay as they are. It needs the kernel's BTF.
    pub fn lister(&mut self) -> Result<MapIterator, DatapathError> {
        let absent = || DatapathError::Absent { kind: "program", name: LISTER };
        let map = self.map(names::UDP_SOCKETS)?;
        let program: &mut Iter =
            self.ebpf.program_mut(LISTER).and_then(|program| program.try_into().ok()).ok_or_else(absent)?;
        let btf = Btf::from_sys_fs().map_err(|error| DatapathError::System {
            step: "read the kernel's BTF",
            source: std::io::Error::other(error),
        })?;
        let failed = |source| DatapathError::Program { name: LISTER, source };
        program.load("bpf_sk_storage_map", &btf).map_err(failed)?;
        let fd = program.fd().map_err(failed)?;
        MapIterator::bind(fd.as_fd(), map.as_fd())
            .map_err(|source| DatapathError::System { step: "bind the list of UDP sockets", source })
    }

    /// What hooks report.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, DatapathError> {
        let absent = || DatapathError::Absent { kind: "map", name: names::EVENTS };
        let map = self.ebpf.take_map(names::EVENTS).ok_or_else(absent)?;
        RingBuf::try_from(map).map_err(|_| absent())
    }

    /// The maps about clients and the guard, which the agent writes beside the tables.
    pub fn client_maps(&self) -> Result<ClientMaps, DatapathError> {
        Ok(ClientMaps {
            netns: self.map(names::NETNS)?,
            affinity: self.map(names::AFFINITY)?,
            guard: self.map(names::GUARD)?,
        })
    }

    /// What the kernel tells of each program, in the order of [`HOOKS`], and of the guard.
    pub fn program_facts(&self) -> Result<Vec<bpf::ProgramFacts>, DatapathError> {
        HOOKS
            .iter()
            .chain([&GUARD])
            .map(|hook| {
                bpf::program_facts(self.program(hook)?)
                    .map_err(|source| DatapathError::System { step: "ask for program facts", source })
            })
            .collect()
    }

    /// Handles on the maps for the store.
    pub fn kernel_maps(&self) -> Result<KernelMaps, DatapathError> {
        Ok(KernelMaps {
            services: self.map(names::SERVICES.name)?,
            slots: self.map(names::SLOTS.name)?,
            backends: self.map(names::BACKENDS.name)?,
            counters: self.map(names::COUNTERS.name)?,
            owned: self.map(names::OWNED.name)?,
            frontends: self.map(names::FRONTENDS)?,
            node_addrs: self.map(names::NODE_ADDRS)?,
            cidrs: self.map(names::CIDRS)?,
            sources: self.map(names::SOURCES)?,
            filter: self.map(names::FILTER)?,
        })
    }

    fn map(&self, name: &'static str) -> Result<Map, DatapathError> {
        let absent = || DatapathError::Absent { kind: "map", name };
        let fd = map_fd(self.ebpf.map(name).ok_or_else(absent)?).ok_or_else(absent)?;
        fd.and_then(Map::from_fd).map_err(|source| DatapathError::System { step: "open a map", source })
    }
}

/// Opens the maps pinned in `pin_dir` without loading anything, for the commands that only look.
pub fn open_pinned_maps(pin_dir: &PinDir) -> Result<KernelMaps, DatapathError> {
    let open = |name: &str| {
        let path = pin_dir.maps().join(name);
        Map::open_pinned(&path).map_err(|source| DatapathError::Path { step: "open", path, source })
    };
    Ok(KernelMaps {
        services: open(names::SERVICES.name)?,
        slots: open(names::SLOTS.name)?,
        backends: open(names::BACKENDS.name)?,
        counters: open(names::COUNTERS.name)?,
        owned: open(names::OWNED.name)?,
        frontends: open(names::FRONTENDS)?,
        node_addrs: open(names::NODE_ADDRS)?,
        cidrs: open(names::CIDRS)?,
        sources: open(names::SOURCES)?,
        filter: open(names::FILTER)?,
    })
}

/// Opens the maps about clients in the same way.
pub fn open_pinned_client_maps(pin_dir: &PinDir) -> Result<ClientMaps, DatapathError> {
    let open = |name: &str| {
        let path = pin_dir.maps().join(name);
        Map::open_pinned(&path).map_err(|source| DatapathError::Path { step: "open", path, source })
    };
    Ok(ClientMaps {
        netns: open(names::NETNS)?,
        affinity: open(names::AFFINITY)?,
        guard: open(names::GUARD)?,
    })
}

/// Reads an object from a file, for developers who try one that is not embedded.
pub fn read_object(path: &Path) -> Result<Vec<u8>, DatapathError> {
    std::fs::read(path).map_err(|source| DatapathError::Path { step: "read", path: path.to_owned(), source })
}

fn load_program(ebpf: &mut Ebpf, hook: &Hook) -> Result<(), DatapathError> {
    let absent = || DatapathError::Absent { kind: "program", name: hook.program };
    let program = ebpf.program_mut(hook.program).ok_or_else(absent)?;
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(absent()),
    }
    .map_err(|source| DatapathError::Program { name: hook.program, source })
}

fn map_fd(map: &AyaMap) -> Option<std::io::Result<OwnedFd>> {
    match map {
        AyaMap::Array(map)
        | AyaMap::ArrayOfMaps(map)
        | AyaMap::HashMap(map)
        | AyaMap::LruHashMap(map)
        | AyaMap::LpmTrie(map)
        | AyaMap::SkStorage(map) => Some(map.fd().as_fd().try_clone_to_owned()),
        _ => None,
    }
}
