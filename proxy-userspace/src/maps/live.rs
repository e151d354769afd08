//! The decision over maps that are in force: [`Live`] is the [`Lookup`] of whoever looks at them from outside.
//!
//! It reads a store that was opened to look, and writes nothing.

use std::cell::RefCell;

use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, ROW_WORDS, split};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::Lookup;
use proxy_common::node::NodeAddrFlags;
use proxy_common::service::{Half, Head, OWNER_WORD, View, ViewWord};

use super::{StoreError, WordTable, Words};
use crate::plan::ops::{block_word, cell_word, row_word};
use crate::plan::tables::OwnerTag;

/// Single elements of the hashes and tries.
pub trait Elements {
    /// The frontend under exactly this key.
    fn frontend(&self, key: &FrontendKey) -> Result<Option<FrontendValue>, StoreError>;
    /// The flags of one of the node's own addresses.
    fn node_addr(&self, addr: Addr) -> Result<Option<NodeAddrFlags>, StoreError>;
    /// Whether a ServiceCIDR covers `addr`.
    fn in_service_cidr(&self, addr: Addr) -> Result<bool, StoreError>;
    /// Whether a range of the service covers the client `addr`.
    fn is_allowed_source(&self, service: u32, addr: Addr) -> Result<bool, StoreError>;
}

/// A store as the decision sees it.
///
/// A look-up cannot fail, and a read can: the first failure is kept, and everything after it is as if nothing were
/// there. [`Live::check`] tells.
#[derive(Debug)]
pub struct Live<'a, S> {
    store: &'a S,
    failure: RefCell<Option<StoreError>>,
}

impl<'a, S: Words + Elements> Live<'a, S> {
    /// Looks through `store`.
    pub const fn new(store: &'a S) -> Self {
        Self { store, failure: RefCell::new(None) }
    }

    /// Whether all that was read so far could be read.
    pub fn check(&self) -> Result<(), StoreError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Who has a cell; zero: nobody.
    pub fn owner(&self, service: u32) -> OwnerTag {
        OwnerTag(self.word(WordTable::Services, cell_word(service, OWNER_WORD)).unwrap_or(0))
    }

    /// Ids of all rows that serve a cell, whether a view has them or not.
    pub fn rows_of(&self, service: u32) -> Vec<u32> {
        let rows = self.store.words(WordTable::Backends) / ROW_WORDS as u64;
        let is_of = |id: &u32| {
            self.backend(*id).is_some_and(|row| row.service == service && row.state().is_serving())
        };
        (1..rows as u32).filter(is_of).collect()
    }

    fn word(&self, table: WordTable, word: u64) -> Option<u64> {
        match self.store.load(table, word) {
            // A chunk that nobody has made yet holds nothing.
            Err(StoreError::Missing { .. }) => None,
            outcome => self.kept(outcome),
        }
    }

    fn kept<T>(&self, outcome: Result<T, StoreError>) -> Option<T> {
        match outcome {
            Ok(found) => Some(found),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }
}

impl<S: Words + Elements> filter::Bits for Live<'_, S> {
    fn is_set(&self, bit: u32) -> bool {
        let (word, mask) = filter::position(bit);
        self.word(WordTable::Filter, u64::from(word)).is_some_and(|bits| bits & mask != 0)
    }
}

impl<S: Words + Elements> Lookup for Live<'_, S> {
    fn may_own(&self, addr: Addr) -> bool {
        filter::may_own(self, addr)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.kept(self.store.frontend(key)).flatten()
    }

    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        self.kept(self.store.node_addr(addr)).flatten()
    }

    fn in_service_cidr(&self, addr: Addr) -> bool {
        self.kept(self.store.in_service_cidr(addr)).unwrap_or(false)
    }

    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        self.kept(self.store.is_allowed_source(service, addr)).unwrap_or(false)
    }

    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        self.word(WordTable::Owned, block_word(block, word))
    }

    fn head(&self, service: u32) -> Option<Head> {
        self.word(WordTable::Services, cell_word(service, 0)).map(Head)
    }

    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        self.word(WordTable::Services, cell_word(service, half.word(view))).map(ViewWord)
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        let (even, odd) = split(self.word(WordTable::Slots, u64::from(slot / 2))?);
        Some(if slot.is_multiple_of(2) { even } else { odd })
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let mut words = [0; ROW_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.word(WordTable::Backends, row_word(id, index))?;
        }
        Some(Backend::from_words(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::memory::Memory;

    /// A store of which the kernel lets nobody read a thing.
    struct Denied;

    fn denied<T>() -> Result<T, StoreError> {
        let source = std::io::ErrorKind::PermissionDenied.into();
        Err(StoreError::Kernel { call: "look up", map: "CIDRS", source })
    }

    impl Words for Denied {
        fn store(&mut self, _: WordTable, _: u64, _: u64) -> Result<(), StoreError> {
            denied()
        }
        fn load(&self, _: WordTable, _: u64) -> Result<u64, StoreError> {
            denied()
        }
        fn words(&self, _: WordTable) -> u64 {
            8
        }
        fn grow(&mut self, _: WordTable) -> Result<(), StoreError> {
            denied()
        }
    }

    impl Elements for Denied {
        fn frontend(&self, _: &FrontendKey) -> Result<Option<FrontendValue>, StoreError> {
            denied()
        }
        fn node_addr(&self, _: Addr) -> Result<Option<NodeAddrFlags>, StoreError> {
            denied()
        }
        fn in_service_cidr(&self, _: Addr) -> Result<bool, StoreError> {
            denied()
        }
        fn is_allowed_source(&self, _: u32, _: Addr) -> Result<bool, StoreError> {
            denied()
        }
    }

    #[test]
    fn what_could_not_be_read_is_told_afterwards() {
        let looks: [fn(&Live<'_, Denied>) -> bool; 5] = [
            |live| live.head(1).is_some(),
            |live| live.backend(1).is_some(),
            |live| live.node_addr(Addr::UNSPECIFIED).is_some(),
            |live| live.in_service_cidr(Addr::UNSPECIFIED),
            |live| !live.rows_of(1).is_empty(),
        ];
        for look in looks {
            let live = Live::new(&Denied);
            live.check().unwrap();
            assert!(!look(&live));
            live.check().unwrap_err();
        }
    }

    #[test]
    fn a_chunk_that_is_not_there_yet_is_no_failure() {
        let empty = Memory::new(4);
        let live = Live::new(&empty);
        assert_eq!(
            (live.head(1), live.slot(1), live.backend(1), live.owner(1)),
            (None, None, None, OwnerTag(0))
        );
        live.check().unwrap();
    }
}
