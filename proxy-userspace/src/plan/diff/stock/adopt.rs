//! The stock that the maps leave after a restart.

use proxy_common::owned::BLOCK_WORDS;
use proxy_common::service::View;

use super::Stock;
use crate::plan::actual::Actual;
use crate::plan::diff::Contradiction;
use crate::plan::extents::Extent;
use crate::plan::ids::IdPool;
use crate::plan::ops::{CHUNK_WORDS, WordTable};
use crate::plan::quarantine::Resource;
use crate::plan::rules::Rules;

impl Stock {
    /// What the maps leave free: whatever was in use once rests first.
    pub(in crate::plan::diff) fn adopt(actual: &Actual, rules: Rules) -> Result<Self, Contradiction> {
        let mut stock = Self::new(rules);
        stock.adopt_cells(actual)?;
        stock.adopt_rows(actual);
        stock.adopt_extents(actual)?;
        stock.adopt_blocks(actual)?;
        Ok(stock)
    }

    fn adopt_cells(&mut self, actual: &Actual) -> Result<(), Contradiction> {
        let mut clean = Vec::new();
        let mut next = 1;
        for id in 1..actual.elements(WordTable::Services) {
            let owner = actual.owner(id);
            let is_owned = owner.0 != 0;
            if is_owned && actual.cell_of(owner) != Some(id) {
                return Err(Contradiction::Owner { service: id });
            }
            if !is_owned && actual.head(id).0 == 0 {
                clean.push(id);
                continue;
            }
            next = id + 1;
            if !is_owned {
                self.quarantine.add(Resource::Cell(id));
            }
        }
        clean.truncate(clean.partition_point(|id| *id < next));
        self.cells = IdPool::adopt(self.rules.limits.cells, next, clean);
        Ok(())
    }

    fn adopt_rows(&mut self, actual: &Actual) {
        let mut clean = Vec::new();
        let mut next = 1;
        for id in 1..actual.elements(WordTable::Backends) {
            let row = actual.row(id);
            let is_serving = row.state().is_serving();
            if !is_serving && row.generation == 0 {
                clean.push(id);
                continue;
            }
            next = id + 1;
            if !is_serving {
                self.quarantine.add(Resource::Row(id));
            }
        }
        clean.truncate(clean.partition_point(|id| *id < next));
        self.rows = IdPool::adopt(self.rules.limits.rows, next, clean);
    }

    fn adopt_blocks(&mut self, actual: &Actual) -> Result<(), Contradiction> {
        let mut named: Vec<u32> = actual.blocks().map(|(_, id)| id).collect();
        named.sort_unstable();
        let end = actual.elements(WordTable::Owned);
        let twice = named.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let outside = named.iter().copied().find(|id| *id == 0 || *id >= end);
        if let Some(block) = twice.or(outside) {
            return Err(Contradiction::Block { block });
        }
        let is_named = |id: &u32| named.binary_search(id).is_ok();
        let is_used = |id: &u32| is_named(id) || actual.owned_bits(*id) != [0; BLOCK_WORDS];
        let next = (1..end).rev().find(is_used).map_or(1, |last| last + 1);
        let (clean, left): (Vec<u32>, Vec<u32>) =
            (1..next).filter(|id| !is_named(id)).partition(|id| !is_used(id));
        for id in left {
            self.quarantine.add(Resource::Block(id));
        }
        self.blocks = IdPool::adopt(self.rules.limits.blocks, next, clean);
        Ok(())
    }

    fn adopt_extents(&mut self, actual: &Actual) -> Result<(), Contradiction> {
        let mut used: Vec<(Extent, u32)> = Vec::with_capacity(actual.cells().count() * View::COUNT);
        for (_, service) in actual.cells() {
            used.extend(actual.extents(service).map(|extent| (extent, service)));
        }
        used.sort_unstable();
        let end = actual.words(WordTable::Slots) as u32;
        let mut free_from = 0;
        for (extent, service) in used {
            let last = extent.end() - 1;
            let spans = u64::from(extent.start) / CHUNK_WORDS != u64::from(last) / CHUNK_WORDS;
            if extent.start < free_from || last >= end || spans {
                return Err(Contradiction::Slots { service });
            }
            self.adopt_gap(actual, free_from, extent.start);
            free_from = extent.end();
        }
        self.adopt_gap(actual, free_from, end);
        Ok(())
    }

    /// A word of zeroes between extents was never a slot; anything else was one not long ago, for all we know.
    fn adopt_gap(&mut self, actual: &Actual, start: u32, end: u32) {
        let limit = self.slot_words() as u32;
        let mut from = start;
        while from < end.min(limit) {
            let is_clean = actual.slot_word(u64::from(from)) == 0;
            let chunk_end = (from / CHUNK_WORDS as u32 + 1) * CHUNK_WORDS as u32;
            let ends = |word: &u32| (actual.slot_word(u64::from(*word)) == 0) != is_clean;
            let stop = end.min(limit).min(chunk_end);
            let to = (from..stop).find(ends).unwrap_or(stop);
            let extent = Extent { start: from, words: to - from };
            if is_clean {
                self.extents.give_back(extent);
            } else {
                self.quarantine.add(Resource::Extent(extent));
            }
            from = to;
        }
    }
}
