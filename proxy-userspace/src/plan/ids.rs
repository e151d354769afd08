//! Ids of cells and rows: small numbers, lowest free one first, zero never.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The free ids of one table.
///
/// Ids from `next` on were never used; released ones lie below it. Memory is that of the released ids.
#[derive(Clone, Debug)]
pub struct IdPool {
    released: BinaryHeap<Reverse<u32>>,
    next: u32,
    limit: u32,
}

impl IdPool {
    /// A pool of the ids 1 to `limit`, all free.
    pub fn new(limit: u32) -> Self {
        Self { released: BinaryHeap::new(), next: 1, limit: limit.saturating_add(1) }
    }

    /// A pool of the ids 1 to `limit` of which those below `next` are in use, save for `released`.
    pub fn adopt(limit: u32, next: u32, released: Vec<u32>) -> Self {
        let released = released.into_iter().map(Reverse).collect();
        Self { released, next: next.max(1), limit: limit.saturating_add(1) }
    }

    /// The lowest free id below `existing`, the number of elements the table has so far.
    pub fn take(&mut self, existing: u32) -> Option<u32> {
        if let Some(Reverse(lowest)) = self.released.peek().copied() {
            if lowest < existing {
                self.released.pop();
                return Some(lowest);
            }
            return None;
        }
        if self.next < self.limit.min(existing) {
            self.next += 1;
            return Some(self.next - 1);
        }
        None
    }

    /// Whether more elements would make an id free.
    pub fn wants_growth(&self) -> bool {
        self.next < self.limit || !self.released.is_empty()
    }

    /// Frees an id.
    pub fn give_back(&mut self, id: u32) {
        self.released.push(Reverse(id));
    }

    /// Ids that are free.
    pub fn free(&self) -> u32 {
        self.limit.saturating_sub(self.next) + self.released.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_comes_first_and_zero_never() {
        let mut pool = IdPool::new(4);
        assert_eq!([pool.take(100), pool.take(100), pool.take(100)], [Some(1), Some(2), Some(3)]);
        pool.give_back(2);
        pool.give_back(1);
        assert_eq!(pool.free(), 3);
        assert_eq!([pool.take(100), pool.take(100), pool.take(100)], [Some(1), Some(2), Some(4)]);
        assert_eq!((pool.take(100), pool.free(), pool.wants_growth()), (None, 0, false));
    }

    #[test]
    fn an_id_beyond_the_table_waits_for_growth() {
        let mut pool = IdPool::new(10);
        assert_eq!((pool.take(2), pool.take(2)), (Some(1), None));
        assert!(pool.wants_growth());
        assert_eq!(pool.take(4), Some(2));
    }
}
