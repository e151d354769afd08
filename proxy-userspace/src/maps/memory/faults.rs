//! Faults of the fake store: one effect that fails, a writer that dies, or a share of all effects.

use crate::maps::StoreError;

/// What fails. An effect that fails has not happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    fail_in: Option<u64>,
    die_in: Option<u64>,
    percent: u64,
    seed: u64,
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

    pub(super) fn step(&mut self) -> Result<(), StoreError> {
        if let Some(left) = self.die_in.as_mut() {
            if *left == 0 {
                return Err(StoreError::Injected);
            }
            *left -= 1;
        }
        match self.fail_in.as_mut() {
            Some(0) => {
                self.fail_in = None;
                return Err(StoreError::Injected);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        // Knuth's MMIX generator: its high bits are random enough to choose faults.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (self.seed >> 33) % 100 < self.percent {
            return Err(StoreError::Injected);
        }
        Ok(())
    }
}
