//! Which serving rows each cell has: one doubly linked list per cell through two flat arrays.
//!
//! A vector per cell would cost more memory than the rows' own ids, and a removal from a long one its length.

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    before: u32,
    after: u32,
}

/// Lists of row ids; id 0 ends a list.
#[derive(Clone, Debug, Default)]
pub(super) struct RowLists {
    first: Vec<u32>,
    links: Vec<Link>,
}

impl RowLists {
    /// Makes room for this many cells and rows.
    pub(super) fn resize(&mut self, cells: u32, rows: u32) {
        // Growth is by whole chunks already; doubling on top of it would be waste.
        let grow = |len: usize, wanted: u32| (wanted as usize).saturating_sub(len);
        self.first.reserve_exact(grow(self.first.len(), cells));
        self.first.resize(cells as usize, 0);
        self.links.reserve_exact(grow(self.links.len(), rows));
        self.links.resize(rows as usize, Link::default());
    }

    /// Puts a row on a cell's list. A row that names a cell beyond the table is on no list.
    pub(super) fn link(&mut self, service: u32, id: u32) {
        let Some(first) = self.first.get_mut(service as usize) else { return };
        let after = std::mem::replace(first, id);
        if let Some(link) = self.links.get_mut(id as usize) {
            *link = Link { before: 0, after };
        }
        if let Some(next) = self.links.get_mut(after as usize)
            && after != 0
        {
            next.before = id;
        }
    }

    /// Takes a row off a cell's list.
    pub(super) fn unlink(&mut self, service: u32, id: u32) {
        let Some(Link { before, after }) = self.links.get(id as usize).copied() else { return };
        if before != 0 {
            self.links[before as usize].after = after;
        } else if let Some(first) = self.first.get_mut(service as usize)
            && *first == id
        {
            *first = after;
        }
        if after != 0 {
            self.links[after as usize].before = before;
        }
        self.links[id as usize] = Link::default();
    }

    /// The rows of a cell.
    pub(super) fn of(&self, service: u32) -> impl Iterator<Item = u32> + '_ {
        let follow = |id: u32| (id != 0).then_some(id);
        let first = self.first.get(service as usize).copied().and_then(follow);
        std::iter::successors(first, move |id| follow(self.links[*id as usize].after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_leave_their_list_from_any_place() {
        for leaving in 1..=3 {
            let mut lists = RowLists::default();
            lists.resize(2, 5);
            for id in 1..=3 {
                lists.link(1, id);
            }
            lists.unlink(1, leaving);
            lists.link(0, 4);
            let mut left: Vec<u32> = lists.of(1).collect();
            left.sort_unstable();
            assert_eq!(left, (1..=3).filter(|id| *id != leaving).collect::<Vec<_>>());
            assert_eq!(lists.of(0).collect::<Vec<_>>(), [4]);
        }
    }
}
