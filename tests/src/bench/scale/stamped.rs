//! A store that notes when it was first written to and when a head was last stored, and does the rest as the one
//! inside it does.

use std::time::Instant;

use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::service::CELL_WORDS;
use proxy_common::source::SourceKey;
use shunt::maps::{Hashes, MapStore, StoreError, WordTable, Words};
use std::cell::Cell;

/// The stamping store.
#[derive(Debug)]
pub(super) struct Stamped<S> {
    pub(super) inner: S,
    /// The first write since the stamps were cleared: the plan is complete by then.
    first_write: Cell<Option<Instant>>,
    /// The last store of a head since then.
    last_head: Cell<Option<Instant>>,
}

impl<S> Stamped<S> {
    /// Around `inner`.
    pub(super) const fn new(inner: S) -> Self {
        Self { inner, first_write: Cell::new(None), last_head: Cell::new(None) }
    }

    /// The stamps: first write, last head. They are cleared.
    pub(super) fn take_stamps(&self) -> (Option<Instant>, Option<Instant>) {
        (self.first_write.take(), self.last_head.take())
    }

    /// The store inside, about to be written to.
    fn writing(&mut self) -> &mut S {
        if self.first_write.get().is_none() {
            self.first_write.set(Some(Instant::now()));
        }
        &mut self.inner
    }
}

impl<S: Words> Words for Stamped<S> {
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        self.writing().store(table, word, value)?;
        if table == WordTable::Services && word.is_multiple_of(CELL_WORDS as u64) {
            self.last_head.set(Some(Instant::now()));
        }
        Ok(())
    }

    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        self.inner.load(table, word)
    }

    fn words(&self, table: WordTable) -> u64 {
        self.inner.words(table)
    }

    fn grow(&mut self, table: WordTable) -> Result<(), StoreError> {
        self.writing().grow(table)
    }
}

impl<S: Hashes> Hashes for Stamped<S> {
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        self.writing().insert_frontends(entries)
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError> {
        self.writing().delete_frontends(keys)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        self.inner.frontends()
    }

    fn frontend_capacity(&self) -> u32 {
        self.inner.frontend_capacity()
    }

    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError> {
        self.writing().grow_frontends(capacity)
    }

    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        self.writing().move_frontends(entries)
    }

    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError> {
        self.writing().insert_node_addr(addr, flags)
    }

    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError> {
        self.writing().delete_node_addr(addr)
    }

    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        self.inner.node_addrs()
    }

    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.writing().insert_cidr(key)
    }

    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.writing().delete_cidr(key)
    }

    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        self.inner.cidrs()
    }

    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.inner.insert_source(key)
    }

    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.inner.delete_source(key)
    }

    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        self.inner.sources()
    }
}

impl<S: MapStore> MapStore for Stamped<S> {
    fn grace(&mut self) -> Result<(), StoreError> {
        self.writing().grace()
    }
}
