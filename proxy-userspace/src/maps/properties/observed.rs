//! The fake store with readers that look at it after each effect.

use proxy_common::addr::Addr;
use proxy_common::counter::{ServiceCounter, service_element};
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;

use super::readers::Readers;
use super::world::RULES;
use crate::maps::memory::Memory;
use crate::maps::{Hashes, MapStore, StoreError, WordTable, Words};

#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) memory: Memory,
    pub(super) readers: Readers,
    pub(super) is_looking: bool,
}

impl Observed {
    fn seen<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if self.is_looking && result.is_ok() {
            self.readers.look(&self.memory);
            self.count();
        }
        result
    }
}

impl Observed {
    /// Whoever has a frontend in hand connects, and is counted.
    fn count(&mut self) {
        for service in self.readers.cells_in_hand() {
            for counter in [ServiceCounter::Picked, ServiceCounter::Refused] {
                for shard in 0..RULES.shards {
                    let element = service_element(service, counter, RULES.shards, shard);
                    self.memory.count(service, element);
                }
            }
        }
    }
}

impl Words for Observed {
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
        let result = self.memory.store(table, word, value);
        self.seen(result)
    }
    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
        self.memory.load(table, word)
    }
    fn words(&self, table: WordTable) -> u64 {
        self.memory.words(table)
    }
    fn grow(&mut self, table: WordTable) -> Result<(), StoreError> {
        self.memory.grow(table)
    }
}

impl Hashes for Observed {
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        for entry in entries {
            let result = self.memory.insert_frontends(&[*entry]);
            self.seen(result)?;
        }
        Ok(())
    }
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError> {
        for key in keys {
            let result = self.memory.delete_frontends(&[*key]);
            self.seen(result)?;
        }
        Ok(())
    }
    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError> {
        self.memory.frontends()
    }
    fn frontend_capacity(&self) -> u32 {
        self.memory.frontend_capacity()
    }
    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError> {
        self.memory.grow_frontends(capacity)
    }
    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError> {
        let result = self.memory.move_frontends(entries);
        self.seen(result)
    }
    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError> {
        let result = self.memory.insert_node_addr(addr, flags);
        self.seen(result)
    }
    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError> {
        let result = self.memory.delete_node_addr(addr);
        self.seen(result)
    }
    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError> {
        self.memory.node_addrs()
    }
    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        let result = self.memory.insert_cidr(key);
        self.seen(result)
    }
    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError> {
        let result = self.memory.delete_cidr(key);
        self.seen(result)
    }
    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError> {
        self.memory.cidrs()
    }
    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        let result = self.memory.insert_source(key);
        self.seen(result)
    }
    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError> {
        let result = self.memory.delete_source(key);
        self.seen(result)
    }
    fn sources(&self) -> Result<Vec<SourceKey>, StoreError> {
        self.memory.sources()
    }
}

impl MapStore for Observed {
    fn grace(&mut self) -> Result<(), StoreError> {
        self.memory.grace()?;
        self.readers.note_grace();
        Ok(())
    }
}
