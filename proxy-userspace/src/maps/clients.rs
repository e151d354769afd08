//! The maps about clients: the registry of their namespaces, what they were given, and whether the guard is in force.
//!
//! They hold what the programs found out by themselves, so no plan says what they should hold.

use std::collections::HashMap;
use std::io;

use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::names;
use zerocopy::{FromBytes, IntoBytes};

use super::StoreError;
use crate::sys::map::{Map, Shape};

/// Elements of the affinity table at most: some 110 MB.
const MOST: u32 = 1 << 20;

/// The maps of one pin directory.
#[derive(Debug)]
pub struct ClientMaps {
    /// Network namespaces by cookie.
    pub netns: Map,
    /// One-entry array that holds the affinity table.
    pub affinity: Map,
    /// One word.
    pub guard: Map,
}

/// The shape of the affinity table.
pub const fn affinity_shape(capacity: u32) -> Shape {
    Shape::lru_hash(size_of::<AffinityKey>() as u32, size_of::<Memory>() as u32, capacity)
}

/// What clients of services with session affinity were given. Where no service has affinity there is no table: it takes
/// memory for all that it may hold.
#[derive(Debug)]
pub struct Affinity {
    outer: Map,
    table: Option<Map>,
}

impl Affinity {
    /// Opens the table, if there is one.
    pub fn open(outer: Map) -> Result<Self, StoreError> {
        let table = outer.inner(0).map_err(kernel("open"))?;
        Ok(Self { outer, table })
    }

    /// Makes the first table if there is none.
    pub fn ensure(&mut self) -> Result<(), StoreError> {
        if self.table.is_none() {
            self.table = Some(install(&self.outer, names::AFFINITY_INITIAL)?);
        }
        Ok(())
    }

    /// Lets the table grow if it is more than half full: it forgets where it has no room. Returns how many elements it
    /// has.
    pub fn fit(&mut self) -> Result<usize, StoreError> {
        if self.table.is_none() {
            // Whoever knows that there is a service with affinity makes it.
            self.table = self.outer.inner(0).map_err(kernel("open"))?;
        }
        let Some(table) = &self.table else { return Ok(0) };
        let entries = entries_of(table)?;
        let capacity = table.shape().max_entries;
        if entries.len() <= capacity as usize / 2 || capacity >= MOST {
            return Ok(entries.len());
        }
        let larger = Map::create(names::AFFINITY, &affinity_shape((capacity * 4).min(MOST)));
        let larger = larger.map_err(kernel("create"))?;
        copy(&entries, &larger)?;
        // It waits for all programs that may still write to the old one.
        self.outer.set_inner(0, &larger).map_err(kernel("swap"))?;
        let before: HashMap<AffinityKey, Memory> = entries.into_iter().collect();
        let mut written = entries_of(table)?;
        written.retain(|(key, memory)| before.get(key) != Some(memory));
        // What the new one has got since is newer.
        let now: HashMap<AffinityKey, Memory> = entries_of(&larger)?.into_iter().collect();
        written.retain(|(key, memory)| now.get(key).is_none_or(|newer| newer.used < memory.used));
        copy(&written, &larger)?;
        self.table = Some(larger);
        Ok(now.len())
    }

    /// Everything that is remembered.
    pub fn entries(&self) -> Result<Vec<(AffinityKey, Memory)>, StoreError> {
        self.table.as_ref().map_or(Ok(Vec::new()), entries_of)
    }
}

/// Reads a table of which nobody else changes the handle.
pub fn entries_of(table: &Map) -> Result<Vec<(AffinityKey, Memory)>, StoreError> {
    let (keys, values) = table.entries().map_err(kernel("dump"))?;
    let keys = keys.chunks_exact(size_of::<AffinityKey>()).map(AffinityKey::read_from_bytes);
    let values = values.chunks_exact(size_of::<Memory>()).map(Memory::read_from_bytes);
    // Every chunk is as long as its type.
    Ok(keys.zip(values).filter_map(|(key, value)| Some((key.ok()?, value.ok()?))).collect())
}

fn copy(entries: &[(AffinityKey, Memory)], to: &Map) -> Result<(), StoreError> {
    let keys: Vec<u8> = entries.iter().flat_map(|(key, _)| key.as_bytes().iter().copied()).collect();
    let values: Vec<u8> = entries.iter().flat_map(|(_, memory)| memory.as_bytes().iter().copied()).collect();
    to.update_batch(&keys, &values).map_err(|(_, source)| kernel("copy")(source))
}

fn install(outer: &Map, capacity: u32) -> Result<Map, StoreError> {
    let table = Map::create(names::AFFINITY, &affinity_shape(capacity)).map_err(kernel("create"))?;
    outer.set_inner(0, &table).map_err(kernel("swap"))?;
    Ok(table)
}

fn kernel(call: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Kernel { call, map: names::AFFINITY, source }
}
