//! One round of the sweep: the kernel walks both tables, and says one byte for each record.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use proxy_common::flow::{Part, SWEPT_LIVES, SWEPT_SETTLED};
use proxy_common::mark::{APART_WORD, OPENING_WORD};

use crate::sys::iter::MapIterator;
use crate::sys::map::Map;
use crate::sys::mapping::Mapping;

/// The program and the tables that it walks.
#[derive(Debug)]
pub struct Sweeper {
    tables: [MapIterator; 2],
    marks: Mapping,
    /// Whether the last round has come to its end.
    is_whole: bool,
    /// When a record had been put apart last, as the last round began, and whether that has found none there.
    apart: u64,
    was_empty: bool,
}

/// What a round has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows whose client has answered.
    pub settled: u64,
    /// Flows that are opening.
    pub opening: u64,
    /// Records that live, of which a flow has two or three.
    pub records: u64,
    /// Records that were removed.
    pub removed: u64,
}

impl Sweeper {
    /// Of the loaded program `shunt_sweep`, for the tables of flows and their marks.
    pub fn new(program: BorrowedFd<'_>, tables: [&Map; 2], marks: &Map) -> io::Result<Self> {
        let [flows, opening] = tables;
        let tables =
            [MapIterator::bind(program, flows.as_fd())?, MapIterator::bind(program, opening.as_fd())?];
        Ok(Self { tables, marks: Mapping::new(marks)?, is_whole: false, apart: 0, was_empty: false })
    }

    /// Walks both tables once.
    ///
    /// The number of the round goes up before, and only after a round that has come to its end: a mark counts in its own round
    /// and two more, so that a record is forgotten only if two rounds one after the other have missed it. The first round of an
    /// agent does not know how the last one of another has ended.
    pub fn round(&mut self) -> io::Result<Swept> {
        if std::mem::take(&mut self.is_whole) {
            self.begin();
        }
        let apart = self.marks.load(APART_WORD).unwrap_or_default();
        let [main, others] = &self.tables;
        let mut swept = Swept::default();
        swept.add(&main.read_all()?);
        // Flows that began during the walk may be missing: the count that decides when to put flows apart need not be exact.
        let _ = self.marks.store(OPENING_WORD, swept.opening);
        let in_main = swept.records;
        swept.add(&others.read_all()?);
        self.is_whole = true;
        // Whoever puts a record there says when, and then does it. That was a round ago or more, and two walks have found none: one
        // alone may miss a record.
        let is_old = apart == std::mem::replace(&mut self.apart, apart);
        let is_empty = swept.records == in_main;
        let was_empty = std::mem::replace(&mut self.was_empty, is_empty);
        if apart != 0 && is_old && is_empty && was_empty {
            let _ = self.marks.replace(APART_WORD, apart, 0);
        }
        Ok(swept)
    }

    /// The round is the first half of the first word, whose other half is zero: see [`proxy_common::mark::Marks`].
    fn begin(&self) {
        let round = self.marks.load(0).unwrap_or_default();
        let next = if cfg!(target_endian = "little") {
            u64::from((round as u32).wrapping_add(1))
        } else {
            round.wrapping_add(1 << 32)
        };
        // The array has more words than one.
        let _ = self.marks.store(0, next);
    }
}

impl Swept {
    fn add(&mut self, said: &[u8]) {
        for byte in said {
            if byte & SWEPT_LIVES == 0 {
                self.removed += 1;
                continue;
            }
            self.records += 1;
            // Every flow has one record of this part.
            if byte & 3 == Part::Reply as u8 {
                if byte & SWEPT_SETTLED == 0 {
                    self.opening += 1;
                } else {
                    self.settled += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::flow::swept;

    #[test]
    fn flows_are_counted_once_however_many_records_they_have() {
        let mut found = Swept::default();
        let parts = [Part::Forward, Part::Reply, Part::Return].map(|part| part as u8);
        found.add(&parts.map(|part| swept(part, true, true)));
        found.add(&[swept(parts[0], true, false), swept(parts[1], true, false)]);
        found.add(&parts.map(|part| swept(part, false, true)));
        assert_eq!(found, Swept { settled: 1, opening: 1, records: 5, removed: 3 });
    }
}
