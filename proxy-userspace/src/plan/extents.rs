//! Extents: runs of slots within one chunk, given out best fit first.
//!
//! Space is counted in words of two slots, so that every base is even and no two extents share a word.

use std::collections::{BTreeMap, BTreeSet};

use super::ops::CHUNK_WORDS;

/// A run of words of the slots table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// First word.
    pub start: u32,
    /// Words, at least one.
    pub words: u32,
}

impl Extent {
    /// The extent of `count` slots from slot `base`.
    pub const fn of_slots(base: u32, count: u32) -> Self {
        Self { start: base / 2, words: count.div_ceil(2) }
    }

    /// First slot.
    pub const fn base(self) -> u32 {
        self.start * 2
    }

    /// First word past the extent.
    pub const fn end(self) -> u32 {
        self.start + self.words
    }
}

/// The free space of the slots table. Memory is that of the free ranges, however many extents are in use.
#[derive(Clone, Debug, Default)]
pub struct Extents {
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    free: u64,
}

impl Extents {
    /// Takes `words` from the smallest range that holds them, the lowest of equals.
    pub fn take(&mut self, words: u32) -> Option<Extent> {
        let (size, start) = self.by_size.range((words, 0)..).next().copied()?;
        self.remove(start, size);
        if size > words {
            self.insert(start + words, size - words);
        }
        Some(Extent { start, words })
    }

    /// Frees a range and joins it with its free neighbours of the same chunk.
    pub fn give_back(&mut self, extent: Extent) {
        let Extent { mut start, mut words } = extent;
        if words == 0 {
            return;
        }
        if let Some((&before, &size)) = self.by_start.range(..start).next_back()
            && before + size == start
            && !starts_chunk(start)
        {
            self.remove(before, size);
            start = before;
            words += size;
        }
        let end = start + words;
        if let Some(&size) = self.by_start.get(&end)
            && !starts_chunk(end)
        {
            self.remove(end, size);
            words += size;
        }
        self.insert(start, words);
    }

    /// Forgets the free space from word `end` on, which turned out not to exist.
    pub fn truncate(&mut self, end: u32) {
        while let Some((&start, &size)) = self.by_start.range(end..).next_back() {
            self.remove(start, size);
        }
    }

    /// Words that are free.
    pub fn free(&self) -> u64 {
        self.free
    }

    fn insert(&mut self, start: u32, words: u32) {
        self.by_start.insert(start, words);
        self.by_size.insert((words, start));
        self.free += u64::from(words);
    }

    fn remove(&mut self, start: u32, words: u32) {
        self.by_start.remove(&start);
        self.by_size.remove(&(words, start));
        self.free -= u64::from(words);
    }
}

fn starts_chunk(word: u32) -> bool {
    u64::from(word).is_multiple_of(CHUNK_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_join_within_a_chunk_only() {
        let chunk = CHUNK_WORDS as u32;
        let mut extents = Extents::default();
        extents.give_back(Extent { start: 0, words: chunk });
        extents.give_back(Extent { start: chunk, words: chunk });
        assert_eq!(extents.take(chunk + 1), None);
        let (a, b) = (extents.take(10).unwrap(), extents.take(20).unwrap());
        assert_eq!((a.start, b.start), (0, 10));
        extents.give_back(a);
        extents.give_back(b);
        assert_eq!(extents.take(chunk).unwrap().start, 0);
        extents.truncate(chunk);
        assert_eq!((extents.take(1), extents.free()), (None, 0));
    }

    #[test]
    fn the_smallest_range_that_fits_is_cut() {
        let mut extents = Extents::default();
        for (start, words) in [(0, 50), (100, 5), (200, 7)] {
            extents.give_back(Extent { start, words });
        }
        assert_eq!(extents.take(6).unwrap().start, 200);
        assert_eq!(extents.take(1).unwrap().start, 206);
        assert_eq!(extents.take(5).unwrap().start, 100);
        assert_eq!(extents.take(5).unwrap().start, 0);
    }

    proptest! {
        #[test]
        fn extents_never_overlap_and_nothing_leaks(steps in prop::collection::vec((1_u32..9, any::<prop::sample::Index>(), any::<bool>()), 1..80)) {
            let mut extents = Extents::default();
            extents.give_back(Extent { start: 0, words: 64 });
            let mut held: Vec<Extent> = Vec::new();
            for (words, index, release) in steps {
                if release && !held.is_empty() {
                    extents.give_back(held.swap_remove(index.index(held.len())));
                } else if let Some(extent) = extents.take(words) {
                    prop_assert!(held.iter().all(|other| extent.end() <= other.start || other.end() <= extent.start));
                    held.push(extent);
                }
                let used: u32 = held.iter().map(|extent| extent.words).sum();
                prop_assert_eq!(extents.free() + u64::from(used), 64);
            }
            for extent in held.drain(..) {
                extents.give_back(extent);
            }
            prop_assert_eq!(extents.take(64), Some(Extent { start: 0, words: 64 }));
        }
    }
}
