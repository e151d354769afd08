//! One round of the sweep: the kernel walks both tables, and says one byte for each record; places are walked here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use proxy_common::flow::{FlowKey, Part, SWEPT_DIRECT, SWEPT_LIVES, SWEPT_SETTLED, swept};
use proxy_common::mark::{self, APART_WORD, DIRECT_WORD, MARKS_BYTE, OPENING_WORD};
use proxy_common::nat::{Settings, Timeouts, is_alive};
use zerocopy::FromBytes;

use super::places::{Found, Places};
use crate::sys::clock::monotonic_now;
use crate::sys::iter::MapIterator;
use crate::sys::map::Map;
use crate::sys::mapping::Mapping;

/// The program and the tables that it walks.
#[derive(Debug)]
pub struct Sweeper {
    tables: [MapIterator; 2],
    places: Places,
    marks: Mapping,
    settings: Map,
    /// Whether the last round has come to its end.
    is_whole: bool,
    /// Records that lie apart, and those of clients that ask backends themselves.
    kinds: [Kind; 2],
}

/// What is swept, and what that takes.
#[derive(Debug)]
pub struct Tables {
    /// Flows that found their places taken, and those of IPv6.
    pub flows: Map,
    /// Flows that lie apart.
    pub opening: Map,
    /// All others.
    pub places: Map,
    /// Marks of all.
    pub marks: Map,
    /// What programs are told: how long records live.
    pub settings: Map,
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
    /// Of the loaded program `shunt_sweep`, for the tables of flows.
    pub fn new(program: BorrowedFd<'_>, tables: Tables) -> io::Result<Self> {
        let iterators = [
            MapIterator::bind(program, tables.flows.as_fd())?,
            MapIterator::bind(program, tables.opening.as_fd())?,
        ];
        let (places, marks) = (Places::new(&tables.places)?, Mapping::new(&tables.marks)?);
        let kinds = [APART_WORD, DIRECT_WORD].map(Kind::new);
        Ok(Self { tables: iterators, places, marks, settings: tables.settings, is_whole: false, kinds })
    }

    /// Walks all tables once.
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
        swept.add(&self.sweep_places()?);
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

    /// Sweeps the places as the kernel does the tables, and says the same.
    fn sweep_places(&self) -> io::Result<Vec<u8>> {
        let (timeouts, round, now) = (self.timeouts()?, self.number(), monotonic_now());
        let sweep = |found: Found| {
            let key = found.key();
            let lives = is_alive(&found.flow, key.proto, &timeouts, now);
            if lives {
                self.mark(&key, round);
            } else {
                self.places.free(&found, round);
            }
            swept(key.part, lives, &found.flow)
        };
        Ok(self.places.records().map(sweep).collect())
    }

    fn timeouts(&self) -> io::Result<Timeouts> {
        let told = self.settings.lookup(&0_u32.to_ne_bytes())?.unwrap_or_default();
        let settings = Settings::read_from_bytes(&told);
        settings.map(|settings| settings.timeouts).map_err(|_| io::Error::other("settings of another shape"))
    }

    /// Leaves the mark of this round for a record, as programs do.
    fn mark(&self, key: &FlowKey, round: u32) {
        if key.part == Part::Return as u8 {
            return;
        }
        let at = MARKS_BYTE + mark::place(&key.src, &key.dst) as usize;
        let (word, byte) = (at / 8, at % 8);
        // Programs write other marks of this word meanwhile.
        while let Some(old) = self.marks.load(word) {
            let mut marks = old.to_ne_bytes();
            marks[byte] = mark::of_round(round);
            let new = u64::from_ne_bytes(marks);
            if new == old || self.marks.replace(word, old, new) != Some(false) {
                break;
            }
        }
    }

    /// The number of the round.
    fn number(&self) -> u32 {
        let [a, b, c, d, ..] = self.marks.load(0).unwrap_or_default().to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The round is the first half of the first word, whose other half is zero: see [`proxy_common::mark::Marks`].
    fn begin(&self) {
        let [a, b, c, d] = self.number().wrapping_add(1).to_ne_bytes();
        let next = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
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
