//! Ordered effects as data: what the writer does to the maps, one [`MapOp`] at a time.
//!
//! An op says what to write, never how: `maps::apply` carries it out on a store, and [`super::actual::Actual`]
//! mirrors it from the same expansion into words, so that the two cannot drift apart.

use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState, ROW_WORDS, STATE_WORD, join};
use proxy_common::counter::{ROW_COUNTERS, ServiceCounter, service_element};
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::names::{self, CHUNK_BYTES};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::owned::BLOCK_WORDS;
use proxy_common::service::{CELL_WORDS, Half, Head, OWNER_WORD, View, ViewWord};
use proxy_common::source::SourceKey;

use super::tables::OwnerTag;

/// Words of one chunk of any chunked array.
pub const CHUNK_WORDS: u64 = CHUNK_BYTES as u64 / 8;

/// A memory-mapped array of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WordTable {
    /// Service cells, 8 words each.
    Services,
    /// Slots, two per word.
    Slots,
    /// Backend rows, 4 words each.
    Backends,
    /// Counters, one word each; written by the kernel only.
    Counters,
    /// Blocks of owned VIPs, 4 words each.
    Owned,
    /// The filter of owned ranges; of fixed size.
    Filter,
}

impl WordTable {
    /// Those that grow by chunks.
    pub const CHUNKED: [Self; 5] = [Self::Services, Self::Slots, Self::Backends, Self::Counters, Self::Owned];

    /// The map's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => names::SERVICES.name,
            Self::Slots => names::SLOTS.name,
            Self::Backends => names::BACKENDS.name,
            Self::Counters => names::COUNTERS.name,
            Self::Owned => names::OWNED.name,
            Self::Filter => names::FILTER,
        }
    }
}

/// One write to the maps.
///
/// A failed op has had no effect that a reader can see, with one exception: [`MapOp::InsertFrontends`] and
/// [`MapOp::DeleteFrontends`] may have been carried out in part; `maps::apply` finds out and mirrors that part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Waits until every program run that was under way has ended.
    Grace,
    /// Adds a chunk of zeroes.
    GrowChunk(WordTable),
    /// Swaps in a frontend hash of this many elements.
    GrowFrontends(u32),
    /// Replaces a word of the filter.
    StoreFilter {
        /// Index of the word.
        word: u32,
        /// Its bits.
        value: u64,
    },
    /// Replaces a word of a block of owned VIPs.
    StoreOwned {
        /// Index of the word in [`WordTable::Owned`].
        word: u64,
        /// Its bits.
        value: u64,
    },
    /// Starts the counters of a cell from zero, before the cell is given to a service port.
    ClearCounters {
        /// The cell.
        service: u32,
        /// Shards of each counter.
        shards: u32,
    },
    /// Gives a cell to a service port, or frees it (tag zero).
    StoreOwner {
        /// The cell.
        service: u32,
        /// Identity of the service port.
        tag: OwnerTag,
    },
    /// Fills a free row; the word with the state is stored last, so that a row is free until it is whole.
    StoreRow {
        /// The row.
        id: u32,
        /// Its content.
        row: Backend,
    },
    /// Fills a free extent; an odd tail is padded with row 0, which is nobody.
    StoreSlots {
        /// First slot, even.
        base: u32,
        /// Rows.
        ids: Box<[u32]>,
    },
    /// Fills the half that is not active.
    StoreHalf {
        /// The cell.
        service: u32,
        /// The half.
        half: Half,
        /// View words in the order of [`View::ALL`].
        views: [ViewWord; View::COUNT],
    },
    /// Switches a service port: the one store that every frontend, view and flag of it follows.
    StoreHead {
        /// The cell.
        service: u32,
        /// The head.
        head: Head,
    },
    /// Replaces the state of a row.
    StoreState {
        /// The row.
        id: u32,
        /// Its state; [`BackendState::FREE`] gives the row back.
        state: BackendState,
        /// Its generation, unchanged.
        generation: u32,
    },
    /// Inserts frontends whose keys are absent, in order.
    InsertFrontends(Vec<(FrontendKey, FrontendValue)>),
    /// Replaces the value of a frontend in one step, which frees a hash element.
    ReplaceFrontend(FrontendKey, FrontendValue),
    /// Replaces the values of frontends that are there, all at the same instant: in a copy of the hash that is swapped in.
    /// The old hash goes, with all its elements; those of the new one are no reader's.
    MoveFrontends(Vec<(FrontendKey, FrontendValue)>),
    /// Deletes frontends, in order, which frees hash elements.
    DeleteFrontends(Vec<FrontendKey>),
    /// Inserts a node address that is absent.
    InsertNodeAddr(Addr, NodeAddrFlags),
    /// Replaces the flags of a node address in one step, which frees a hash element.
    ReplaceNodeAddr(Addr, NodeAddrFlags),
    /// Deletes a node address, which frees a hash element.
    DeleteNodeAddr(Addr),
    /// Inserts a service range that is absent.
    InsertCidr(CidrKey),
    /// Deletes a service range, which frees a trie node.
    DeleteCidr(CidrKey),
    /// Lets a range of clients in that is absent. The kernel gives a trie's node away only when no reader can hold it, so
    /// ranges of clients neither free an element nor take one. (Service ranges are few, and wait like the hashes.)
    InsertSource(SourceKey),
    /// Lets a range of clients in no longer.
    DeleteSource(SourceKey),
}

impl MapOp {
    /// Whether the op takes an element from a hash's allocator, which may be one that was just freed.
    pub const fn takes_element(&self) -> bool {
        matches!(
            self,
            Self::InsertFrontends(_)
                | Self::ReplaceFrontend(..)
                | Self::InsertNodeAddr(..)
                | Self::ReplaceNodeAddr(..)
                | Self::InsertCidr(_)
        )
    }

    /// Whether the op gives an element of a hash back, under readers that may still hold it.
    pub const fn frees_element(&self) -> bool {
        matches!(
            self,
            Self::ReplaceFrontend(..)
                | Self::MoveFrontends(_)
                | Self::DeleteFrontends(_)
                | Self::ReplaceNodeAddr(..)
                | Self::DeleteNodeAddr(_)
                | Self::DeleteCidr(_)
        )
    }

    /// Calls `store` with table, word and value for each word of an op on the word tables, in the order in which they
    /// must be stored; stops at the first error. Ops on the hashes and growth have no words.
    pub fn for_each_word<E>(
        &self,
        mut store: impl FnMut(WordTable, u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::StoreFilter { word, value } => store(WordTable::Filter, u64::from(*word), *value),
            Self::StoreOwned { word, value } => store(WordTable::Owned, *word, *value),
            Self::ClearCounters { service, shards } => {
                let first = service_element(*service, ServiceCounter::Picked, *shards, 0);
                (first..first + ROW_COUNTERS * shards)
                    .try_for_each(|element| store(WordTable::Counters, u64::from(element), 0))
            }
            Self::StoreOwner { service, tag } => {
                store(WordTable::Services, cell_word(*service, OWNER_WORD), tag.0)
            }
            Self::StoreRow { id, row } => {
                let words = row.to_words();
                let last = core::iter::once(STATE_WORD);
                (0..ROW_WORDS)
                    .filter(|word| *word != STATE_WORD)
                    .chain(last)
                    .try_for_each(|word| store(WordTable::Backends, row_word(*id, word), words[word]))
            }
            Self::StoreSlots { base, ids } => {
                ids.chunks(2).zip(u64::from(*base) / 2..).try_for_each(|(pair, word)| {
                    let second = pair.get(1).copied().unwrap_or(0);
                    store(WordTable::Slots, word, join(pair[0], second))
                })
            }
            Self::StoreHalf { service, half, views } => View::ALL.into_iter().try_for_each(|view| {
                let word = views[view as usize].0;
                store(WordTable::Services, cell_word(*service, half.word(view)), word)
            }),
            Self::StoreHead { service, head } => store(WordTable::Services, cell_word(*service, 0), head.0),
            Self::StoreState { id, state, generation } => {
                store(WordTable::Backends, row_word(*id, STATE_WORD), join(state.0, *generation))
            }
            _ => Ok(()),
        }
    }
}

/// Index of a cell's word in [`WordTable::Services`].
pub fn cell_word(service: u32, word: usize) -> u64 {
    u64::from(service) * CELL_WORDS as u64 + word as u64
}

/// Index of a word of a block of owned VIPs in [`WordTable::Owned`].
pub fn block_word(id: u32, index: usize) -> u64 {
    u64::from(id) * BLOCK_WORDS as u64 + index as u64
}

/// Index of a row's word in [`WordTable::Backends`].
pub fn row_word(id: u32, word: usize) -> u64 {
    u64::from(id) * ROW_WORDS as u64 + word as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::addr::Port;

    fn words(op: &MapOp) -> Vec<(WordTable, u64, u64)> {
        let mut seen = Vec::new();
        let done: Result<(), ()> = op.for_each_word(|table, word, value| {
            seen.push((table, word, value));
            Ok(())
        });
        done.unwrap();
        seen
    }

    #[test]
    fn a_row_is_free_until_its_last_word() {
        let row = Backend {
            addr: Addr::UNSPECIFIED,
            state: BackendState::SERVING.0,
            generation: 1,
            service: 3,
            port: Port::new(80),
            pad: 0,
        };
        let order: Vec<u64> =
            words(&MapOp::StoreRow { id: 5, row }).iter().map(|(_, word, _)| *word).collect();
        assert_eq!(order, [20, 21, 23, 22]);
    }

    #[test]
    fn slots_go_two_to_a_word_and_the_tail_is_padded() {
        let op = MapOp::StoreSlots { base: 4, ids: Box::new([7, 8, 9]) };
        assert_eq!(words(&op), [(WordTable::Slots, 2, join(7, 8)), (WordTable::Slots, 3, join(9, 0))],);
    }

    #[test]
    fn an_extent_and_a_half_stop_at_the_first_error() {
        let half = MapOp::StoreHalf { service: 1, half: Half::B, views: [ViewWord::REJECT; View::COUNT] };
        let mut stored = 0;
        let refused = half.for_each_word(|_, _, _| {
            stored += 1;
            if stored == 2 { Err("full") } else { Ok(()) }
        });
        assert_eq!((refused, stored), (Err("full"), 2));
    }
}
