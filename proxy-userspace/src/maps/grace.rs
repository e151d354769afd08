//! A grace period: afterwards no program runs that had begun before.

use std::io;

use crate::sys::map::{Map, Shape};

/// What is waited by. An update of an array of maps waits for all running programs, which is the grace period that we
/// need and the only way to ask for one that works for every kernel configuration.
#[derive(Debug)]
pub struct Grace {
    outer: Map,
    inner: Map,
}

impl Grace {
    /// Makes the array.
    pub fn new() -> io::Result<Self> {
        let inner = Map::create("GRACE_INNER", &Shape::mapped_array(8, 1))?;
        let outer = Map::create_outer("GRACE", &Shape::array_of_maps(1), &inner)?;
        Ok(Self { outer, inner })
    }

    /// Waits.
    pub fn wait(&self) -> io::Result<()> {
        self.outer.set_inner(0, &self.inner)
    }
}
