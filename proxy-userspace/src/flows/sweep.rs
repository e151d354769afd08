//! One round of the sweep: the kernel walks both tables, and says one byte for each record.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use proxy_common::flow::{Part, SWEPT_DIRECT, SWEPT_LIVES, SWEPT_SETTLED};
use proxy_common::mark::{APART_WORD, DIRECT_WORD, OPENING_WORD};

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
    /// Records that lie apart, and those of clients that ask backends themselves.
    kinds: [Kind; 2],
}

/// A kind of records of which programs say in a word when they have made one last, and look for none where the word is zero.
#[derive(Debug)]
struct Kind {
    word: usize,
    /// What the word was as this round began, and as the last one did.
    made: [u64; 2],
    /// Whether the last round has found none.
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
    /// Records of clients that ask backends themselves.
    pub direct: u64,
}

impl Kind {
    const fn new(word: usize) -> Self {
        Self { word, made: [0; 2], was_empty: false }
    }

    /// A round begins.
    fn begin(&mut self, marks: &Mapping) {
        self.made = [marks.load(self.word).unwrap_or_default(), self.made[0]];
    }

    /// It has found none, or some. Whoever makes one says when, and then does it: where that was a round ago or more, and two walks
    /// have found none, there are none. One walk alone may miss a record.
    fn end(&mut self, marks: &Mapping, is_empty: bool) {
        let [now, before] = self.made;
        let was_empty = std::mem::replace(&mut self.was_empty, is_empty);
        if now != 0 && now == before && is_empty && was_empty {
            let _ = marks.replace(self.word, now, 0);
        }
    }
}

impl Sweeper {
    /// Of the loaded program `shunt_sweep`, for the tables of flows and their marks.
    pub fn new(program: BorrowedFd<'_>, tables: [&Map; 2], marks: &Map) -> io::Result<Self> {
        let [flows, opening] = tables;
        let tables =
            [MapIterator::bind(program, flows.as_fd())?, MapIterator::bind(program, opening.as_fd())?];
        let kinds = [APART_WORD, DIRECT_WORD].map(Kind::new);
        Ok(Self { tables, marks: Mapping::new(marks)?, is_whole: false, kinds })
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
        for kind in &mut self.kinds {
            kind.begin(&self.marks);
        }
        let [main, others] = &self.tables;
        let mut swept = Swept::default();
        swept.add(&main.read_all()?);
        // Flows that began during the walk may be missing: the count that decides when to put flows apart need not be exact.
        let _ = self.marks.store(OPENING_WORD, swept.opening);
        let in_main = swept.records;
        swept.add(&others.read_all()?);
        self.is_whole = true;
        for (kind, count) in self.kinds.iter_mut().zip([swept.records - in_main, swept.direct]) {
            kind.end(&self.marks, count == 0);
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
            self.direct += u64::from(byte & SWEPT_DIRECT != 0);
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
    use proxy_common::flow::{Flow, swept};

    #[test]
    fn flows_are_counted_once_however_many_records_they_have() {
        let mut found = Swept::default();
        let parts = [Part::Forward, Part::Reply, Part::Return].map(|part| part as u8);
        let [opening, settled, direct] =
            [0, Flow::SETTLED, Flow::SETTLED | Flow::DIRECT].map(|flags| Flow { flags, ..Flow::EMPTY });
        found.add(&parts.map(|part| swept(part, true, &settled)));
        found.add(&[swept(parts[0], true, &opening), swept(parts[1], true, &opening)]);
        found.add(&[swept(parts[0], true, &direct), swept(parts[1], true, &direct)]);
        found.add(&parts.map(|part| swept(part, false, &direct)));
        assert_eq!(found, Swept { settled: 2, opening: 1, records: 7, removed: 3, direct: 2 });
    }
}
