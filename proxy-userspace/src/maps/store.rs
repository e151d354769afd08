//! The kernel store: mapped chunks for words, batches for hashes.
//!
//! It knows which kernel object holds what and nothing of what the words mean.

use std::io;

use proxy_common::addr::Addr;
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::names::{self, Chunked};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::grace::Grace;
use super::live::Elements;
use super::{Hashes, MapStore, StoreError, WordTable, Words};
use crate::sys::map::{Map, Shape};
use crate::sys::mapping::Mapping;

const CHUNK_WORDS: u64 = names::CHUNK_BYTES as u64 / 8;

/// One chunked array: the outer map and a mapping of each chunk.
#[derive(Debug)]
struct Chunks {
    layout: Chunked,
    outer: Map,
    mappings: Vec<Mapping>,
}

impl Chunks {
    fn open(layout: Chunked, outer: Map) -> Result<Self, StoreError> {
        let mut mappings: Vec<Mapping> = Vec::new();
        while (mappings.len() as u32) < layout.max_chunks {
            let inner = outer.inner(mappings.len() as u32).map_err(kernel("open chunk", layout.name))?;
            let Some(inner) = inner else { break };
            if inner.shape() != chunk_shape(&layout) {
                let text = format!("chunk {} has another shape", mappings.len());
                return Err(kernel("check chunk", layout.name)(io::Error::other(text)));
            }
            mappings.push(Mapping::new(&inner).map_err(kernel("map chunk", layout.name))?);
        }
        Ok(Self { layout, outer, mappings })
    }

    fn locate(&self, word: u64) -> Option<(&Mapping, usize)> {
        let chunk = usize::try_from(word / CHUNK_WORDS).ok()?;
        Some((self.mappings.get(chunk)?, (word % CHUNK_WORDS) as usize))
    }

    fn grow(&mut self) -> Result<(), StoreError> {
        let name = self.layout.name;
        let next = self.mappings.len() as u32;
        if next >= self.layout.max_chunks {
            return Err(StoreError::Full { map: name });
        }
        let inner = Map::create(name, &chunk_shape(&self.layout)).map_err(kernel("create chunk", name))?;
        let mapping = Mapping::new(&inner).map_err(kernel("map chunk", name))?;
        self.outer.set_inner(next, &inner).map_err(kernel("add chunk", name))?;
        self.mappings.push(mapping);
        Ok(())
    }
}

/// The shape of every chunk of a chunked array, which the template in the object has too.
pub const fn chunk_shape(layout: &Chunked) -> Shape {
    Shape::mapped_array(layout.element_bytes, layout.chunk_elements())
}

/// The maps of one pin directory, opened by whoever loads the programs.
#[derive(Debug)]
pub struct KernelMaps {
    /// Outer array of the service cells.
    pub services: Map,
    /// Outer array of the slots.
    pub slots: Map,
    /// Outer array of the backend rows.
    pub backends: Map,
    /// Outer array of the counters.
    pub counters: Map,
    /// Outer array of the blocks of owned VIPs.
    pub owned: Map,
    /// One-entry array that holds the frontend hash.
    pub frontends: Map,
    /// The node's addresses.
    pub node_addrs: Map,
    /// ServiceCIDR ranges.
    pub cidrs: Map,
    /// Ranges of clients.
    pub sources: Map,
    /// The filter of owned ranges.
    pub filter: Map,
}

impl KernelMaps {
    /// Further handles on the same maps.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            services: self.services.try_clone()?,
            slots: self.slots.try_clone()?,
            backends: self.backends.try_clone()?,
            counters: self.counters.try_clone()?,
            owned: self.owned.try_clone()?,
            frontends: self.frontends.try_clone()?,
            node_addrs: self.node_addrs.try_clone()?,
            cidrs: self.cidrs.try_clone()?,
            sources: self.sources.try_clone()?,
            filter: self.filter.try_clone()?,
        })
    }
}

/// The kernel's maps as a [`MapStore`].
#[derive(Debug)]
pub struct KernelStore {
    services: Chunks,
    slots: Chunks,
    backends: Chunks,
    counters: Chunks,
    owned: Chunks,
    filter: Mapping,
    frontends_outer: Map,
    frontends: Map,
    node_addrs: Map,
    cidrs: Map,
    sources: Map,
    /// None in a store that only looks.
    grace: Option<Grace>,
}

impl KernelStore {
    /// Opens what `maps` hold; a fresh set gets its first frontend hash here.
    pub fn open(maps: KernelMaps) -> Result<Self, StoreError> {
        let frontends = match maps.frontends.inner(0).map_err(kernel("open hash", names::FRONTENDS))? {
            Some(frontends) => frontends,
            None => install_frontends(&maps.frontends, names::FRONTENDS_INITIAL)?,
        };
        let grace = Grace::new().map_err(kernel("create", "GRACE"))?;
        Self::assemble(maps, frontends, Some(grace))
    }

    /// Opens what `maps` hold to look at it; `None` while nobody has filled them. Nothing is made, and such a store
    /// cannot wait for a grace period, which only a writer needs.
    pub fn open_to_look(maps: KernelMaps) -> Result<Option<Self>, StoreError> {
        let frontends = maps.frontends.inner(0).map_err(kernel("open hash", names::FRONTENDS))?;
        frontends.map(|frontends| Self::assemble(maps, frontends, None)).transpose()
    }

    fn assemble(maps: KernelMaps, frontends: Map, grace: Option<Grace>) -> Result<Self, StoreError> {
        Ok(Self {
            services: Chunks::open(names::SERVICES, maps.services)?,
            slots: Chunks::open(names::SLOTS, maps.slots)?,
            backends: Chunks::open(names::BACKENDS, maps.backends)?,
            counters: Chunks::open(names::COUNTERS, maps.counters)?,
            owned: Chunks::open(names::OWNED, maps.owned)?,
            filter: Mapping::new(&maps.filter).map_err(kernel("map", names::FILTER))?,
            frontends_outer: maps.frontends,
            frontends,
            node_addrs: maps.node_addrs,
            cidrs: maps.cidrs,
            sources: maps.sources,
            grace,
        })
    }

    fn chunks(&self, table: WordTable) -> Option<&Chunks> {
        match table {
            WordTable::Services => Some(&self.services),
            WordTable::Slots => Some(&self.slots),
            WordTable::Backends => Some(&self.backends),
            WordTable::Counters => Some(&self.counters),
            WordTable::Owned => Some(&self.owned),
            WordTable::Filter => None,
        }
    }

    fn chunks_mut(&mut self, table: WordTable) -> Option<&mut Chunks> {
        match table {
            WordTable::Services => Some(&mut self.services),
            WordTable::Slots => Some(&mut self.slots),
            WordTable::Backends => Some(&mut self.backends),
            WordTable::Counters => Some(&mut self.counters),
            WordTable::Owned => Some(&mut self.owned),
            WordTable::Filter => None,
        }
    }

    fn locate(&self, table: WordTable, word: u64) -> Option<(&Mapping, usize)> {
        match self.chunks(table) {
            Some(chunks) => chunks.locate(word),
            None => Some((&self.filter, usize::try_from(word).ok()?)),
        }
    }
}

impl KernelStore {
    /// Swaps in a copy of the frontend hash, in which `moved` have other values. Nobody can see the copy before that.
    fn swap_frontends(
        &mut self,
        capacity: u32,
        moved: &[(FrontendKey, FrontendValue)],
    ) -> Result<(), StoreError> {
        let map = names::FRONTENDS;
        let copy = Map::create(map, &frontends_shape(capacity)).map_err(kernel("create hash", map))?;
        let (keys, values) = self.frontends.entries().map_err(kernel("dump", map))?;
        copy.update_batch(&keys, &values).map_err(|(_, source)| kernel("copy", map)(source))?;
        put_frontends(&copy, moved, "move")?;
        self.frontends_outer.set_inner(0, &copy).map_err(kernel("swap hash", map))?;
        self.frontends = copy;
        Ok(())
    }
}

fn missing(table: WordTable, word: u64) -> StoreError {
    StoreError::Missing { map: table.name(), element: word }
}

fn kernel(call: &'static str, map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Kernel { call, map, source }
}

impl Words for KernelStore {
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        let (mapping, offset) = self.locate(table, word).ok_or_else(|| missing(table, word))?;
        mapping.store(offset, value).ok_or_else(|| missing(table, word))
    }

    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        let (mapping, offset) = self.locate(table, word).ok_or_else(|| missing(table, word))?;
        mapping.load(offset).ok_or_else(|| missing(table, word))
    }

    fn words(&self, table: WordTable) -> u64 {
        match self.chunks(table) {
            Some(chunks) => chunks.mappings.len() as u64 * CHUNK_WORDS,
            None => u64::from(filter::WORDS),
        }
    }

    fn grow(&mut self, table: WordTable) -> Result<(), StoreError> {
        match self.chunks_mut(table) {
            Some(chunks) => chunks.grow(),
            None => Err(StoreError::Full { map: names::FILTER }),
        }
    }
}

/// The shape of the frontend hash; its capacity differs from node to node.
pub const fn frontends_shape(capacity: u32) -> Shape {
    Shape::hash(size_of::<FrontendKey>() as u32, size_of::<FrontendValue>() as u32, capacity)
}

fn install_frontends(outer: &Map, capacity: u32) -> Result<Map, StoreError> {
    let map = names::FRONTENDS;
    let hash = Map::create(map, &frontends_shape(capacity)).map_err(kernel("create hash", map))?;
    outer.set_inner(0, &hash).map_err(kernel("swap hash", map))?;
    Ok(hash)
}

/// Entries per batch call: bounded, so that one call never holds the kernel for long.
const BATCH: usize = 4096;

fn put_frontends(
    map: &Map,
    entries: &[(FrontendKey, FrontendValue)],
    call: &'static str,
) -> Result<(), StoreError> {
    for batch in entries.chunks(BATCH) {
        let keys: Vec<u8> = batch.iter().flat_map(|(key, _)| key.as_bytes().to_vec()).collect();
        let values: Vec<u8> = batch.iter().flat_map(|(_, value)| value.as_bytes().to_vec()).collect();
        map.update_batch(&keys, &values).map_err(|(_, source)| kernel(call, names::FRONTENDS)(source))?;
    }
    Ok(())
}

impl Hashes for KernelStore {
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        put_frontends(&self.frontends, entries, "insert")
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError> {
        for key in keys {
            self.frontends.delete(key.as_bytes()).map_err(kernel("delete", names::FRONTENDS))?;
        }
        Ok(())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        typed(&self.frontends, names::FRONTENDS)
    }

    fn frontend_capacity(&self) -> u32 {
        self.frontends.shape().max_entries
    }

    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError> {
        self.swap_frontends(capacity, &[])
    }

    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        self.swap_frontends(self.frontend_capacity(), entries)
    }

    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError> {
        self.node_addrs.update(addr.as_bytes(), flags.as_bytes()).map_err(kernel("insert", names::NODE_ADDRS))
    }

    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError> {
        self.node_addrs.delete(addr.as_bytes()).map(drop).map_err(kernel("delete", names::NODE_ADDRS))
    }

    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        typed(&self.node_addrs, names::NODE_ADDRS)
    }

    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.cidrs.update(key.as_bytes(), &1_u32.to_ne_bytes()).map_err(kernel("insert", names::CIDRS))
    }

    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.cidrs.delete(key.as_bytes()).map(drop).map_err(kernel("delete", names::CIDRS))
    }

    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        Ok(typed::<CidrKey, u32>(&self.cidrs, names::CIDRS)?.into_iter().map(|(key, _)| key).collect())
    }

    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.sources.update(key.as_bytes(), &1_u32.to_ne_bytes()).map_err(kernel("insert", names::SOURCES))
    }

    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.sources.delete(key.as_bytes()).map(drop).map_err(kernel("delete", names::SOURCES))
    }

    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        Ok(typed::<SourceKey, u32>(&self.sources, names::SOURCES)?.into_iter().map(|(key, _)| key).collect())
    }
}

impl Elements for KernelStore {
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, StoreError> {
        element(&self.frontends, names::FRONTENDS, key)
    }

    fn node_addr(&self, addr: Addr) -> Result<Option<NodeAddrFlags>, StoreError> {
        element(&self.node_addrs, names::NODE_ADDRS, &addr)
    }

    fn in_service_cidr(&self, addr: Addr) -> Result<bool, StoreError> {
        let found = element::<_, u32>(&self.cidrs, names::CIDRS, &CidrKey { prefix_len: 128, addr })?;
        Ok(found.is_some())
    }

    fn is_allowed_source(&self, service: u32, addr: Addr) -> Result<bool, StoreError> {
        let key = SourceKey::client(service, addr);
        Ok(element::<_, u32>(&self.sources, names::SOURCES, &key)?.is_some())
    }
}

impl MapStore for KernelStore {
    fn grace(&mut self) -> Result<(), StoreError> {
        let missing = || StoreError::Missing { map: "GRACE", element: 0 };
        self.grace.as_ref().ok_or_else(missing)?.wait().map_err(kernel("wait for readers", "GRACE"))
    }
}

/// One element; of a trie, that of the longest prefix.
fn element<K, V>(map: &Map, name: &'static str, key: &K) -> Result<Option<V>, StoreError>
where
    K: IntoBytes + Immutable,
    V: FromBytes,
{
    let found = map.lookup(key.as_bytes()).map_err(kernel("look up", name))?;
    let odd = || kernel("decode", name)(io::Error::other("element of another size"));
    found.map(|value| V::read_from_bytes(&value).map_err(|_| odd())).transpose()
}

fn typed<K, V>(map: &Map, name: &'static str) -> Result<Vec<(K, V)>, StoreError>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    let (keys, values) = map.entries().map_err(kernel("dump", name))?;
    let odd = || kernel("decode", name)(io::Error::other("element of another size"));
    keys.chunks_exact(size_of::<K>())
        .zip(values.chunks_exact(size_of::<V>()))
        .map(|(key, value)| {
            let key = K::read_from_bytes(key).map_err(|_| odd())?;
            let value = V::read_from_bytes(value).map_err(|_| odd())?;
            Ok((key, value))
        })
        .collect()
}
