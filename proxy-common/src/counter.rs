//! Counters: rows of two counters, each kept once per CPU shard, in the `COUNTERS` chunked array.

/// What is counted per service.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceCounter {
    /// Connections and flows given a backend.
    Picked = 0,
    /// Connections and flows rejected or dropped.
    Refused = 1,
}

/// What is counted of sockets, for the whole node.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketCounter {
    /// A UDP socket talks to more frontends than it has places for pairs, and lost one.
    PairReplaced = 0,
}

impl SocketCounter {
    /// All, in the order of their elements.
    pub const ALL: [Self; 1] = [Self::PairReplaced];

    /// The name in `shunt dump counters` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PairReplaced => "udp-pair-replaced",
        }
    }
}

/// Counters of a row.
pub const ROW_COUNTERS: u32 = 2;
/// Rows set aside for [`crate::reason::DropReason`]; the row of service `n` comes `n` after them.
pub const REASON_ROWS: u32 = 32;
/// Greatest number of shards; a node with more CPUs shares them.
pub const MAX_SHARDS: u32 = 8;

/// Shards for a node of `cpus` processors: a power of two, so that a CPU's shard is a mask.
pub const fn shards(cpus: u32) -> u32 {
    if cpus >= MAX_SHARDS {
        MAX_SHARDS
    } else if cpus == 0 {
        1
    } else {
        cpus.next_power_of_two()
    }
}

/// Element of a service's counter.
#[inline(always)]
pub const fn service_element(service: u32, counter: ServiceCounter, shards: u32, shard: u32) -> u32 {
    ((REASON_ROWS + service) * ROW_COUNTERS + counter as u32) * shards + shard
}

/// Element of a socket counter: they come after the counters of the reasons, in the rows set aside for both.
#[inline(always)]
pub const fn socket_element(counter: SocketCounter, shards: u32, shard: u32) -> u32 {
    (REASON_ROWS + counter as u32) * shards + shard
}

/// Element of a drop reason's counter.
#[inline(always)]
pub const fn reason_element(reason: u8, shards: u32, shard: u32) -> u32 {
    reason as u32 * shards + shard
}
