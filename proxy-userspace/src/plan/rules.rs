//! What the writer goes by: how large tables may get, and how long ids rest.

use proxy_common::names;

use super::quarantine::{Millis, QUARANTINE};

/// How much each table may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Service ports.
    pub cells: u32,
    /// Rows.
    pub rows: u32,
    /// Slots.
    pub slots: u32,
    /// Frontends.
    pub frontends: u32,
    /// Blocks of owned VIPs.
    pub blocks: u32,
    /// Node addresses.
    pub node_addrs: u32,
    /// Service ranges.
    pub cidrs: u32,
    /// Ranges of clients, of all service ports.
    pub sources: u32,
}

impl Limits {
    /// What the layouts of this schema can hold at most.
    pub const LAYOUT: Self = Self {
        cells: names::SERVICES.capacity() as u32 - 1,
        rows: names::BACKENDS.capacity() as u32 - 1,
        slots: names::SLOTS.capacity() as u32 * 2,
        frontends: 1 << 23,
        blocks: names::OWNED.capacity() as u32 - 1,
        node_addrs: names::NODE_ADDRS_MAX,
        cidrs: names::CIDRS_MAX,
        sources: names::SOURCES_MAX,
    };
}

/// A Service has no more frontends than this, but for a few.
const MOVES_IN_PLACE: u32 = 8;

/// What a planner goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How much each table may hold.
    pub limits: Limits,
    /// Shards of the counters, see [`proxy_common::counter::shards`].
    pub shards: u32,
    /// Frontends that move to another cell one by one, each at the cost of a grace period; more move at once, see
    /// [`MapOp::MoveFrontends`](super::ops::MapOp).
    pub moves_in_place: u32,
    /// How long an id rests after its last use; shorter than [`QUARANTINE`] only in control runs.
    pub quarantine: Millis,
}

impl Rules {
    /// The rules of a node whose counters have `shards` shards.
    pub const fn for_shards(shards: u32) -> Self {
        Self { limits: Limits::LAYOUT, shards, moves_in_place: MOVES_IN_PLACE, quarantine: QUARANTINE }
    }
}
