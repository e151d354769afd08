//! The tables as they are: a pure mirror of the maps, kept op by op.
//!
//! [`Actual::apply`] is called with each op that a store has executed, so that an aborted batch leaves a mirror that
//! is still right, and the next diff yields what remains. There is no journal and no retry state. The words are
//! mirrored as words, so nothing is known here that a restart could not read back.

mod hashes;
mod rows;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use foldhash::{HashMap, HashMapExt, HashSet};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState, ROW_WORDS, split};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::owned::{self, BLOCK_ADDRS, BLOCK_WORDS};
use proxy_common::service::{CELL_WORDS, Head, OWNER_WORD, View, ViewKind, ViewWord};

use self::hashes::HashTables;
use self::rows::RowLists;
use self::words::WordArray;
use super::extents::Extent;
use super::ops::{CHUNK_WORDS, MapOp, WordTable, block_word, cell_word, row_word};
use super::owned::OwnedBits;
use super::tables::OwnerTag;

/// Mirror of all maps.
#[derive(Clone, Debug)]
pub struct Actual {
    services: WordArray,
    slots: WordArray,
    backends: WordArray,
    owned: WordArray,
    filter: Box<[u64]>,
    counter_chunks: u64,
    rows: RowLists,
    cells: HashMap<OwnerTag, u32>,
    hashes: HashTables,
    unsettled: bool,
}

impl Actual {
    /// The mirror of empty maps whose frontend hash can hold `frontend_capacity` elements.
    ///
    /// Until the first grace period it counts as if elements had just been freed: a predecessor may have died there.
    pub fn new(frontend_capacity: u32) -> Self {
        Self {
            services: WordArray::default(),
            slots: WordArray::default(),
            backends: WordArray::default(),
            owned: WordArray::default(),
            filter: vec![0; filter::WORDS as usize].into(),
            counter_chunks: 0,
            rows: RowLists::default(),
            cells: HashMap::new(),
            hashes: HashTables::new(frontend_capacity),
            unsettled: true,
        }
    }

    /// Mirrors an op that a store has executed.
    pub fn apply(&mut self, op: &MapOp) {
        self.unlink_row_of(op);
        let mirrored: Result<(), Infallible> = op.for_each_word(|table, word, value| {
            self.set_word(table, word, value);
            Ok(())
        });
        match mirrored {
            Ok(()) => {}
        }
        self.link_row_of(op);
        self.hashes.apply(op);
        match op {
            MapOp::Grace => self.unsettled = false,
            MapOp::GrowChunk(table) => self.grow(*table),
            _ if op.frees_element() => self.unsettled = true,
            _ => {}
        }
    }

    /// Takes over a word that was read from a store; [`Actual::index`] follows when all have been.
    pub fn set_word(&mut self, table: WordTable, word: u64, value: u64) {
        match table {
            WordTable::Services => self.set_service_word(word, value),
            WordTable::Slots => self.slots.set(word, value),
            WordTable::Backends => self.backends.set(word, value),
            WordTable::Owned => self.owned.set(word, value),
            WordTable::Counters => {}
            WordTable::Filter => {
                if let Some(mirrored) = self.filter.get_mut(word as usize) {
                    *mirrored = value;
                }
            }
        }
    }

    /// Builds the list of rows of each cell from the words. Serving rows of cells that nobody owns are on no list;
    /// they are returned.
    pub fn index(&mut self) -> Vec<u32> {
        let mut strays = Vec::new();
        for id in 1..self.elements(WordTable::Backends) {
            let row = self.row(id);
            if row.state().is_serving() {
                if self.owner(row.service).0 == 0 {
                    strays.push(id);
                } else {
                    self.rows.link(row.service, id);
                }
            }
        }
        strays
    }

    /// Words of a table.
    pub fn words(&self, table: WordTable) -> u64 {
        match table {
            WordTable::Services => self.services.words(),
            WordTable::Slots => self.slots.words(),
            WordTable::Backends => self.backends.words(),
            WordTable::Owned => self.owned.words(),
            WordTable::Counters => self.counter_chunks * CHUNK_WORDS,
            WordTable::Filter => u64::from(filter::WORDS),
        }
    }

    /// Cells, rows, or words of the other tables.
    pub fn elements(&self, table: WordTable) -> u32 {
        let per_element = match table {
            WordTable::Services => CELL_WORDS as u64,
            WordTable::Backends => ROW_WORDS as u64,
            WordTable::Owned => BLOCK_WORDS as u64,
            _ => 1,
        };
        (self.words(table) / per_element) as u32
    }

    /// The cell of a service port.
    pub fn cell_of(&self, tag: OwnerTag) -> Option<u32> {
        self.cells.get(&tag).copied()
    }

    /// Every service port that has a cell, in no order.
    pub fn cells(&self) -> impl Iterator<Item = (OwnerTag, u32)> + '_ {
        self.cells.iter().map(|(tag, service)| (*tag, *service))
    }

    /// Who has a cell; tag zero: nobody.
    pub fn owner(&self, service: u32) -> OwnerTag {
        OwnerTag(self.services.get(cell_word(service, OWNER_WORD)))
    }

    /// The head of a cell.
    pub fn head(&self, service: u32) -> Head {
        Head(self.services.get(cell_word(service, 0)))
    }

    /// The view words in force, in the order of [`View::ALL`].
    pub fn views(&self, service: u32) -> [ViewWord; View::COUNT] {
        let half = self.head(service).half();
        View::ALL.map(|view| ViewWord(self.services.get(cell_word(service, half.word(view)))))
    }

    /// The extents that the views in force name, each once.
    pub fn extents(&self, service: u32) -> impl Iterator<Item = Extent> + use<> {
        let words = self.views(service);
        let extent = |word: ViewWord| Extent::of_slots(word.base(), word.count());
        words.into_iter().enumerate().filter_map(move |(index, word)| {
            let named = word.kind() == ViewKind::Random && word.count() > 0;
            let first = words[..index].iter().all(|earlier| earlier.plain() != word.plain());
            (named && first).then(|| extent(word))
        })
    }

    /// The rows in the slots of a view word, in order.
    pub fn slot_ids(&self, word: ViewWord) -> impl ExactSizeIterator<Item = u32> + '_ {
        let count = if word.kind() == ViewKind::Random { word.count() } else { 0 };
        let base = word.base();
        (0..count).map(move |index| {
            let slot = base.wrapping_add(index);
            let (even, odd) = split(self.slots.get(u64::from(slot / 2)));
            if slot.is_multiple_of(2) { even } else { odd }
        })
    }

    /// One word of the slots.
    pub fn slot_word(&self, word: u64) -> u64 {
        self.slots.get(word)
    }

    /// A row; all zero where there is none.
    pub fn row(&self, id: u32) -> Backend {
        let mut words = [0; ROW_WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.backends.get(row_word(id, index));
        }
        Backend::from_words(words)
    }

    /// The serving rows of a cell, in no order.
    pub fn rows_of(&self, service: u32) -> impl Iterator<Item = u32> + '_ {
        self.rows.of(service)
    }

    /// The value of a frontend.
    pub fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.hashes.frontends.get(key).copied()
    }

    /// Every frontend, in no order; also the entries that name blocks of owned VIPs.
    pub fn frontends(&self) -> impl ExactSizeIterator<Item = (FrontendKey, FrontendValue)> + '_ {
        self.hashes.frontends.iter().map(|(key, value)| (*key, *value))
    }

    /// The cells that any frontend leads to.
    pub fn reached_cells(&self) -> HashSet<u32> {
        let frontends = self.hashes.frontends.iter().filter(|(key, _)| !key.is_owned_vip());
        frontends.map(|(_, value)| value.service).collect()
    }

    /// The bits of a block of owned VIPs.
    pub fn owned_bits(&self, id: u32) -> [u64; BLOCK_WORDS] {
        std::array::from_fn(|index| self.owned.get(block_word(id, index)))
    }

    /// The blocks that entries name, in no order, with their first addresses.
    pub fn blocks(&self) -> impl Iterator<Item = (Addr, u32)> + '_ {
        let entries = self.hashes.frontends.iter().filter(|(key, _)| key.is_owned_vip());
        entries.map(|(key, value)| (key.addr, value.service))
    }

    /// How many blocks entries name.
    pub fn block_count(&self) -> usize {
        self.hashes.named_blocks.len()
    }

    /// Whether an entry names this block.
    pub fn is_block_named(&self, id: u32) -> bool {
        self.hashes.named_blocks.contains(&id)
    }

    /// Every owned VIP, in no order.
    pub fn owned_vips(&self) -> impl Iterator<Item = Addr> + '_ {
        self.blocks().flat_map(|(first, id)| {
            let bits = self.owned_bits(id);
            let is_set = move |index: &u32| bits[*index as usize / 64] & 1 << (index % 64) != 0;
            (0..BLOCK_ADDRS).filter(is_set).map(move |index| owned::address(first, index))
        })
    }

    /// Elements the frontend hash can hold.
    pub fn frontend_capacity(&self) -> u32 {
        self.hashes.frontend_capacity
    }

    /// The node's addresses.
    pub fn node_addrs(&self) -> &BTreeMap<Addr, NodeAddrFlags> {
        &self.hashes.node_addrs
    }

    /// The service ranges.
    pub fn cidrs(&self) -> &BTreeSet<CidrKey> {
        &self.hashes.cidrs
    }

    /// The ranges of clients of each cell that has any, also of one that nobody owns.
    pub fn sources(&self) -> &BTreeMap<u32, BTreeSet<CidrKey>> {
        &self.hashes.sources
    }

    /// The ranges of clients of a cell, sorted.
    pub fn sources_of(&self, service: u32) -> impl Iterator<Item = CidrKey> + '_ {
        self.hashes.sources.get(&service).into_iter().flatten().copied()
    }

    /// Ranges of clients of all cells.
    pub fn source_count(&self) -> usize {
        self.hashes.source_count
    }

    /// The filter.
    pub fn filter_words(&self) -> &[u64] {
        &self.filter
    }

    /// A word of the filter.
    pub fn filter_word(&self, index: u32) -> u64 {
        self.filter.get(index as usize).copied().unwrap_or(0)
    }

    /// The bits that the frontends, node addresses and ranges of this mirror need.
    pub fn owned(&self) -> &OwnedBits {
        &self.hashes.owned
    }

    /// Whether elements of a hash were freed and no grace period has passed since.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn set_service_word(&mut self, word: u64, value: u64) {
        if word % CELL_WORDS as u64 == OWNER_WORD as u64 {
            let service = (word / CELL_WORDS as u64) as u32;
            let before = self.owner(service);
            if before.0 != 0 && self.cell_of(before) == Some(service) {
                self.cells.remove(&before);
            }
            if value != 0 {
                self.cells.insert(OwnerTag(value), service);
            }
        }
        self.services.set(word, value);
    }

    fn unlink_row_of(&mut self, op: &MapOp) {
        if let MapOp::StoreRow { id, .. } | MapOp::StoreState { id, .. } = op {
            let row = self.row(*id);
            if row.state().is_serving() {
                self.rows.unlink(row.service, *id);
            }
        }
    }

    fn link_row_of(&mut self, op: &MapOp) {
        let (id, state) = match op {
            MapOp::StoreRow { id, row } => (*id, row.state()),
            MapOp::StoreState { id, state, .. } => (*id, *state),
            _ => return,
        };
        if BackendState::is_serving(state) {
            self.rows.link(self.row(id).service, id);
        }
    }

    fn grow(&mut self, table: WordTable) {
        match table {
            WordTable::Services => self.services.grow(),
            WordTable::Slots => self.slots.grow(),
            WordTable::Backends => self.backends.grow(),
            WordTable::Owned => self.owned.grow(),
            WordTable::Counters => self.counter_chunks += 1,
            WordTable::Filter => {}
        }
        self.rows.resize(self.elements(WordTable::Services), self.elements(WordTable::Backends));
    }
}
