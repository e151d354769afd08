//! How long to wait after a fault: longer each time, and never all nodes at the same moment.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Waits that double from the first to the longest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    grown: Duration,
}

impl Backoff {
    /// From the first to the longest wait.
    pub(super) fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, grown: first }
    }

    /// How long to wait after this fault.
    pub(super) fn wait(&mut self) -> Duration {
        self.wait_by(chance())
    }

    /// All has been well for a while: the next fault is a first one.
    pub(super) fn reset(&mut self) {
        self.grown = self.first;
    }

    /// Between half and all of what the wait has grown to.
    fn wait_by(&mut self, chance: u8) -> Duration {
        let grown = self.grown;
        self.grown = (grown * 2).min(self.longest);
        grown / 2 + grown / 2 * u32::from(chance) / 255
    }
}

/// Each hasher has random keys of its own: enough to spread nodes in time.
pub(super) fn chance() -> u8 {
    RandomState::new().build_hasher().finish().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::new(BOUNDS);
        let waits: Vec<u128> = (0..8).map(|_| backoff.wait_by(255).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.wait_by(255).as_millis(), 200);
    }

    #[test]
    fn chance_takes_away_half_at_most() {
        assert_eq!(Backoff::new(BOUNDS).wait_by(0).as_millis(), 100);
        let middle = Backoff::new(BOUNDS).wait_by(128).as_millis();
        assert!((145..155).contains(&middle), "{middle}");
    }
}
