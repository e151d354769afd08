//! Counters of single service ports, of which only so many get series of their own.
//!
//! Whoever came first keeps its series for as long as it exists; the rest is added up. That sum must not fall when a
//! service port goes, so it adds up what each has gained since the last look. A service port that moves from the rest
//! to a series of its own leaves in the sum what it has counted so far.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashSet};

use crate::maps::reading::CellCounts;
use crate::plan::tables::OwnerTag;

/// Who has series of its own, and what the others have counted.
#[derive(Debug)]
pub struct ServiceTotals {
    limit: usize,
    shown: BTreeSet<OwnerTag>,
    /// What the others had counted at the last look: picked and refused.
    others: HashMap<OwnerTag, [u64; 2]>,
    rest: [u64; 2],
}

/// What a look shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Service ports with series of their own.
    pub single: Vec<CellCounts>,
    /// What all others have been given and refused since the start; none where there have been no others.
    pub rest: Option<[u64; 2]>,
}

impl ServiceTotals {
    /// At most `limit` service ports get series of their own.
    pub fn new(limit: usize) -> Self {
        Self { limit, shown: BTreeSet::new(), others: HashMap::default(), rest: [0; 2] }
    }

    /// Takes a look at all there are.
    pub fn look(&mut self, cells: &[CellCounts]) -> Shown {
        let present: HashSet<OwnerTag> = cells.iter().map(|cell| cell.tag).collect();
        self.shown.retain(|tag| present.contains(tag));
        self.others.retain(|tag, _| present.contains(tag));
        let mut single = Vec::with_capacity(self.limit.min(cells.len()));
        for cell in cells {
            let is_shown = self.shown.contains(&cell.tag);
            if is_shown || self.shown.len() < self.limit {
                self.shown.insert(cell.tag);
                self.others.remove(&cell.tag);
                single.push(*cell);
            } else {
                self.add(cell);
            }
        }
        let rest = (!self.others.is_empty() || self.rest != [0; 2]).then_some(self.rest);
        Shown { single, rest }
    }

    fn add(&mut self, cell: &CellCounts) {
        let now = [cell.picked, cell.refused];
        let before = self.others.insert(cell.tag, now).unwrap_or_default();
        for ((sum, now), before) in self.rest.iter_mut().zip(now).zip(before) {
            // One that counts less than before has been made anew, and counts from zero.
            *sum = sum.wrapping_add(now.checked_sub(before).unwrap_or(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(tag: u64, picked: u64) -> CellCounts {
        CellCounts { tag: OwnerTag(tag), picked, refused: 1 }
    }

    fn single(shown: &Shown) -> Vec<(u64, u64)> {
        shown.single.iter().map(|cell| (cell.tag.0, cell.picked)).collect()
    }

    #[test]
    fn within_the_limit_each_has_its_own_series() {
        let mut totals = ServiceTotals::new(2);
        let shown = totals.look(&[cell(1, 5), cell(2, 6)]);
        assert_eq!((single(&shown), shown.rest), (vec![(1, 5), (2, 6)], None));
    }

    #[test]
    fn the_rest_is_added_up_and_never_falls() {
        let mut totals = ServiceTotals::new(1);
        assert_eq!(totals.look(&[cell(1, 5), cell(2, 6), cell(3, 7)]).rest, Some([13, 2]));
        assert_eq!(totals.look(&[cell(1, 5), cell(2, 10), cell(3, 7)]).rest, Some([17, 2]));
        // One of the rest has gone, one has been made anew and counted two since.
        assert_eq!(totals.look(&[cell(1, 5), cell(3, 2)]).rest, Some([19, 2]));
        assert_eq!(totals.look(&[cell(1, 5)]).rest, Some([19, 2]));
    }

    #[test]
    fn whoever_came_first_stays_and_a_place_that_is_free_is_given_away() {
        let mut totals = ServiceTotals::new(1);
        totals.look(&[cell(2, 1)]);
        let shown = totals.look(&[cell(1, 4), cell(2, 1)]);
        assert_eq!((single(&shown), shown.rest), (vec![(2, 1)], Some([4, 1])));
        let shown = totals.look(&[cell(1, 9)]);
        assert_eq!((single(&shown), shown.rest), (vec![(1, 9)], Some([4, 1])));
    }
}
