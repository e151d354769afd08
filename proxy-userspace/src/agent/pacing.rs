//! When the loop writes: a state machine that is told what happens and when, and owns no clock.
//!
//! The first change after quiet is due at once. Changes that come while a turn runs, or before the smallest interval
//! after it has passed, are merged into the next. What a turn left undone is due again after a while that doubles for
//! as long as nothing gets on. Once in the greatest interval everything is compared, also when nothing has changed.
//! (kube-proxy's rules; there the names are minSyncPeriod, syncPeriod and an hour.)

use std::time::Duration;

/// A point in time: since any fixed moment, by a clock that never goes back.
pub type Moment = Duration;

/// The intervals of a [`Pacer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// From the end of a turn to the start of the next one that a change asks for; zero: none.
    pub min: Duration,
    /// From the end of a full turn to the start of the next.
    pub max: Duration,
    /// From the end of a turn that left something undone to its repetition.
    pub retry: Duration,
    /// What that grows to while nothing gets on.
    pub retry_max: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            min: Duration::ZERO,
            max: Duration::from_hours(1),
            // Ids that were freed rest for a second: what they block is possible after that.
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
        }
    }
}

impl Intervals {
    /// What kube-proxy's `minSyncPeriod` and `syncPeriod` mean: the latter is the longest pause before what failed is tried
    /// again.
    pub fn of_periods(min_sync: Duration, sync: Duration) -> Self {
        let usual = Self::default();
        Self { min: min_sync, retry: usual.retry.min(sync), retry_max: sync, ..usual }
    }
}

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// To write what has changed, and what was left undone.
    Changes,
    /// To compare everything.
    Full,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left to do.
    Settled,
    /// Something is left, but something was done.
    GotOn,
    /// Something is left, and nothing was done.
    Stuck,
}

/// Says when the next turn is due.
#[derive(Clone, Debug)]
pub struct Pacer {
    intervals: Intervals,
    /// A change has come that no turn has taken in.
    is_wanted: bool,
    /// End of the last turn.
    last: Option<Moment>,
    /// End of the last full turn, or the start.
    last_full: Moment,
    /// When what was left undone is due, and the interval that led there.
    retry: Option<(Moment, Duration)>,
    running: Option<Turn>,
}

impl Pacer {
    /// A pacer that starts `now`, with nothing to do.
    pub fn new(intervals: Intervals, now: Moment) -> Self {
        Self { intervals, is_wanted: false, last: None, last_full: now, retry: None, running: None }
    }

    /// A change has come.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// When the next turn is due, as things stand.
    pub fn due(&self) -> Moment {
        let full = self.last_full.saturating_add(self.intervals.max);
        let retry = self.retry.map_or(full, |(at, _)| at.min(full));
        if self.is_wanted {
            let change = self.last.map_or(Moment::ZERO, |last| last.saturating_add(self.intervals.min));
            return change.min(retry);
        }
        retry
    }

    /// The turn that is due, if one is; whoever gets it carries it out and calls [`Pacer::ended`].
    pub fn start(&mut self, now: Moment) -> Option<Turn> {
        if self.due() > now {
            return None;
        }
        let is_full = self.last_full.saturating_add(self.intervals.max) <= now;
        let turn = if is_full { Turn::Full } else { Turn::Changes };
        self.is_wanted = false;
        self.running = Some(turn);
        Some(turn)
    }

    /// The turn that was started has ended.
    pub fn ended(&mut self, now: Moment, how: Ended) {
        self.last = Some(now);
        if self.running.take() == Some(Turn::Full) {
            self.last_full = now;
        }
        let Intervals { retry, retry_max, .. } = self.intervals;
        self.retry = match (how, self.retry) {
            (Ended::Settled, _) => None,
            (Ended::Stuck, Some((_, before))) => Some(before.saturating_mul(2).min(retry_max)),
            (Ended::GotOn | Ended::Stuck, _) => Some(retry),
        }
        .map(|interval| (now.saturating_add(interval), interval));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Moment {
        Duration::from_millis(millis)
    }

    fn intervals() -> Intervals {
        Intervals { min: ms(100), max: ms(60_000), retry: ms(1_000), retry_max: ms(5_000) }
    }

    /// Runs the turn that is due at `now` for `took`.
    fn run(pacer: &mut Pacer, now: Moment, took: Duration, how: Ended) {
        assert_eq!(pacer.start(now), Some(Turn::Changes), "at {now:?}");
        pacer.ended(now + took, how);
    }

    #[test]
    fn a_configuration_sets_the_intervals() {
        let expected =
            Intervals { min: ms(2_000), retry: ms(500), retry_max: ms(500), ..Intervals::default() };
        assert_eq!(Intervals::of_periods(ms(2_000), ms(500)), expected);
        assert_eq!(Intervals::of_periods(ms(0), ms(30_000)), Intervals::default());
    }

    #[test]
    fn the_first_change_after_quiet_is_due_at_once() {
        let mut pacer = Pacer::new(intervals(), ms(5));
        assert_eq!((pacer.start(ms(10)), pacer.due()), (None, ms(60_005)));
        pacer.want();
        assert!(pacer.due() <= ms(10));
        run(&mut pacer, ms(10), ms(3), Ended::Settled);
        // Quiet for longer than the smallest interval.
        pacer.want();
        run(&mut pacer, ms(200), ms(3), Ended::Settled);
        assert_eq!(pacer.start(ms(30_000)), None);
    }

    #[test]
    fn a_burst_is_one_turn_after_the_smallest_interval() {
        let mut pacer = Pacer::new(intervals(), ms(0));
        pacer.want();
        run(&mut pacer, ms(0), ms(20), Ended::Settled);
        for at in [21, 50, 119] {
            pacer.want();
            assert_eq!((pacer.start(ms(at)), pacer.due()), (None, ms(120)), "the interval runs from the end");
        }
        run(&mut pacer, ms(120), ms(20), Ended::Settled);
        assert_eq!(pacer.start(ms(10_000)), None, "one turn took all of them");
    }

    #[test]
    fn a_change_during_a_turn_is_not_lost() {
        let mut pacer = Pacer::new(Intervals { min: ms(0), ..intervals() }, ms(0));
        pacer.want();
        assert_eq!(pacer.start(ms(0)), Some(Turn::Changes));
        pacer.want();
        pacer.ended(ms(7), Ended::Settled);
        assert_eq!(pacer.start(ms(7)), Some(Turn::Changes), "and without an interval it is due at once");
    }

    #[test]
    fn what_was_left_is_due_again_ever_later_until_something_gets_on() {
        let mut pacer = Pacer::new(intervals(), ms(0));
        pacer.want();
        run(&mut pacer, ms(0), ms(0), Ended::Stuck);
        let mut at = ms(0);
        for interval in [1_000, 2_000, 4_000, 5_000, 5_000] {
            at += ms(interval);
            assert_eq!((pacer.start(at.saturating_sub(ms(1))), pacer.due()), (None, at));
            run(&mut pacer, at, ms(0), Ended::Stuck);
        }
        run(&mut pacer, at + ms(5_000), ms(0), Ended::GotOn);
        assert_eq!(pacer.due(), at + ms(6_000));
        run(&mut pacer, at + ms(6_000), ms(0), Ended::Settled);
        assert_eq!(pacer.due(), ms(60_000));
    }

    #[test]
    fn a_change_does_not_wait_for_the_repetition() {
        let mut pacer = Pacer::new(intervals(), ms(0));
        pacer.want();
        run(&mut pacer, ms(0), ms(0), Ended::Stuck);
        pacer.want();
        assert_eq!(pacer.due(), ms(100));
        run(&mut pacer, ms(100), ms(0), Ended::Settled);
        assert_eq!(pacer.start(ms(1_000)), None);
    }

    #[test]
    fn everything_is_compared_once_in_the_greatest_interval() {
        let mut pacer = Pacer::new(intervals(), ms(0));
        for at in (0..60_000).step_by(10_000) {
            pacer.want();
            run(&mut pacer, ms(at), ms(0), Ended::Settled);
        }
        assert_eq!(pacer.due(), ms(60_000), "changes do not put it off");
        assert_eq!(pacer.start(ms(60_500)), Some(Turn::Full));
        pacer.ended(ms(61_000), Ended::Settled);
        assert_eq!((pacer.start(ms(120_999)), pacer.start(ms(121_000))), (None, Some(Turn::Full)));
    }
}
