//! Affinity of clients that are known by their address: the table is that of the socket hooks.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use proxy_common::affinity::{AffinityKey, Memory};

use crate::maps::clients::AFFINITY;

/// What is remembered under a key, and not older than `seconds`.
#[inline(always)]
pub fn remembered(key: AffinityKey, seconds: u32) -> Option<Memory> {
    let words = AFFINITY.get(0)?.get_ptr(key)?.cast::<u64>();
    // SAFETY: the map returned a pointer to a live element of two aligned words.
    let memory = Memory::from_words(unsafe { [words.read_volatile(), words.add(1).read_volatile()] });
    if memory.is_fresh(now(), seconds) { Some(memory) } else { None }
}

/// Remembers the row, with its generation, that a client was given.
#[inline(always)]
pub fn remember(key: AffinityKey, (backend, generation): (u32, u32)) {
    let memory = Memory::new(backend, generation, now());
    if let Some(table) = AFFINITY.get(0) {
        // It fails only where the table is being used up at this very moment: the next connection tries again.
        let _ = table.insert(key, memory, 0);
    }
}

/// Nanoseconds of the kernel's monotonic clock, as of its last tick.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}
