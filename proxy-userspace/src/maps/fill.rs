//! How full the maps are, read from the maps themselves.

use std::collections::BTreeMap;

use proxy_common::backend::{ROW_WORDS, STATE_WORD, split};
use proxy_common::names::{self, Chunked};
use proxy_common::service::{CELL_WORDS, Head, OWNER_WORD, View, ViewKind, ViewWord};

use super::{Hashes, StoreError, WordTable, Words};
use crate::plan::actual::Actual;

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MapFill {
    /// Name.
    pub map: &'static str,
    /// Elements in use; none where nobody keeps count.
    pub used: Option<u64>,
    /// Elements that have memory now.
    pub allocated: u64,
    /// Elements the layout allows; none where the map is replaced by a larger one.
    pub limit: Option<u64>,
    /// Bytes of memory, for maps whose memory is all there is to them.
    pub bytes: Option<u64>,
}

/// Elements of the hashes, which cost a walk to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashCounts {
    /// Entries of the frontend hash.
    pub frontends: u64,
    /// Entries that it can hold.
    pub frontend_capacity: u64,
    /// Blocks of owned VIPs.
    pub blocks: u64,
    /// Addresses of the node.
    pub node_addrs: u64,
    /// Ranges of Services.
    pub cidrs: u64,
    /// Ranges of clients.
    pub sources: u64,
}

impl HashCounts {
    /// As the mirror of the maps has them, in no time.
    pub fn of_mirror(actual: &Actual) -> Self {
        Self {
            frontends: actual.frontends().len() as u64,
            frontend_capacity: u64::from(actual.frontend_capacity()),
            blocks: actual.block_count() as u64,
            node_addrs: actual.node_addrs().len() as u64,
            cidrs: actual.cidrs().len() as u64,
            sources: actual.source_count() as u64,
        }
    }

    fn of_store(store: &impl Hashes) -> Result<Self, StoreError> {
        let entries = store.frontends()?;
        Ok(Self {
            frontends: entries.len() as u64,
            frontend_capacity: u64::from(store.frontend_capacity()),
            blocks: entries.iter().filter(|(key, _)| key.is_owned_vip()).count() as u64,
            node_addrs: store.node_addrs()?.len() as u64,
            cidrs: store.cidrs()?.len() as u64,
            sources: store.sources()?.len() as u64,
        })
    }
}

/// The fill of every map that grows with the cluster.
pub fn fill<S: Words + Hashes>(store: &S) -> Result<Vec<MapFill>, StoreError> {
    fill_counted(store, HashCounts::of_store(store)?)
}

/// The same, with the hashes counted already.
pub fn fill_counted(words: &impl Words, counts: HashCounts) -> Result<Vec<MapFill>, StoreError> {
    let hash = |map, used, limit: u64| MapFill {
        map,
        used: Some(used),
        allocated: limit,
        limit: Some(limit),
        bytes: None,
    };
    let frontends = hash(names::FRONTENDS, counts.frontends, counts.frontend_capacity);
    let mut fills = vec![MapFill { limit: None, ..frontends }];
    fills.extend(words_fill(words, counts.blocks)?);
    fills.push(hash(names::NODE_ADDRS, counts.node_addrs, u64::from(names::NODE_ADDRS_MAX)));
    fills.push(hash(names::CIDRS, counts.cidrs, u64::from(names::CIDRS_MAX)));
    fills.push(hash(names::SOURCES, counts.sources, u64::from(names::SOURCES_MAX)));
    Ok(fills)
}

fn words_fill(words: &impl Words, blocks: u64) -> Result<[MapFill; 5], StoreError> {
    let chunked = |layout: Chunked, table, used| {
        let bytes = words.words(table) * 8;
        let allocated = bytes / u64::from(layout.element_bytes);
        MapFill { map: layout.name, used, allocated, limit: Some(layout.capacity()), bytes: Some(bytes) }
    };
    let (cells, slots) = used_cells_and_slots(words)?;
    // Slots are counted one by one, and two lie in an element.
    let two = |count: u64| count * 2;
    let slots = chunked(names::SLOTS, WordTable::Slots, Some(slots));
    Ok([
        chunked(names::SERVICES, WordTable::Services, Some(cells)),
        MapFill { allocated: two(slots.allocated), limit: slots.limit.map(two), ..slots },
        chunked(names::BACKENDS, WordTable::Backends, Some(used_rows(words)?)),
        chunked(names::COUNTERS, WordTable::Counters, None),
        chunked(names::OWNED, WordTable::Owned, Some(blocks)),
    ])
}

/// Cells that have an owner, and slots of the extents that their active views name. Views of a service port may
/// share an extent; it is counted once.
fn used_cells_and_slots(words: &impl Words) -> Result<(u64, u64), StoreError> {
    let mut cells = 0;
    let mut slots = 0;
    for cell in 0..words.words(WordTable::Services) / CELL_WORDS as u64 {
        let word = |index: usize| words.load(WordTable::Services, cell * CELL_WORDS as u64 + index as u64);
        if word(OWNER_WORD)? == 0 {
            continue;
        }
        cells += 1;
        let half = Head(word(0)?).half();
        let mut extents = BTreeMap::new();
        for view in View::ALL {
            let view = ViewWord(word(half.word(view))?);
            if view.kind() == ViewKind::Random {
                extents.insert(view.base(), u64::from(view.count()));
            }
        }
        slots += extents.values().sum::<u64>();
    }
    Ok((cells, slots))
}

fn used_rows(words: &impl Words) -> Result<u64, StoreError> {
    let mut used = 0;
    for row in 0..words.words(WordTable::Backends) / ROW_WORDS as u64 {
        let (state, _) = split(words.load(WordTable::Backends, row * ROW_WORDS as u64 + STATE_WORD as u64)?);
        used += u64::from(state != 0);
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::backend::join;
    use proxy_common::service::Half;
    use std::collections::HashMap;

    /// One chunk of everything; what was not stored is zero.
    #[derive(Default)]
    struct OneChunk(HashMap<(WordTable, u64), u64>);

    impl Words for OneChunk {
        fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError> {
            self.0.insert((table, word), value);
            Ok(())
        }

        fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError> {
            Ok(self.0.get(&(table, word)).copied().unwrap_or(0))
        }

        fn words(&self, _: WordTable) -> u64 {
            u64::from(names::CHUNK_BYTES) / 8
        }

        fn grow(&mut self, _: WordTable) -> Result<(), StoreError> {
            Err(StoreError::Injected)
        }
    }

    fn cell(store: &mut OneChunk, index: u64, owner: u64, (half, views): (Half, [ViewWord; View::COUNT])) {
        let mut put = |word: usize, value| {
            store.store(WordTable::Services, index * CELL_WORDS as u64 + word as u64, value).unwrap();
        };
        put(0, Head::new(half, 0, 1).0);
        put(OWNER_WORD, owner);
        for (view, word) in View::ALL.into_iter().zip(views) {
            put(half.word(view), word.0);
            put(half.other().word(view), ViewWord::random(1000, 500).0);
        }
    }

    #[test]
    fn only_what_can_be_reached_is_counted() {
        let mut store = OneChunk::default();
        let shared = ViewWord::random(0, 3);
        cell(&mut store, 1, 7, (Half::A, [shared, shared, ViewWord::random(4, 2)]));
        cell(&mut store, 2, 8, (Half::B, [ViewWord::REJECT, ViewWord::PASS, ViewWord::DROP]));
        cell(&mut store, 3, 0, (Half::A, [shared; 3]));
        for (row, state) in [(1, 1), (2, 0), (3, 7)] {
            let word = row * ROW_WORDS as u64 + STATE_WORD as u64;
            store.store(WordTable::Backends, word, join(state, 9)).unwrap();
        }
        let [services, slots, backends, counters, owned] = words_fill(&store, 1).unwrap();
        assert_eq!((services.used, services.allocated), (Some(2), 8192));
        assert_eq!((slots.used, slots.allocated, slots.limit), (Some(5), 131_072, Some(67_108_864)));
        assert_eq!((backends.used, backends.bytes), (Some(2), Some(524_288)));
        assert_eq!((counters.map, counters.used), ("COUNTERS", None));
        assert_eq!((owned.map, owned.used, owned.allocated), ("OWNED", Some(1), 16_384));
    }
}
