//! Map names, the schema version and the shape of the chunked arrays.

/// Version of every layout in this crate; part of the pin directory's name (`<pin-dir>/v<SCHEMA>`). It goes up
/// when an agent of one version cannot read the maps of the other.
pub const SCHEMA: u32 = 6;

/// Version of what is remembered of open sockets ([`TCP_PEERS`], [`TCP_SOCKETS`]); part of their directory's name
/// (`<pin-dir>/sockets<VERSION>`). They have their own, because nobody can write a record anew for a socket that is
/// open: it stays when [`SCHEMA`] changes.
pub const SOCKETS_VERSION: u32 = 2;

/// Version of the records of flows ([`FLOWS`], [`OPENING`], [`PLACES`], [`FRAGMENTS`], [`MARKS`]); part of their directory's name
/// (`<pin-dir>/flows<VERSION>`). They have their own for the same reason: a connection through a NodePort outlives an upgrade.
pub const FLOWS_VERSION: u32 = 4;

/// Bytes of one chunk of a chunked array. One memory-mapped kernel array is one chunk.
pub const CHUNK_BYTES: u32 = 512 * 1024;

/// Elements of the `FRONTENDS` hash of a fresh node; it grows by swapping in a larger one.
pub const FRONTENDS_INITIAL: u32 = 4096;

/// A chunked array: an array of memory-mapped arrays. An element's index splits into chunk and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    /// Map name in the object and in the pin directory.
    pub name: &'static str,
    /// Bytes of an element, a multiple of eight.
    pub element_bytes: u32,
    /// Chunks at most: the size of the outer array.
    pub max_chunks: u32,
}

impl Chunked {
    /// Elements of one chunk; a power of two.
    #[inline(always)]
    pub const fn chunk_elements(&self) -> u32 {
        CHUNK_BYTES / self.element_bytes
    }

    /// Chunk of element `index`.
    #[inline(always)]
    pub const fn chunk(&self, index: u32) -> u32 {
        index / self.chunk_elements()
    }

    /// Offset of element `index` within its chunk.
    #[inline(always)]
    pub const fn offset(&self, index: u32) -> u32 {
        index % self.chunk_elements()
    }

    /// Elements at most.
    #[inline(always)]
    pub const fn capacity(&self) -> u64 {
        self.max_chunks as u64 * self.chunk_elements() as u64
    }
}

/// Service cells; element = [`crate::service`] cell.
pub const SERVICES: Chunked = Chunked { name: "SERVICES", element_bytes: 64, max_chunks: 128 };
/// Slot cells; element = two `u32` backend ids, so that no half of an eight-byte element is wasted. Slot `n` is
/// half `n % 2` of element `n / 2`.
pub const SLOTS: Chunked = Chunked { name: "SLOTS", element_bytes: 8, max_chunks: 512 };
/// Backend rows; element = [`crate::backend::Backend`].
pub const BACKENDS: Chunked = Chunked { name: "BACKENDS", element_bytes: 32, max_chunks: 512 };
/// Counters; element = one `u64`, see [`crate::counter`].
pub const COUNTERS: Chunked = Chunked { name: "COUNTERS", element_bytes: 8, max_chunks: 256 };

/// Blocks of owned VIPs; element = [`crate::owned`] block.
pub const OWNED: Chunked = Chunked { name: "OWNED", element_bytes: 32, max_chunks: 256 };

/// Slots of one chunk; an extent never spans two.
pub const CHUNK_SLOTS: u32 = SLOTS.chunk_elements() * 2;

/// Frontends, behind a one-entry array of maps.
pub const FRONTENDS: &str = "FRONTENDS";
/// The node's own addresses.
pub const NODE_ADDRS: &str = "NODE_ADDRS";
/// ServiceCIDR ranges.
pub const CIDRS: &str = "CIDRS";
/// Ranges of `loadBalancerSourceRanges`, see [`crate::source`].
pub const SOURCES: &str = "SOURCES";
/// Bits of owned address ranges, see [`crate::filter`].
pub const FILTER: &str = "FILTER";
/// Records of TCP sockets whose connect was translated, see [`crate::socket`].
pub const TCP_PEERS: &str = "TCP_PEERS";
/// Socket storage of those that found no place there.
pub const TCP_SOCKETS: &str = "TCP_SOCKETS";

/// What UDP sockets were given, see [`crate::udp`].
pub const UDP_SOCKETS: &str = "UDP_SOCKETS";

/// The registry of network namespaces, see [`crate::registry`].
pub const NETNS: &str = "NETNS";
/// What hooks report, a ring that each load has anew.
pub const EVENTS: &str = "EVENTS";
/// What clients were given by services with session affinity, behind a one-entry array of maps; see [`crate::affinity`].
pub const AFFINITY: &str = "AFFINITY";
/// One word: whether the egress guard is in force.
pub const GUARD: &str = "GUARD";

/// Network namespaces of one node at most.
pub const NETNS_MAX: u32 = 4_096;
/// Bytes of the ring of events, a power of two and of pages.
pub const EVENTS_BYTES: u32 = 64 * 1024;
/// Elements of `AFFINITY` on a fresh node; it grows by swapping in a larger one.
pub const AFFINITY_INITIAL: u32 = 4096;
/// Addresses of one node at most.
pub const NODE_ADDRS_MAX: u32 = 4096;
/// ServiceCIDR ranges at most.
pub const CIDRS_MAX: u32 = 1024;
/// Ranges of all service ports together at most.
pub const SOURCES_MAX: u32 = 65_536;

/// Records of flows that found their places ([`PLACES`]) taken, and of IPv6; see [`crate::flow`]. Its size is set at the load.
pub const FLOWS: &str = "FLOWS";
/// Flows that began while too many others were opening, until they are settled: what was used least makes room.
pub const OPENING: &str = "OPENING";
/// Records at the places that their keys give, see [`crate::place`].
pub const PLACES: &str = "PLACES";
/// What became of the first fragments of datagrams.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Marks of flows by hash, see [`crate::mark`].
pub const MARKS: &str = "MARKS";
/// Devices whose packets pass through the programs, by index; see [`crate::nat::Device`].
pub const DEVICES: &str = "DEVICES";
/// One value: what the packet path is told, see [`crate::nat::Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Ranges of addresses that count as inside the cluster; the value is [`INSIDE_POD`].
pub const INSIDE: &str = "INSIDE";
/// What programs have found at devices that keeps packets from going past the stack, see [`crate::shortcut::Look`].
pub const LOOKS: &str = "LOOKS";
/// Programs that go on where others have begun. Each load has its own, which must be held open or pinned: the kernel empties
/// it when the last descriptor or pin goes, whoever runs them.
pub const SLOW: &str = "SLOW";

/// The programs of [`SLOW`], in the order of their indices.
pub const SLOW_PROGRAMS: [&str; 10] = [
    "shunt_begin",
    "shunt_reserve",
    "shunt_refuse",
    "shunt_error_arrives",
    "shunt_error_leaves",
    "shunt_part_arrives",
    "shunt_part_leaves",
    "shunt_request_passes",
    "shunt_reply_passes",
    "shunt_direct",
];

/// Elements of [`DEVICES`] at most.
pub const DEVICES_MAX: u32 = 4_096;
/// Ranges of [`INSIDE`] at most.
pub const INSIDE_MAX: u32 = 1_024;
/// Value of a range of [`INSIDE`]: whoever sends from it is a pod.
pub const INSIDE_POD: u32 = 1;
/// Elements of [`FLOWS`] where nobody says otherwise.
pub const FLOWS_MAX: u32 = 524_288;
/// Elements of [`OPENING`].
pub const OPENING_MAX: u32 = 65_536;
/// Elements of [`FRAGMENTS`].
pub const FRAGMENTS_MAX: u32 = 8_192;
