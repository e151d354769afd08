//! What was told and what waits to be told, with the bounds of that: a state machine that is handed its clock.
//!
//! What comes again is no second Event but counts up the first. What there is too much of is dropped: an Event is a
//! hint, and the log has it all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::notes::Note;
use crate::source::Subject;

/// A point in time: since any fixed moment, by a clock that never goes back.
pub(super) type Moment = Duration;

/// So many at once, and then one in each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// The interval.
    pub every: Duration,
}

/// The bounds. The default is what a user runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Writes in all.
    pub all: Rate,
    /// Writes that are about one object.
    pub object: Rate,
    /// Notes that may wait.
    pub waiting: usize,
    /// Notes of which it is remembered that they were told.
    pub known: usize,
    /// Between two writes of one Event.
    pub repeat: Duration,
    /// First and longest wait after a write that went wrong.
    pub retry: (Duration, Duration),
    /// Attempts at one write.
    pub attempts: u32,
    /// How long nothing is tried after the server has said that the right is missing.
    pub denied: Duration,
    /// What all agents find at the same moment is written at moments as far apart as this.
    pub spread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            all: Rate { burst: 25, every: Duration::from_secs(12) },
            object: Rate { burst: 5, every: Duration::from_mins(1) },
            waiting: 100,
            known: 1000,
            repeat: Duration::from_mins(5),
            retry: (Duration::from_secs(1), Duration::from_mins(1)),
            attempts: 5,
            denied: Duration::from_mins(5),
            spread: Duration::from_secs(10),
        }
    }
}

/// The present, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// For waits.
    pub(super) moment: Moment,
    /// For people.
    pub(super) wall: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This is due; whoever gets it carries it out and calls [`Ledger::ended`].
    Write(Write),
    /// Nothing before then.
    At(Moment),
    /// Nothing until there is a note.
    Nothing,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// What is told.
    pub(super) note: Arc<Note>,
    /// When it was first seen.
    pub(super) first: Timestamp,
    /// When it was last seen.
    pub(super) last: Timestamp,
    /// How often it was seen.
    pub(super) count: u32,
    /// Name of the Event that is to be counted up; none: there is none yet.
    pub(super) event: Option<String>,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is there under this name.
    Written(String),
    /// Another has told the same.
    Told,
    /// The Event that was to be counted up is gone: the server keeps none for longer than an hour.
    Expired,
    /// It cannot be told.
    Hopeless,
    /// It may go better later.
    Later,
    /// The right is missing.
    Denied,
}

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    entries: HashMap<Arc<Note>, Entry>,
    waiting: VecDeque<Arc<Note>>,
    all: Bucket,
    objects: HashMap<Subject, Bucket>,
    paused_until: Moment,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    first: Timestamp,
    last: Timestamp,
    count: u32,
    /// What of it the Event says.
    told: u32,
    /// Its Event, if this agent has made it.
    event: Option<String>,
    /// When it was last told, by whomever.
    told_at: Moment,
    /// Not to be written before.
    due: Moment,
    is_waiting: bool,
    attempts: u32,
}

/// Counts writes against a [`Rate`] by a single number: when it will be full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Moment);

impl Bucket {
    fn due(self, rate: Rate) -> Moment {
        self.0.saturating_sub(rate.every.saturating_mul(rate.burst.saturating_sub(1)))
    }

    fn take(&mut self, rate: Rate, now: Moment) {
        self.0 = self.0.max(now).saturating_add(rate.every);
    }
}

impl Ledger {
    /// An empty one.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            waiting: VecDeque::new(),
            all: Bucket::default(),
            objects: HashMap::new(),
            paused_until: Moment::ZERO,
            dropped: 0,
        }
    }

    /// Notes that were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Something was seen, maybe again; `delay` puts off the first time that it is told.
    pub(super) fn observe(&mut self, note: Note, now: Now, delay: Duration) {
        let repeat = self.limits.repeat;
        let is_full = self.waiting.len() >= self.limits.waiting;
        if let Some((note, _)) = self.entries.get_key_value(&note) {
            let note = Arc::clone(note);
            if let Some(entry) = self.entries.get_mut(&note) {
                entry.count = entry.count.saturating_add(1);
                entry.last = now.wall;
                if !entry.is_waiting && !is_full {
                    entry.is_waiting = true;
                    entry.due = entry.told_at.saturating_add(repeat);
                    self.waiting.push_back(note);
                }
            }
            return;
        }
        let of_object = self.waiting.iter().filter(|other| other.subject == note.subject).count();
        if is_full || of_object >= self.limits.object.burst as usize {
            self.dropped += 1;
            return;
        }
        self.forget(now.moment);
        let note = Arc::new(note);
        self.entries.insert(Arc::clone(&note), Entry::new(now, delay));
        self.waiting.push_back(note);
    }

    /// The write that is due.
    pub(super) fn next(&mut self, now: Moment) -> Next {
        let mut soonest = None::<(Moment, usize)>;
        for (index, note) in self.waiting.iter().enumerate() {
            let own = self.entries.get(note).map_or(Moment::ZERO, |entry| entry.due);
            let bucket = self.objects.get(&note.subject).copied().unwrap_or_default();
            let due = own.max(bucket.due(self.limits.object));
            // The first of those that are due in the order in which they came.
            if soonest.is_none_or(|(other, _)| due < other && other > now) {
                soonest = Some((due, index));
            }
        }
        let Some((due, index)) = soonest else { return Next::Nothing };
        let due = due.max(self.all.due(self.limits.all)).max(self.paused_until);
        if due > now {
            return Next::At(due);
        }
        self.start(index, now)
    }

    fn start(&mut self, index: usize, now: Moment) -> Next {
        let Some(note) = self.waiting.remove(index) else { return Next::Nothing };
        let Some(entry) = self.entries.get_mut(&note) else { return Next::Nothing };
        self.all.take(self.limits.all, now);
        self.objects.entry(note.subject.clone()).or_default().take(self.limits.object, now);
        entry.is_waiting = false;
        entry.attempts += 1;
        Next::Write(Write {
            first: entry.first,
            last: entry.last,
            count: entry.count,
            event: entry.event.clone(),
            note,
        })
    }

    /// A write has ended.
    pub(super) fn ended(&mut self, write: &Write, how: Ended, now: Moment) {
        let Some(entry) = self.entries.get_mut(&write.note) else { return };
        let (first, longest) = self.limits.retry;
        let again = match how {
            Ended::Written(name) => {
                // A new Event says once, whatever was seen meanwhile.
                entry.told = if entry.event.is_some() { write.count } else { 1 };
                entry.tell(Some(name), now);
                (entry.count > entry.told).then(|| now.saturating_add(self.limits.repeat))
            }
            Ended::Told => {
                entry.tell(None, now);
                None
            }
            Ended::Expired => {
                (entry.event, entry.first, entry.count) = (None, entry.last, 1);
                Some(now)
            }
            Ended::Later if entry.attempts < self.limits.attempts => {
                let grown = first.saturating_mul(1 << (entry.attempts - 1).min(16));
                Some(now.saturating_add(grown.min(longest)))
            }
            Ended::Later | Ended::Hopeless => {
                self.dropped += 1;
                self.entries.remove(&write.note);
                None
            }
            Ended::Denied => {
                self.pause(write, now);
                None
            }
        };
        if let (Some(due), Some(entry)) = (again, self.entries.get_mut(&write.note)) {
            (entry.due, entry.is_waiting) = (due, true);
            self.waiting.push_back(Arc::clone(&write.note));
        }
    }

    /// Lets go of all that waits: it is old by the time that the right may have come.
    fn pause(&mut self, write: &Write, now: Moment) {
        self.paused_until = now.saturating_add(self.limits.denied);
        let waiting = std::mem::take(&mut self.waiting);
        for note in waiting.iter().chain([&write.note]) {
            self.entries.remove(note);
            self.dropped += 1;
        }
    }

    /// Makes room for one more.
    fn forget(&mut self, now: Moment) {
        if self.objects.len() >= self.limits.known {
            self.objects.retain(|_, bucket| bucket.0 > now);
        }
        if self.entries.len() < self.limits.known {
            return;
        }
        let told = self.entries.iter().filter(|(_, entry)| !entry.is_waiting);
        let oldest = told.min_by_key(|(_, entry)| entry.told_at).map(|(note, _)| Arc::clone(note));
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
        }
    }
}

impl Entry {
    fn new(now: Now, delay: Duration) -> Self {
        Self {
            first: now.wall,
            last: now.wall,
            count: 1,
            told: 0,
            event: None,
            told_at: Moment::ZERO,
            due: now.moment.saturating_add(delay),
            is_waiting: true,
            attempts: 0,
        }
    }

    fn tell(&mut self, event: Option<String>, now: Moment) {
        self.event = event;
        self.told_at = now;
        self.attempts = 0;
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
