//! Places of records as the agent sees them: in shared memory, while programs write there.

use std::io;

use proxy_common::flow::{Flow, FlowKey};
use proxy_common::place::{self, FLAGS, OWNER, Owner, PLACES, VALUE, WORDS};

use crate::sys::map::Map;
use crate::sys::mapping::Mapping;

/// The map of places.
#[derive(Debug)]
pub struct Places(Mapping);

/// A record where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the place.
    pub at: u32,
    /// Whose it is.
    pub owner: Owner,
    /// The record; programs may have been writing to it just then.
    pub flow: Flow,
}

impl Found {
    /// The record's key.
    pub const fn key(&self) -> FlowKey {
        self.owner.key()
    }
}

impl Places {
    /// Maps them into memory.
    pub fn new(map: &Map) -> io::Result<Self> {
        let mapping = Mapping::new(map)?;
        if mapping.len() != PLACES as usize * WORDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a table of places"));
        }
        Ok(Self(mapping))
    }

    /// All records, in the order of their places. One that comes or goes meanwhile is there or not.
    pub fn records(&self) -> impl Iterator<Item = Found> {
        (0..PLACES).filter_map(|at| self.read(at))
    }

    fn read(&self, at: u32) -> Option<Found> {
        let word = |index: usize| self.0.load(at as usize * WORDS + index);
        let owner = Owner::of(word(0)?, word(OWNER)?)?;
        let mut value = [0; FLAGS - VALUE];
        for (index, value) in (VALUE..).zip(&mut value) {
            *value = word(index)?;
        }
        Some(Found { at, owner, flow: place::flow(value, word(FLAGS)? as u16) })
    }

    /// Frees the place of a record, which nobody uses again in this round; false: it is not there any more.
    pub fn free(&self, found: &Found, round: u32) -> bool {
        let word = found.at as usize * WORDS + OWNER;
        self.0.replace(word, found.owner.lives(), place::freed(round)).unwrap_or_default()
    }
}
