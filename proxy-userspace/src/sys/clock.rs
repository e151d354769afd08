//! The kernel's monotonic clock.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the clock that the programs date by.
pub fn monotonic_now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock starts at zero with the machine, and a second has fewer nanoseconds than a u64.
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
