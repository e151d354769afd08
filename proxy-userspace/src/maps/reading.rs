//! What a look at the maps finds for `/metrics`: their fill, and what the programs have counted.
//!
//! It has handles of its own and maps the chunks for as long as one look takes, so that it neither waits for the
//! writer nor makes it wait. Hashes are not walked. A look reads every cell, row and counter once: some milliseconds
//! for each hundred thousand of them.

use proxy_common::counter::{self, ServiceCounter, SocketCounter};
use proxy_common::reason::DropReason;
use proxy_common::service::{CELL_WORDS, Head, OWNER_WORD, View, ViewKind, ViewWord};

use super::fill::{HashCounts, MapFill, fill_counted};
use super::store::{KernelMaps, KernelStore};
use super::{StoreError, WordTable, Words};
use crate::plan::tables::OwnerTag;

/// What a look finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How full the maps are.
    pub fills: Vec<MapFill>,
    /// Connections that were not served, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// What happened to sockets, by name.
    pub sockets: Vec<(&'static str, u64)>,
    /// Service ports; empty if they were not asked for.
    pub cells: Vec<CellCounts>,
    /// Service ports whose view drops, since the policy is Local and this node has no endpoint: of each view.
    pub dropping: [u64; View::COUNT],
}

/// What was counted of one service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellCounts {
    /// Its identity.
    pub tag: OwnerTag,
    /// Connections given a backend.
    pub picked: u64,
    /// Connections refused.
    pub refused: u64,
}

/// Handles on the maps for somebody who only looks.
#[derive(Debug)]
pub struct MapsReader {
    maps: KernelMaps,
    /// Shards of each counter.
    shards: u32,
}

impl MapsReader {
    /// Looks through `maps`.
    pub const fn new(maps: KernelMaps, shards: u32) -> Self {
        Self { maps, shards }
    }

    /// Looks once; `counts` are the hashes as their writer counts them. `None` while nobody has filled the maps.
    pub fn read(&self, counts: HashCounts, with_cells: bool) -> Result<Option<Reading>, StoreError> {
        let clone = self.maps.try_clone();
        let maps = clone.map_err(|source| StoreError::Kernel { call: "open", map: "all maps", source })?;
        let Some(store) = KernelStore::open_to_look(maps)? else { return Ok(None) };
        let fills = fill_counted(&store, counts)?;
        Ok(Some(Reading { fills, ..read_words(&store, self.shards, with_cells)? }))
    }
}

fn read_words(words: &impl Words, shards: u32, with_cells: bool) -> Result<Reading, StoreError> {
    let mut reading = Reading::default();
    for reason in DropReason::ALL {
        let first = counter::reason_element(reason as u8, shards, 0);
        reading.refused.push((reason.name(), sum(words, first, shards)?));
    }
    for what in SocketCounter::ALL {
        let first = counter::socket_element(what, shards, 0);
        reading.sockets.push((what.name(), sum(words, first, shards)?));
    }
    for cell in 0..words.words(WordTable::Services) / CELL_WORDS as u64 {
        let word = |index: usize| words.load(WordTable::Services, cell * CELL_WORDS as u64 + index as u64);
        let owner = word(OWNER_WORD)?;
        if owner == 0 {
            continue;
        }
        let half = Head(word(0)?).half();
        for view in View::ALL {
            let drops = ViewWord(word(half.word(view))?).kind() == ViewKind::Drop;
            reading.dropping[view as usize] += u64::from(drops);
        }
        if with_cells {
            let count = |what| sum(words, counter::service_element(cell as u32, what, shards, 0), shards);
            let (picked, refused) = (count(ServiceCounter::Picked)?, count(ServiceCounter::Refused)?);
            reading.cells.push(CellCounts { tag: OwnerTag(owner), picked, refused });
        }
    }
    Ok(reading)
}

/// Adds a counter up over its shards. One whose chunk is not there yet has counted nothing.
pub(crate) fn sum(words: &impl Words, first: u32, shards: u32) -> Result<u64, StoreError> {
    let mut sum = 0_u64;
    for element in first..first + shards {
        match words.load(WordTable::Counters, u64::from(element)) {
            Ok(count) => sum = sum.wrapping_add(count),
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::memory::Memory;
    use proxy_common::service::Half;

    #[test]
    fn owned_cells_are_read_with_their_counters_of_all_shards() {
        let mut store = Memory::new(16);
        store.ignore_breaches();
        for table in [WordTable::Services, WordTable::Counters] {
            store.grow(table).unwrap();
        }
        let base = 5 * CELL_WORDS as u64;
        let views = [ViewWord::DROP, ViewWord::random(0, 2), ViewWord::DROP];
        store.store(WordTable::Services, base, Head::new(Half::B, 0, 1).0).unwrap();
        store.store(WordTable::Services, base + OWNER_WORD as u64, 77).unwrap();
        for (view, word) in View::ALL.into_iter().zip(views) {
            store.store(WordTable::Services, base + Half::B.word(view) as u64, word.0).unwrap();
            store.store(WordTable::Services, base + Half::A.word(view) as u64, ViewWord::DROP.0).unwrap();
        }
        let mut put = |element: u32, value| {
            store.store(WordTable::Counters, u64::from(element), value).unwrap();
        };
        for shard in 0..2 {
            put(counter::service_element(5, ServiceCounter::Picked, 2, shard), 10 + u64::from(shard));
            put(counter::service_element(5, ServiceCounter::Refused, 2, shard), 1);
            put(counter::reason_element(DropReason::UnknownPort as u8, 2, shard), 3);
            put(counter::socket_element(SocketCounter::PairReplaced, 2, shard), 4);
        }
        let reading = read_words(&store, 2, true).unwrap();
        assert_eq!(reading.cells, [CellCounts { tag: OwnerTag(77), picked: 21, refused: 2 }]);
        assert_eq!(reading.dropping, [1, 0, 1]);
        assert!(reading.refused.contains(&("unknown-port", 6)), "{reading:?}");
        assert_eq!(reading.sockets, [("udp-pair-replaced", 8)]);
        assert_eq!(read_words(&store, 2, false).unwrap().cells, []);
    }

    #[test]
    fn a_counter_without_a_chunk_has_counted_nothing() {
        let mut store = Memory::new(16);
        assert_eq!(sum(&store, 0, 2).unwrap(), 0);
        store.ignore_breaches();
        store.grow(WordTable::Counters).unwrap();
        let end = store.words(WordTable::Counters) as u32;
        store.store(WordTable::Counters, u64::from(end) - 1, 7).unwrap();
        assert_eq!(sum(&store, end - 1, 2).unwrap(), 7, "one of two shards lies beyond the last chunk");
    }
}
