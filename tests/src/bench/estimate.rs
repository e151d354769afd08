//! Medians, their intervals, and the judgement of a goal. Pure but for the resampling's random numbers.

use fastrand::Rng;

/// Resamples behind an interval: its ends move by about a hundredth of its width from one run to the next.
const RESAMPLES: usize = 2_000;

/// A median with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// Nothing: the figure is there to compare with.
    None,
    /// No more than this.
    AtMost(f64),
    /// No less than this, from an interval no wider than `resolution`.
    AtLeast { bound: f64, resolution: f64 },
}

/// The judgement of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// There is no goal.
    Unjudged,
    /// The whole interval is on the good side.
    Met,
    /// The whole interval is on the bad side.
    Missed,
    /// The interval is too wide, or the goal lies in it.
    NotResolved,
}

impl Estimate {
    /// The median of `samples` with a percentile bootstrap interval; none for no samples.
    pub(super) fn bootstrap(samples: &[f64], random: &mut Rng) -> Option<Self> {
        let mut sorted = samples.to_vec();
        let median = take_median(&mut sorted)?;
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let mut resample: Vec<f64> =
                    samples.iter().map(|_| samples[random.usize(..samples.len())]).collect();
                take_median(&mut resample)
            })
            .collect();
        medians.sort_unstable_by(f64::total_cmp);
        // 2.5 % of the resamples lie outside on either side.
        let outside = RESAMPLES / 40;
        Some(Self { median, low: medians[outside], high: medians[RESAMPLES - 1 - outside] })
    }
}

impl Goal {
    /// Holds `estimate` against the goal.
    pub(super) fn judge(self, estimate: &Estimate) -> Judgement {
        let (good, bad) = match self {
            Self::None => return Judgement::Unjudged,
            Self::AtMost(bound) => (estimate.high <= bound, estimate.low > bound),
            Self::AtLeast { resolution, .. } if estimate.high - estimate.low > resolution => (false, false),
            Self::AtLeast { bound, .. } => (estimate.low >= bound, estimate.high < bound),
        };
        match (good, bad) {
            (true, _) => Judgement::Met,
            (_, true) => Judgement::Missed,
            (false, false) => Judgement::NotResolved,
        }
    }
}

/// The median of `samples`, which get reordered: the lower of the middle two.
pub(super) fn take_median(samples: &mut [f64]) -> Option<f64> {
    take_quantile(samples, 0.5)
}

/// The sample below which a share of `quantile` lies; `samples` get reordered.
pub(super) fn take_quantile(samples: &mut [f64], quantile: f64) -> Option<f64> {
    let last = samples.len().checked_sub(1)?;
    #[expect(clippy::cast_sign_loss, reason = "a share of a length")]
    let rank = (float(last as u64) * quantile).floor() as usize;
    Some(*samples.select_nth_unstable_by(rank.min(last), f64::total_cmp).1)
}

/// A count as a number to calculate with.
pub(super) fn float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
    let float = count as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(median: f64, half_width: f64) -> Estimate {
        Estimate { median, low: median - half_width, high: median + half_width }
    }

    #[test]
    fn quantiles_are_samples() {
        let mut samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for (quantile, expected) in [(0.0, 0.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(take_quantile(&mut samples, quantile), Some(expected));
        }
        assert_eq!(take_median(&mut []), None);
    }

    #[test]
    fn an_interval_covers_the_true_median_and_narrows() {
        let mut random = Rng::with_seed(1);
        let mut draw = |count: usize| {
            let samples: Vec<f64> = (0..count).map(|_| 1.0 + (random.f64() - 0.5) * 0.2).collect();
            Estimate::bootstrap(&samples, &mut random).unwrap()
        };
        let covered =
            (0..100).map(|_| draw(101)).filter(|found| (found.low..=found.high).contains(&1.0)).count();
        assert!((88..=100).contains(&covered), "{covered} of 100 intervals at 95 %");
        let (few, many) = (draw(100), draw(10_000));
        assert!(many.high - many.low < (few.high - few.low) / 3.0, "{few:?} {many:?}");
    }

    #[test]
    fn a_wide_interval_is_never_passed() {
        let goal = Goal::AtLeast { bound: 0.99, resolution: 0.02 };
        for (found, judgement) in [
            (estimate(1.0, 0.005), Judgement::Met),
            (estimate(1.1, 0.02), Judgement::NotResolved),
            (estimate(0.5, 0.02), Judgement::NotResolved),
            (estimate(0.99, 0.005), Judgement::NotResolved),
            (estimate(0.952, 0.005), Judgement::Missed),
        ] {
            assert_eq!(goal.judge(&found), judgement, "{found:?}");
        }
    }

    #[test]
    fn an_upper_goal_must_lie_outside_the_interval() {
        let goal = Goal::AtMost(100.0);
        assert_eq!(goal.judge(&estimate(90.0, 10.0)), Judgement::Met);
        assert_eq!(goal.judge(&estimate(95.0, 10.0)), Judgement::NotResolved);
        assert_eq!(goal.judge(&estimate(111.0, 10.0)), Judgement::Missed);
        assert_eq!(Goal::None.judge(&estimate(1.0, 0.0)), Judgement::Unjudged);
    }
}
