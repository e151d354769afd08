//! The maps: one trait, a kernel store and a fake, and the writer that runs ordered operations on either.

pub mod adopt;

pub mod apply;
pub mod clients;
pub mod compare;
pub mod fill;
pub mod grace;
pub mod known;
pub mod live;
pub mod memory;
pub mod nowhere;
#[cfg(test)]
mod properties;
pub mod reading;
pub mod render;
pub mod store;

use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;

pub use crate::plan::ops::WordTable;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused a call.
    #[error("{call} on {map}: {source}")]
    Kernel {
        /// What was asked.
        call: &'static str,
        /// Of which map.
        map: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A chunked array or a hash is as large as its layout allows.
    #[error("{map} is full")]
    Full {
        /// Which.
        map: &'static str,
    },
    /// A word outside the chunks that exist, or an entry not found: a defect of the writer.
    #[error("{map} has no element {element}")]
    Missing {
        /// Which map.
        map: &'static str,
        /// Which element.
        element: u64,
    },
    /// The fake store was told to fail here.
    #[error("injected fault")]
    Injected,
    /// The fake store saw a cell given away with counts or ranges of whoever had it before.
    #[error("{map} element {element} still is another service port's")]
    NotCleared {
        /// Which map.
        map: &'static str,
        /// Which element.
        element: u64,
    },
    /// The fake store saw an id, extent or hash element reused before its grace period ended.
    #[error("{map} element {element} reused inside its grace period")]
    ReusedTooEarly {
        /// Which map.
        map: &'static str,
        /// Which element.
        element: u64,
    },
}

/// Word access to the memory-mapped arrays. Every word store is aligned, 64 bits wide and a release: whoever sees
/// it sees everything stored before it.
pub trait Words {
    /// Stores one word. The element's chunk must exist.
    fn store(&mut self, table: WordTable, word: u64, value: u64) -> Result<(), StoreError>;
    /// Loads one word.
    fn load(&self, table: WordTable, word: u64) -> Result<u64, StoreError>;
    /// Words that exist, i.e. chunks times words of a chunk.
    fn words(&self, table: WordTable) -> u64;
    /// Adds a chunk of zeroes at the end.
    fn grow(&mut self, table: WordTable) -> Result<(), StoreError>;
}

/// The hashes. Inserting an existing key replaces its value in one step.
pub trait Hashes {
    /// Inserts or replaces frontends, in order.
    fn insert_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError>;
    /// Deletes frontends, in order; an absent key is not an error.
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), StoreError>;
    /// Every frontend.
    fn frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, StoreError>;
    /// Elements the frontend hash can hold.
    fn frontend_capacity(&self) -> u32;
    /// Replaces the frontend hash by a copy that can hold `capacity` elements, without a moment of absence.
    fn grow_frontends(&mut self, capacity: u32) -> Result<(), StoreError>;
    /// Replaces the frontend hash by a copy that has other values for these keys, which are there, at one instant.
    fn move_frontends(&mut self, entries: &[(FrontendKey, FrontendValue)]) -> Result<(), StoreError>;
    /// Inserts or replaces a node address.
    fn insert_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) -> Result<(), StoreError>;
    /// Deletes a node address; an absent one is not an error.
    fn delete_node_addr(&mut self, addr: Addr) -> Result<(), StoreError>;
    /// Every node address.
    fn node_addrs(&self) -> Result<Vec<(Addr, NodeAddrFlags)>, StoreError>;
    /// Inserts a service range.
    fn insert_cidr(&mut self, key: CidrKey) -> Result<(), StoreError>;
    /// Deletes a service range; an absent one is not an error.
    fn delete_cidr(&mut self, key: CidrKey) -> Result<(), StoreError>;
    /// Every service range.
    fn cidrs(&self) -> Result<Vec<CidrKey>, StoreError>;
    /// Inserts a range of clients.
    fn insert_source(&mut self, key: SourceKey) -> Result<(), StoreError>;
    /// Deletes a range of clients; an absent one is not an error.
    fn delete_source(&mut self, key: SourceKey) -> Result<(), StoreError>;
    /// Every range of clients.
    fn sources(&self) -> Result<Vec<SourceKey>, StoreError>;
}

/// A store of maps.
pub trait MapStore: Words + Hashes {
    /// Returns once every program run that was under way has ended (an RCU grace period).
    fn grace(&mut self) -> Result<(), StoreError>;
}
