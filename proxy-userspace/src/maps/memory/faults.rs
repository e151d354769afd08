//! Faults of the fake store: one effect that fails, a writer that dies, or a share of all effects.

use crate::maps::StoreError;

/// What fails. An effect that fails has not happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    fail_in: Option<u64>,
    die_in: Option<u64>,
    percent: u64,
    seed: u64,
    injected: u64,
}

impl Faults {
    /// The effect after `effects` more fails, once.
    pub fn fail_after(effects: u64) -> Self {
        Self { fail_in: Some(effects), ..Self::default() }
    }

    /// The writer dies after `effects` more: nothing happens any more.
    pub fn die_after(effects: u64) -> Self {
        Self { die_in: Some(effects), ..Self::default() }
    }

    /// Of a hundred effects about `percent` fail; which ones follows from `seed`.
    pub fn share(percent: u64, seed: u64) -> Self {
        Self { percent, seed, ..Self::default() }
    }

    /// How many effects have failed.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    pub(super) fn step(&mut self) -> Result<(), StoreError> {
        if self.is_fault() {
            self.injected += 1;
            return Err(StoreError::Injected);
        }
        Ok(())
    }

    fn is_fault(&mut self) -> bool {
        match self.die_in.as_mut() {
            Some(0) => return true,
            Some(left) => *left -= 1,
            None => {}
        }
        match self.fail_in.as_mut() {
            Some(0) => {
                self.fail_in = None;
                return true;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        // Knuth's MMIX generator: its high bits are random enough to choose faults.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % 100 < self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::Faults;

    fn injected(mut faults: Faults, effects: u64) -> u64 {
        for _ in 0..effects {
            // What fails is counted.
            let _ = faults.step();
        }
        faults.injected()
    }

    #[test]
    fn faults_are_as_many_as_asked_for() {
        assert_eq!(injected(Faults::default(), 1000), 0);
        assert_eq!(injected(Faults::fail_after(10), 1000), 1);
        assert_eq!(injected(Faults::die_after(10), 1000), 990);
        for seed in 0..20 {
            let share = injected(Faults::share(10, seed), 10_000);
            assert!((800..1200).contains(&share), "{share} of 10 000 with seed {seed}");
        }
    }
}
