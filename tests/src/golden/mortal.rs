//! A store whose writer dies in the middle: any store, with a number of effects after which nothing happens any more.

use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;
use shunt::maps::{Hashes, MapStore, StoreError, WordTable, Words};

/// See the module. An effect is a word stored, an entry of a hash inserted or deleted, a chunk or a hash that grew, or a
/// grace period.
#[derive(Debug)]
pub(super) struct Mortal<S> {
    pub(super) store: S,
    /// Effects until the writer dies, if it is to die.
    left: Option<u64>,
    is_dead: bool,
}

impl<S> Mortal<S> {
    /// A store whose writer lives.
    pub(super) fn new(store: S) -> Self {
        Self { store, left: None, is_dead: false }
    }

    /// The writer dies after `effects` more, in the attempt at the next.
    pub(super) fn die_after(&mut self, effects: u64) {
        self.left = Some(effects);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Runs what has one effect.
    fn effect(&mut self, run: impl FnOnce(&mut S) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.effects(&[()], |store, _| run(store))
    }

    /// Runs what has an effect for each of `entries`, with as many as the writer lives to see.
    fn effects<T>(
        &mut self,
        entries: &[T],
        run: impl FnOnce(&mut S, &[T]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(left) = self.left else { return run(&mut self.store, entries) };
        let lived = &entries[..entries.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if !lived.is_empty() {
            run(&mut self.store, lived)?;
        }
        self.left = Some(left - lived.len() as u64);
        self.is_dead |= lived.len() < entries.len();
        if self.is_dead { Err(StoreError::Injected) } else { Ok(()) }
    }
}

impl<S: Words> Words for Mortal<S> {
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        self.effect(|store| store.store(table, word, value))
    }

    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        self.store.load(table, word)
    }

    fn words(&self, table: WordTable) -> u64 {
        self.store.words(table)
    }

    fn grow(&mut self, table: WordTable) -> Result<(), StoreError> {
        self.effect(|store| store.grow(table))
    }
}

impl<S: Hashes> Hashes for Mortal<S> {
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        self.effects(entries, S::insert_frontends)
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError> {
        self.effects(keys, S::delete_frontends)
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        self.store.frontends()
    }

    fn frontend_capacity(&self) -> u32 {
        self.store.frontend_capacity()
    }

    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError> {
        self.effect(|store| store.grow_frontends(capacity))
    }

    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        self.effect(|store| store.move_frontends(entries))
    }

    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError> {
        self.effect(|store| store.insert_node_addr(addr, flags))
    }

    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError> {
        self.effect(|store| store.delete_node_addr(addr))
    }

    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        self.store.node_addrs()
    }

    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.effect(|store| store.insert_cidr(key))
    }

    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        self.effect(|store| store.delete_cidr(key))
    }

    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        self.store.cidrs()
    }

    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.effect(|store| store.insert_source(key))
    }

    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        self.effect(|store| store.delete_source(key))
    }

    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        self.store.sources()
    }
}

impl<S: MapStore> MapStore for Mortal<S> {
    fn grace(&mut self) -> Result<(), StoreError> {
        self.effect(S::grace)
    }
}
