//! Quarantine: how long a cell, a row or an extent rests between its last use and its next.
//!
//! A reader may hold an id that nothing names any more, so an id rests for a fixed time *and* until a grace period
//! has passed. The quarantine is memory only: whatever a restart finds unreferenced starts over.

use std::collections::VecDeque;

use super::extents::Extent;

/// Milliseconds of a clock that never goes back, from any origin.
pub type Millis = u64;

/// How long an id rests.
pub const QUARANTINE: Millis = 1000;

/// Something that can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A cell.
    Cell(u32),
    /// A row.
    Row(u32),
    /// An extent.
    Extent(Extent),
    /// A block of owned VIPs.
    Block(u32),
}

/// Resources at rest, oldest first.
#[derive(Clone, Debug)]
pub struct Quarantine {
    /// With the time since when, unknown for the last `unstamped`.
    entries: VecDeque<(Millis, Resource)>,
    unstamped: usize,
    /// Entries from the front on that a grace period has passed over.
    graced: usize,
    period: Millis,
}

impl Quarantine {
    /// An empty quarantine in which everything rests for `period`.
    pub fn new(period: Millis) -> Self {
        Self { entries: VecDeque::new(), unstamped: 0, graced: 0, period }
    }

    /// Adds what was freed just now; its time starts with the next [`Quarantine::stamp`].
    pub fn add(&mut self, resource: Resource) {
        self.entries.push_back((Millis::MAX, resource));
        self.unstamped += 1;
    }

    /// Starts the time of everything added since the last call.
    pub fn stamp(&mut self, now: Millis) {
        for (since, _) in self.entries.iter_mut().rev().take(self.unstamped) {
            *since = now;
        }
        self.unstamped = 0;
    }

    /// Notes that a grace period has passed over everything that rests here now.
    pub fn note_grace(&mut self) {
        self.graced = self.entries.len();
    }

    /// The oldest resource, if its time is up and a grace period has passed over it.
    pub fn release(&mut self, now: Millis) -> Option<Resource> {
        if self.graced == 0 {
            return None;
        }
        self.release_owing_grace(now)
    }

    /// The oldest resource, if its time is up; the caller sees to it that a grace period passes before its use.
    pub fn release_owing_grace(&mut self, now: Millis) -> Option<Resource> {
        let (since, resource) = *self.entries.front()?;
        if self.entries.len() == self.unstamped || now.saturating_sub(since) < self.period {
            return None;
        }
        self.entries.pop_front();
        self.graced = self.graced.saturating_sub(1);
        Some(resource)
    }

    /// What [`Quarantine::release_owing_grace`] would give, one after the other.
    pub fn rested(&self, now: Millis) -> impl Iterator<Item = Resource> + '_ {
        let is_rested = move |since: Millis| now.saturating_sub(since) >= self.period;
        let stamped = self.entries.iter().take(self.entries.len() - self.unstamped);
        stamped.take_while(move |(since, _)| is_rested(*since)).map(|(_, resource)| *resource)
    }

    /// Everything at rest.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        self.entries.iter().map(|(_, resource)| *resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_the_time_and_a_grace_period_are_needed() {
        let mut quarantine = Quarantine::new(QUARANTINE);
        quarantine.add(Resource::Row(1));
        assert_eq!(quarantine.release_owing_grace(9000), None, "its time has not started");
        quarantine.stamp(10);
        assert_eq!(quarantine.release(5000), None, "no grace period");
        quarantine.note_grace();
        quarantine.add(Resource::Row(2));
        quarantine.stamp(20);
        assert_eq!(quarantine.release(1009), None);
        assert_eq!(quarantine.release(1010), Some(Resource::Row(1)));
        assert_eq!(quarantine.release(9000), None, "the second came after the grace period");
        assert_eq!(quarantine.release_owing_grace(1019), None);
        assert_eq!((quarantine.rested(1019).count(), quarantine.rested(1020).count()), (0, 1));
        assert_eq!(quarantine.release_owing_grace(1020), Some(Resource::Row(2)));
    }
}
