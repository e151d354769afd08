//! The maps about clients: the registry of their namespaces, what they were given, and whether the guard is in force.
//!
//! They hold what the programs found out by themselves, so no plan says what they should hold.

use std::io;

use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::names;
use zerocopy::FromBytes;

use super::StoreError;
use crate::sys::map::{Map, Shape};

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

/// What clients of services with session affinity were given.
#[derive(Debug)]
pub struct Affinity {
    outer: Map,
    table: Map,
}

impl Affinity {
    /// Opens the table; a fresh set gets its first here.
    pub fn open(outer: Map) -> Result<Self, StoreError> {
        let table = match outer.inner(0).map_err(kernel("open"))? {
            Some(table) => table,
            None => install(&outer, names::AFFINITY_INITIAL)?,
        };
        Ok(Self { outer, table })
    }

    /// Everything that is remembered.
    pub fn entries(&self) -> Result<Vec<(AffinityKey, Memory)>, StoreError> {
        entries_of(&self.table)
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

fn install(outer: &Map, capacity: u32) -> Result<Map, StoreError> {
    let table = Map::create(names::AFFINITY, &affinity_shape(capacity)).map_err(kernel("create"))?;
    outer.set_inner(0, &table).map_err(kernel("swap"))?;
    Ok(table)
}

fn kernel(call: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Kernel { call, map: names::AFFINITY, source }
}
