//! A histogram with fixed bounds.

/// Counts of observations by upper bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One for each bound, and one for what is above all; not cumulative.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram; `bounds` rise.
    pub fn new(bounds: Vec<f64>) -> Self {
        let counts = vec![0; bounds.len() + 1];
        Self { bounds, counts, sum: 0.0 }
    }

    /// Counts `value`; a bound includes itself.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
            self.sum += value;
        }
    }

    /// Observations at or below each bound; the last one, at infinity, is all of them.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut all = 0;
        bounds
            .zip(&self.counts)
            .map(|(bound, count)| {
                all += count;
                (bound, all)
            })
            .collect()
    }

    /// Sum of the observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_includes_itself_and_counts_add_up() {
        let mut histogram = Histogram::new(vec![0.25, 1.0]);
        for value in [0.0, 0.25, 0.5, 1.0, 7.5] {
            histogram.observe(value);
        }
        assert_eq!(histogram.cumulative(), [(0.25, 2), (1.0, 4), (f64::INFINITY, 5)]);
        assert!((histogram.sum() - 9.25).abs() < 1e-9);
    }
}
