//! The watch over the write order: it follows what readers can reach from the stores alone, knows nothing of the
//! planner, and refuses a store that a reader could be hurt by.

use foldhash::{HashMap, HashSet};
use proxy_common::backend::{STATE_WORD, split};
use proxy_common::frontend::{FrontendKind, FrontendValue};
use proxy_common::names::{BACKENDS, COUNTERS, OWNED, SERVICES, SLOTS};
use proxy_common::service::{CELL_WORDS, Head, OWNER_WORD, View, ViewKind, ViewWord};

use crate::maps::{StoreError, WordTable};
use crate::plan::ops::{block_word, cell_word, row_word};

/// How long whatever a reader could reach must rest, besides a grace period.
const REST: u64 = 1000;

/// A store: table, word, value.
type Store = (WordTable, u64, u64);

/// When something was last reachable.
#[derive(Clone, Copy, Debug)]
struct Left {
    at: u64,
    graces: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    pub(super) now: u64,
    pub(super) is_lenient: bool,
    graces: u64,
    element_freed: bool,
    /// How many views in force name each word of the slots, and each row.
    slots_in_use: HashMap<u64, u32>,
    rows_in_use: HashMap<u32, u32>,
    slots_left: HashMap<u64, Left>,
    rows_left: HashMap<u32, Left>,
    cells_left: HashMap<u32, Left>,
    frontends_of: HashMap<u32, i64>,
    blocks_named: HashSet<u32>,
    blocks_left: HashMap<u32, Left>,
    /// Elements of the counters that were counted up for each cell.
    counted: HashMap<u32, HashSet<u32>>,
}

impl Watch {
    /// Refuses a store that breaks the order; `load` reads the words as they are before it.
    pub(super) fn check(&self, load: impl Fn(WordTable, u64) -> u64, store: Store) -> Result<(), StoreError> {
        let (table, word, value) = store;
        let (map, element, breaks) = match table {
            WordTable::Services => {
                let service = (word / CELL_WORDS as u64) as u32;
                (SERVICES.name, service, self.breaks_cell(&load, service, store))
            }
            WordTable::Slots => {
                let breaks = self.slots_in_use.contains_key(&word) || self.rests(self.slots_left.get(&word));
                (SLOTS.name, word as u32, breaks)
            }
            WordTable::Backends => {
                let id = (word / row_word(1, 0)) as u32;
                let before = load(WordTable::Backends, row_word(id, STATE_WORD));
                let is_state = word == row_word(id, STATE_WORD);
                (BACKENDS.name, id, self.breaks_row(id, before, is_state.then_some(value)))
            }
            WordTable::Owned => {
                let block = (word / block_word(1, 0)) as u32;
                let is_named = self.blocks_named.contains(&block);
                (OWNED.name, block, !is_named && self.rests(self.blocks_left.get(&block)))
            }
            WordTable::Counters | WordTable::Filter => return Ok(()),
        };
        if breaks && !self.is_lenient {
            return Err(StoreError::ReusedTooEarly { map, element: u64::from(element) });
        }
        self.check_counters(load, store)
    }

    /// A cell must be given away with its counters at zero.
    fn check_counters(
        &self,
        load: impl Fn(WordTable, u64) -> u64,
        (table, word, value): Store,
    ) -> Result<(), StoreError> {
        let service = (word / CELL_WORDS as u64) as u32;
        if table != WordTable::Services || word != cell_word(service, OWNER_WORD) || value == 0 {
            return Ok(());
        }
        let counted = self.counted.get(&service).into_iter().flatten().map(|element| u64::from(*element));
        match { counted }.find(|element| load(WordTable::Counters, *element) != 0) {
            Some(element) => Err(StoreError::NotCleared { map: COUNTERS.name, element }),
            None => Ok(()),
        }
    }

    /// An element of the counters is counted up for a cell.
    pub(super) fn note_count(&mut self, service: u32, element: u32) {
        self.counted.entry(service).or_default().insert(element);
    }

    /// Follows a store that is about to happen; `load` reads the words as they are before it.
    pub(super) fn follow(&mut self, load: impl Fn(WordTable, u64) -> u64, (table, word, value): Store) {
        let left = Left { at: self.now, graces: self.graces };
        match table {
            WordTable::Services if word.is_multiple_of(CELL_WORDS as u64) => {
                let service = (word / CELL_WORDS as u64) as u32;
                let before = reachable(&load, service, Head(load(table, word)));
                let after = reachable(&load, service, Head(value));
                after.0.iter().for_each(|slots| *self.slots_in_use.entry(*slots).or_insert(0) += 1);
                after.1.iter().for_each(|id| *self.rows_in_use.entry(*id).or_insert(0) += 1);
                before
                    .0
                    .iter()
                    .for_each(|slots| leave(&mut self.slots_in_use, &mut self.slots_left, *slots, left));
                before.1.iter().for_each(|id| leave(&mut self.rows_in_use, &mut self.rows_left, *id, left));
            }
            WordTable::Services if word % CELL_WORDS as u64 == OWNER_WORD as u64 && value == 0 => {
                self.cells_left.insert((word / CELL_WORDS as u64) as u32, left);
            }
            WordTable::Backends
                if word % row_word(1, 0) == STATE_WORD as u64
                    && is_serving(load(table, word))
                    && !is_serving(value) =>
            {
                self.rows_left.insert((word / row_word(1, 0)) as u32, left);
            }
            _ => {}
        }
    }

    pub(super) fn end_grace(&mut self) {
        self.graces += 1;
        self.element_freed = false;
    }

    /// An element of a hash is freed, under readers that may hold it.
    pub(super) fn free_element(&mut self) {
        self.element_freed = true;
    }

    /// An element is taken for a hash, which may be the one just freed.
    pub(super) fn take_element(&self, map: &'static str) -> Result<(), StoreError> {
        if self.element_freed && !self.is_lenient {
            return Err(StoreError::ReusedTooEarly { map, element: 0 });
        }
        Ok(())
    }

    pub(super) fn count_frontend(&mut self, value: FrontendValue, by: i64) {
        if value.kind != FrontendKind::OwnedVip as u8 {
            *self.frontends_of.entry(value.service).or_insert(0) += by;
        } else if by > 0 {
            self.blocks_named.insert(value.service);
        } else {
            self.blocks_named.remove(&value.service);
            self.blocks_left.insert(value.service, Left { at: self.now, graces: self.graces });
        }
    }

    fn breaks_cell(&self, load: impl Fn(WordTable, u64) -> u64, service: u32, store: Store) -> bool {
        let (table, word, value) = store;
        let active = Head(load(table, cell_word(service, 0))).half();
        if View::ALL.into_iter().any(|view| word == cell_word(service, active.word(view))) {
            return true;
        }
        if word != cell_word(service, OWNER_WORD) {
            return false;
        }
        if value == 0 {
            // Readers reach the cell as long as a frontend names it.
            self.frontends_of.get(&service).is_some_and(|count| *count > 0)
        } else {
            load(table, word) != 0 || self.rests(self.cells_left.get(&service))
        }
    }

    fn breaks_row(&self, id: u32, before: u64, state: Option<u64>) -> bool {
        let in_use = self.rows_in_use.contains_key(&id);
        let Some(after) = state else {
            return in_use || is_serving(before) || self.rests(self.rows_left.get(&id));
        };
        if split(before).1 != split(after).1 {
            return in_use || is_serving(before) || self.rests(self.rows_left.get(&id));
        }
        // Records would take a row for gone that a view still gives out.
        in_use && !is_serving(after)
    }

    fn rests(&self, left: Option<&Left>) -> bool {
        left.is_some_and(|left| self.now - left.at < REST || left.graces == self.graces)
    }
}

fn is_serving(state_word: u64) -> bool {
    split(state_word).0 & 1 != 0
}

fn leave<K: std::hash::Hash + Eq + Copy>(
    in_use: &mut HashMap<K, u32>,
    left: &mut HashMap<K, Left>,
    key: K,
    now: Left,
) {
    if let Some(count) = in_use.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            in_use.remove(&key);
            left.insert(key, now);
        }
    }
}

/// The words of the slots and the rows that a head leads to, each once.
fn reachable(load: impl Fn(WordTable, u64) -> u64, service: u32, head: Head) -> (HashSet<u64>, HashSet<u32>) {
    let mut slots = HashSet::default();
    let mut rows = HashSet::default();
    for view in View::ALL {
        let word = ViewWord(load(WordTable::Services, cell_word(service, head.half().word(view))));
        if word.kind() != ViewKind::Random {
            continue;
        }
        for slot in word.base()..word.base() + word.count() {
            let index = u64::from(slot / 2);
            let (even, odd) = split(load(WordTable::Slots, index));
            slots.insert(index);
            rows.insert(if slot.is_multiple_of(2) { even } else { odd });
        }
    }
    (slots, rows)
}
