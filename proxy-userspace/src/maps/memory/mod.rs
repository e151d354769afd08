//! The fake store: maps in memory, with faults on demand, an injected clock and a watch for breaches of the write order.
//!
//! It is also a [`Lookup`](proxy_common::lb::Lookup), so that the packet decision itself judges what a writer leaves
//! behind after each store.

mod faults;
mod lookup;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::addr::Addr;
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::names;
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::service::OWNER_WORD;
use proxy_common::source::SourceKey;

pub use self::faults::Faults;
use self::watch::Watch;
use super::{Hashes, MapStore, StoreError, WordTable, Words};
use crate::plan::ops::{CHUNK_WORDS, cell_word};

const TABLES: usize = 6;
const FILTER: usize = WordTable::Filter as usize;

/// Maps in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// What fails, and when.
    pub faults: Faults,
    /// Words by table, in the order of [`WordTable`].
    words: [Vec<u64>; TABLES],
    frontends: BTreeMap<FrontendKey, FrontendValue>,
    capacity: u32,
    node_addrs: BTreeMap<Addr, NodeAddrFlags>,
    cidrs: BTreeSet<CidrKey>,
    sources: BTreeSet<SourceKey>,
    watch: Watch,
    steps: u64,
}

impl Memory {
    /// Empty maps whose frontend hash holds `capacity` elements.
    pub fn new(capacity: u32) -> Self {
        Self {
            faults: Faults::default(),
            words: std::array::from_fn(|table| match table {
                FILTER => vec![0; filter::WORDS as usize],
                _ => Vec::new(),
            }),
            frontends: BTreeMap::new(),
            capacity,
            node_addrs: BTreeMap::new(),
            cidrs: BTreeSet::new(),
            sources: BTreeSet::new(),
            watch: Watch::default(),
            steps: 0,
        }
    }

    /// Lets breaches of the write order pass, for control runs that look for their consequences.
    pub fn ignore_breaches(&mut self) {
        self.watch.is_lenient = true;
    }

    /// Moves the clock on.
    pub fn advance(&mut self, milliseconds: u64) {
        self.watch.now += milliseconds;
    }

    /// The clock, in milliseconds.
    pub fn now(&self) -> u64 {
        self.watch.now
    }

    /// Counts a connection as the programs do: an element of the counters that belongs to a cell.
    pub fn count(&mut self, service: u32, element: u32) {
        if let Some(word) = self.words[WordTable::Counters as usize].get_mut(element as usize) {
            *word += 1;
            self.watch.note_count(service, element);
        }
    }

    /// Effects so far: word stores, hash entries, growth and grace periods.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether both hold the same bytes.
    pub fn holds_the_same(&self, other: &Self) -> bool {
        self.words == other.words
            && self.frontends == other.frontends
            && self.capacity == other.capacity
            && self.node_addrs == other.node_addrs
            && self.cidrs == other.cidrs
            && self.sources == other.sources
    }

    fn word(&self, table: WordTable, word: u64) -> u64 {
        read(&self.words, table, word)
    }

    /// A cell must be given away without ranges of clients.
    fn check_sources(&self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        let service = word / cell_word(1, 0);
        let is_given =
            table == WordTable::Services && word == cell_word(service as u32, OWNER_WORD) && value != 0;
        if is_given && self.sources.iter().any(|key| u64::from(key.service) == service) {
            return Err(StoreError::NotCleared { map: names::SOURCES, element: service });
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), StoreError> {
        self.faults.step()?;
        self.steps += 1;
        Ok(())
    }

    fn insert_frontend(&mut self, key: FrontendKey, value: FrontendValue) -> Result<(), StoreError> {
        let before = self.frontends.get(&key).copied();
        if before.is_none() && self.frontends.len() >= self.capacity as usize {
            return Err(StoreError::Full { map: names::FRONTENDS });
        }
        self.watch.take_element(names::FRONTENDS)?;
        self.step()?;
        self.frontends.insert(key, value);
        self.watch.count_frontend(value, 1);
        if let Some(before) = before {
            self.watch.count_frontend(before, -1);
            self.watch.free_element();
        }
        Ok(())
    }
}

fn read(words: &[Vec<u64>; TABLES], table: WordTable, word: u64) -> u64 {
    words[table as usize].get(word as usize).copied().unwrap_or(0)
}

impl Words for Memory {
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        if word >= self.words(table) {
            return Err(StoreError::Missing { map: table.name(), element: word });
        }
        let load = |table, word| read(&self.words, table, word);
        self.watch.check(load, (table, word, value))?;
        self.check_sources(table, word, value)?;
        self.step()?;
        let load = |table, word| read(&self.words, table, word);
        self.watch.follow(load, (table, word, value));
        self.words[table as usize][word as usize] = value;
        Ok(())
    }

    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        if word >= self.words(table) {
            return Err(StoreError::Missing { map: table.name(), element: word });
        }
        Ok(self.word(table, word))
    }

    fn words(&self, table: WordTable) -> u64 {
        self.words[table as usize].len() as u64
    }

    fn grow(&mut self, table: WordTable) -> Result<(), StoreError> {
        self.step()?;
        let words = &mut self.words[table as usize];
        words.resize(words.len() + CHUNK_WORDS as usize, 0);
        Ok(())
    }
}

impl Hashes for Memory {
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        entries.iter().try_for_each(|(key, value)| self.insert_frontend(*key, *value))
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError> {
        for key in keys {
            self.step()?;
            if let Some(value) = self.frontends.remove(key) {
                self.watch.count_frontend(value, -1);
                self.watch.free_element();
            }
        }
        Ok(())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        Ok(self.frontends.iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn frontend_capacity(&self) -> u32 {
        self.capacity
    }

    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError> {
        if (capacity as usize) < self.frontends.len() {
            return Err(StoreError::Full { map: names::FRONTENDS });
        }
        self.step()?;
        self.capacity = capacity;
        Ok(())
    }

    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        if entries.iter().any(|(key, _)| !self.frontends.contains_key(key)) {
            return Err(StoreError::Missing { map: names::FRONTENDS, element: 0 });
        }
        self.step()?;
        for (key, value) in entries {
            // An element of the new hash; the old ones go with the old hash, and nobody takes them.
            if let Some(before) = self.frontends.insert(*key, *value) {
                self.watch.count_frontend(before, -1);
            }
            self.watch.count_frontend(*value, 1);
        }
        Ok(())
    }

    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError> {
        self.watch.take_element(names::NODE_ADDRS)?;
        self.step()?;
        if self.node_addrs.insert(addr, flags).is_some() {
            self.watch.free_element();
        }
        Ok(())
    }

    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError> {
        self.step()?;
        if self.node_addrs.remove(&addr).is_some() {
            self.watch.free_element();
        }
        Ok(())
    }

    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        Ok(self.node_addrs.iter().map(|(addr, flags)| (*addr, *flags)).collect())
    }

    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.watch.take_element(names::CIDRS)?;
        self.step()?;
        self.cidrs.insert(key);
        Ok(())
    }

    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.step()?;
        if self.cidrs.remove(&key) {
            self.watch.free_element();
        }
        Ok(())
    }

    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        Ok(self.cidrs.iter().copied().collect())
    }

    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.step()?;
        self.sources.insert(key);
        Ok(())
    }

    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.step()?;
        self.sources.remove(&key);
        Ok(())
    }

    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        Ok(self.sources.iter().copied().collect())
    }
}

impl MapStore for Memory {
    fn grace(&mut self) -> Result<(), StoreError> {
        self.step()?;
        self.watch.end_grace();
        Ok(())
    }
}
