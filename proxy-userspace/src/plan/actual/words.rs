//! The mirror of one chunked array.

use crate::plan::ops::CHUNK_WORDS;

/// Words in chunks as large as the kernel's; a chunk's memory is touched only where it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct WordArray {
    chunks: Vec<Box<[u64]>>,
}

impl WordArray {
    /// A word; zero where there is none.
    pub(super) fn get(&self, word: u64) -> u64 {
        let offset = (word % CHUNK_WORDS) as usize;
        self.chunks.get((word / CHUNK_WORDS) as usize).map_or(0, |chunk| chunk[offset])
    }

    /// Sets a word; a store has refused those that do not exist.
    pub(super) fn set(&mut self, word: u64, value: u64) {
        let offset = (word % CHUNK_WORDS) as usize;
        // A zero stored over a zero must not touch memory: adoption sets every word there is.
        if let Some(chunk) = self.chunks.get_mut((word / CHUNK_WORDS) as usize)
            && chunk[offset] != value
        {
            chunk[offset] = value;
        }
    }

    /// Adds a chunk of zeroes.
    pub(super) fn grow(&mut self) {
        self.chunks.push(vec![0; CHUNK_WORDS as usize].into());
    }

    /// Words that exist.
    pub(super) fn words(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_WORDS
    }
}
