//! The stock of cells, rows and slots: what is free, what rests, and what the tables must grow by.

mod adopt;

use foldhash::{HashMap, HashMapExt};
use proxy_common::backend::ROW_WORDS;
use proxy_common::counter::{ServiceCounter, service_element};
use proxy_common::names::{self, Chunked};
use proxy_common::owned::BLOCK_WORDS;
use proxy_common::service::{CELL_WORDS, ViewWord};

use super::Free;
use crate::plan::actual::Actual;
use crate::plan::extents::{Extent, Extents};
use crate::plan::ids::IdPool;
use crate::plan::ops::{CHUNK_WORDS, WordTable};
use crate::plan::quarantine::{Millis, Quarantine, Resource};
use crate::plan::rules::Rules;

/// How long a table that could not grow is taken to be as large as it can get.
const GROWTH_RETRY: Millis = 10_000;

/// A grace period is waited for when one part in this many of a table comes free by it.
const WORTH_A_GRACE: u64 = 8;

/// A table has no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan::diff) struct Full(pub(in crate::plan::diff) &'static str);

/// Given out in the last plan, and in use only once the maps say so.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Cell(u32),
    Row(u32),
    Extent { service: u32, extent: Extent },
    Block(u32),
}

/// Place of an allocation to go back to.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan::diff) struct Mark(usize);

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::plan::diff) struct Stock {
    rules: Rules,
    cells: IdPool,
    rows: IdPool,
    extents: Extents,
    blocks: IdPool,
    quarantine: Quarantine,
    pending: Vec<Pending>,
    /// Words of each table, those of planned growth included.
    existing: HashMap<WordTable, u64>,
    growth: Vec<WordTable>,
    /// Maps that could not grow, with the time.
    blocked: HashMap<&'static str, Millis>,
    owes_grace: bool,
    now: Millis,
}

impl Stock {
    pub(in crate::plan::diff) fn new(rules: Rules) -> Self {
        Self {
            rules,
            cells: IdPool::new(rules.limits.cells),
            rows: IdPool::new(rules.limits.rows),
            extents: Extents::default(),
            blocks: IdPool::new(rules.limits.blocks),
            quarantine: Quarantine::new(rules.quarantine),
            pending: Vec::new(),
            existing: HashMap::new(),
            growth: Vec::new(),
            blocked: HashMap::new(),
            owes_grace: false,
            now: 0,
        }
    }

    /// Starts a plan: what the last one gave out in vain comes back, and what has rested long enough is free.
    pub(in crate::plan::diff) fn begin(&mut self, actual: &Actual, now: Millis) {
        self.now = now;
        self.growth.clear();
        for table in WordTable::CHUNKED {
            self.existing.insert(table, actual.words(table));
        }
        self.extents.truncate(actual.words(WordTable::Slots) as u32);
        for pending in std::mem::take(&mut self.pending) {
            self.take_back(actual, pending);
        }
        self.blocked.retain(|_, since| now.saturating_sub(*since) < GROWTH_RETRY);
        self.quarantine.stamp(now);
        while let Some(resource) = self.quarantine.release(now) {
            self.put(resource);
        }
        // The kernel counts reasons whether there is a service or not.
        self.grow_counters(1);
    }

    /// Starts the rest of what was freed since the last call.
    pub(in crate::plan::diff) fn stamp(&mut self, now: Millis) {
        self.now = now;
        self.quarantine.stamp(now);
    }

    /// Everything given out in the last plan is in use now.
    pub(in crate::plan::diff) fn confirm(&mut self) {
        self.pending = Vec::new();
    }

    pub(in crate::plan::diff) fn mark(&self) -> Mark {
        Mark(self.pending.len())
    }

    /// Takes back what was given out since `mark` and has been written nowhere.
    pub(in crate::plan::diff) fn roll_back(&mut self, mark: Mark) {
        for pending in self.pending.split_off(mark.0) {
            self.put(pending.resource());
        }
    }

    pub(in crate::plan::diff) fn take_cell(&mut self) -> Result<u32, Full> {
        loop {
            if let Some(id) = self.cells.take(self.elements(names::SERVICES, WordTable::Services)) {
                self.pending.push(Pending::Cell(id));
                let shards = self.rules.shards;
                let last = service_element(id, ServiceCounter::Refused, shards, shards.saturating_sub(1));
                self.grow_counters(u64::from(last) + 1);
                return Ok(id);
            }
            self.make_room(WordTable::Services, self.cells.wants_growth())?;
        }
    }

    /// The shards of a cell's counters, if it has counters: their growth may have failed.
    pub(in crate::plan::diff) fn counted(&self, service: u32) -> Option<u32> {
        let shards = self.rules.shards;
        let last = service_element(service, ServiceCounter::Refused, shards, shards.saturating_sub(1));
        (u64::from(last) < self.words(WordTable::Counters)).then_some(shards)
    }

    pub(in crate::plan::diff) fn take_row(&mut self) -> Result<u32, Full> {
        loop {
            if let Some(id) = self.rows.take(self.elements(names::BACKENDS, WordTable::Backends)) {
                self.pending.push(Pending::Row(id));
                return Ok(id);
            }
            self.make_room(WordTable::Backends, self.rows.wants_growth())?;
        }
    }

    pub(in crate::plan::diff) fn take_block(&mut self) -> Result<u32, Full> {
        loop {
            if let Some(id) = self.blocks.take(self.elements(names::OWNED, WordTable::Owned)) {
                self.pending.push(Pending::Block(id));
                return Ok(id);
            }
            self.make_room(WordTable::Owned, self.blocks.wants_growth())?;
        }
    }

    pub(in crate::plan::diff) fn take_extent(&mut self, service: u32, slots: usize) -> Result<Extent, Full> {
        let table = WordTable::Slots;
        let words = slots.div_ceil(2) as u64;
        if words > CHUNK_WORDS || slots > ViewWord::MAX_COUNT as usize {
            return Err(Full(table.name()));
        }
        loop {
            if let Some(extent) = self.extents.take(words as u32) {
                self.pending.push(Pending::Extent { service, extent });
                return Ok(extent);
            }
            let wants_growth = self.words(table) < self.slot_words();
            self.make_room(table, wants_growth)?;
        }
    }

    /// What the tables must grow by for what was given out since the plan began.
    pub(in crate::plan::diff) fn growth(&self) -> &[WordTable] {
        &self.growth
    }

    /// Whether something was given out that no grace period has passed over.
    pub(in crate::plan::diff) fn owes_grace(&self) -> bool {
        self.owes_grace
    }

    pub(in crate::plan::diff) fn rest(&mut self, resource: Resource) {
        self.quarantine.add(resource);
    }

    pub(in crate::plan::diff) fn note_grace(&mut self) {
        self.quarantine.note_grace();
        self.owes_grace = false;
    }

    /// Notes that a map could not grow; for a while it counts as full.
    pub(in crate::plan::diff) fn block_growth(&mut self, map: &'static str) {
        self.blocked.insert(map, self.now);
    }

    pub(in crate::plan::diff) fn is_blocked(&self, map: &'static str) -> bool {
        self.blocked.contains_key(map)
    }

    pub(in crate::plan::diff) fn free(&self) -> Free {
        let slots = self.extents.free() * 2;
        Free { cells: self.cells.free(), rows: self.rows.free(), slots, blocks: self.blocks.free() }
    }

    pub(in crate::plan::diff) fn resting(&self) -> impl Iterator<Item = Resource> + '_ {
        self.quarantine.resources()
    }

    fn take_back(&mut self, actual: &Actual, pending: Pending) {
        let (exists, is_used) = match pending {
            Pending::Cell(id) => (id < actual.elements(WordTable::Services), actual.owner(id).0 != 0),
            Pending::Row(id) => {
                (id < actual.elements(WordTable::Backends), actual.row(id).state().is_serving())
            }
            Pending::Block(id) => (id < actual.elements(WordTable::Owned), actual.is_block_named(id)),
            Pending::Extent { service, extent } => (
                u64::from(extent.end()) <= actual.words(WordTable::Slots),
                actual.extents(service).any(|used| used == extent),
            ),
        };
        match (exists, is_used, pending) {
            (_, true, _) | (false, _, Pending::Extent { .. }) => {}
            // A chunk that never came was never written.
            (false, ..) => self.put(pending.resource()),
            (true, ..) => self.quarantine.add(pending.resource()),
        }
    }

    fn put(&mut self, resource: Resource) {
        match resource {
            Resource::Cell(id) => self.cells.give_back(id),
            Resource::Row(id) => self.rows.give_back(id),
            Resource::Extent(extent) => self.extents.give_back(extent),
            Resource::Block(id) => self.blocks.give_back(id),
        }
    }

    fn make_room(&mut self, table: WordTable, wants_growth: bool) -> Result<(), Full> {
        let is_worth_it = self.owes_grace || self.is_worth_a_grace(table);
        if (is_worth_it && self.reclaim()) || (wants_growth && self.grow(table)) || self.reclaim() {
            return Ok(());
        }
        Err(Full(table.name()))
    }

    /// Whether enough of the table has rested for a grace period, which holds up the batch for some 10 ms. Growth costs
    /// as much, but then lasts: under steady churn each batch would otherwise pay for the few ids that one batch freed.
    fn is_worth_a_grace(&self, table: WordTable) -> bool {
        let rested: u64 = self.quarantine.rested(self.now).map(|resource| words_of(table, resource)).sum();
        rested * WORTH_A_GRACE >= self.words(table)
    }

    /// Frees what has rested long enough, on the promise that the batch starts with a grace period.
    fn reclaim(&mut self) -> bool {
        let mut reclaimed = false;
        while let Some(resource) = self.quarantine.release_owing_grace(self.now) {
            self.put(resource);
            reclaimed = true;
        }
        self.owes_grace |= reclaimed;
        reclaimed
    }

    fn grow(&mut self, table: WordTable) -> bool {
        let words = self.words(table);
        if self.is_blocked(table.name()) || words / CHUNK_WORDS >= u64::from(layout(table).max_chunks) {
            return false;
        }
        self.growth.push(table);
        self.existing.insert(table, words + CHUNK_WORDS);
        if table == WordTable::Slots {
            let end = self.slot_words().min(words + CHUNK_WORDS);
            self.extents.give_back(Extent { start: words as u32, words: end.saturating_sub(words) as u32 });
        }
        true
    }

    /// A service without counters works, so their growth refuses nobody.
    fn grow_counters(&mut self, elements: u64) {
        while self.words(WordTable::Counters) < elements && self.grow(WordTable::Counters) {}
    }

    fn words(&self, table: WordTable) -> u64 {
        self.existing.get(&table).copied().unwrap_or(0)
    }

    fn elements(&self, layout: Chunked, table: WordTable) -> u32 {
        (self.words(table) / u64::from(layout.element_bytes / 8)) as u32
    }

    fn slot_words(&self) -> u64 {
        u64::from(self.rules.limits.slots / 2)
    }
}

impl Pending {
    fn resource(self) -> Resource {
        match self {
            Self::Cell(id) => Resource::Cell(id),
            Self::Row(id) => Resource::Row(id),
            Self::Extent { extent, .. } => Resource::Extent(extent),
            Self::Block(id) => Resource::Block(id),
        }
    }
}

/// Words of `table` that come free with `resource`.
fn words_of(table: WordTable, resource: Resource) -> u64 {
    match (table, resource) {
        (WordTable::Services, Resource::Cell(_)) => CELL_WORDS as u64,
        (WordTable::Backends, Resource::Row(_)) => ROW_WORDS as u64,
        (WordTable::Slots, Resource::Extent(extent)) => u64::from(extent.words),
        (WordTable::Owned, Resource::Block(_)) => BLOCK_WORDS as u64,
        _ => 0,
    }
}

fn layout(table: WordTable) -> Chunked {
    match table {
        WordTable::Services => names::SERVICES,
        WordTable::Slots => names::SLOTS,
        WordTable::Backends => names::BACKENDS,
        WordTable::Counters => names::COUNTERS,
        WordTable::Owned => names::OWNED,
        WordTable::Filter => Chunked { name: names::FILTER, element_bytes: 8, max_chunks: 0 },
    }
}
