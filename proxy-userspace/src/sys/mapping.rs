//! A memory-mapped array as words.
#![expect(unsafe_code, reason = "mmap(2) hands out raw memory; bounds are checked at every access")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::Map;

/// The whole of a memory-mapped array, as 64-bit words shared with the kernel.
#[derive(Debug)]
pub struct Mapping {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory is only ever accessed through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `map` for reading and writing. Its value size must be a multiple of eight, so that elements lie without
    /// gaps.
    pub fn new(map: &Map) -> io::Result<Self> {
        let shape = map.shape();
        if !shape.value_size.is_multiple_of(8) || shape.flags & super::map::MMAPABLE == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a memory-mapped array of words"));
        }
        let bytes = shape.value_size as usize * shape.max_entries as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the kernel checks that the map is
        // mappable and that `bytes` does not exceed it (rounded up to a page).
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, map.as_fd().as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { words, len: bytes / 8 })
    }

    /// Words of the array.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the array has no words.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Loads one word; what was stored before it is seen too. `None` past the end.
    pub fn load(&self, word: usize) -> Option<u64> {
        self.word(word).map(|word| word.load(Ordering::Acquire))
    }

    /// Stores one word: whoever sees it sees everything stored before it. `None` past the end.
    pub fn store(&self, word: usize, value: u64) -> Option<()> {
        self.word(word).map(|word| word.store(value, Ordering::Release))
    }

    /// Replaces one word if it is `old` still; whether it was. `None` past the end.
    pub fn replace(&self, word: usize, old: u64, new: u64) -> Option<bool> {
        let done =
            |word: &AtomicU64| word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.word(word).map(done)
    }

    fn word(&self, word: usize) -> Option<&AtomicU64> {
        if word >= self.len {
            return None;
        }
        // SAFETY: the index is below the length, the mapping is page aligned and lives as long as `self`.
        Some(unsafe { self.words.add(word).as_ref() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what `mmap` returned, and no reference outlives `self`.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.len * 8) };
    }
}
