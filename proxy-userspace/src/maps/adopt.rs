//! Adoption: the mirror of what a store holds, read word by word. A restart differs from a fresh start in nothing else.

use super::{MapStore, StoreError};
use crate::plan::actual::Actual;
use crate::plan::ops::{MapOp, WordTable};

/// What a store holds.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The mirror.
    pub actual: Actual,
    /// Rows that serve a cell nobody owns, see [`Actual::index`].
    pub strays: Vec<u32>,
}

/// Reads a store as a whole; writes nothing.
pub fn adopt(store: &impl MapStore) -> Result<Adopted, StoreError> {
    let mut actual = Actual::new(store.frontend_capacity());
    for table in WordTable::CHUNKED {
        while actual.words(table) < store.words(table) {
            actual.apply(&MapOp::GrowChunk(table));
        }
    }
    for table in
        [WordTable::Services, WordTable::Slots, WordTable::Backends, WordTable::Owned, WordTable::Filter]
    {
        for word in 0..store.words(table) {
            actual.set_word(table, word, store.load(table, word)?);
        }
    }
    actual.apply(&MapOp::InsertFrontends(store.frontends()?));
    for (addr, flags) in store.node_addrs()? {
        actual.apply(&MapOp::InsertNodeAddr(addr, flags));
    }
    for key in store.cidrs()? {
        actual.apply(&MapOp::InsertCidr(key));
    }
    for key in store.sources()? {
        actual.apply(&MapOp::InsertSource(key));
    }
    let strays = actual.index();
    Ok(Adopted { actual, strays })
}
