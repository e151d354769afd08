//! Why something is not served.

/// Why a connection was refused or left to time out; also the row of its counter.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// No usable endpoint anywhere: rejected.
    NoEndpoints = 0,
    /// An owned VIP does not serve this port: rejected.
    UnknownPort = 1,
    /// Policy Local, and no endpoint on this node: times out.
    NoLocalEndpoints = 2,
    /// An address of a ServiceCIDR that no Service holds: times out.
    UnassignedAddress = 3,
    /// The tables contradict each other, which is a defect of the writer: rejected, and counted so that it shows.
    Inconsistent = 4,
    /// There was no memory to remember what a UDP socket was given, and its replies would have come from a stranger:
    /// refused.
    NoRecord = 5,
    /// `loadBalancerSourceRanges` do not hold the client's address: times out.
    SourceNotAllowed = 6,
    /// A flow of the packet path found no room for its records: dropped.
    FlowTableFull = 7,
    /// All ports that were tried are taken towards this backend: dropped.
    NoPort = 8,
    /// The device has no address that could be the source of what leaves to another node: dropped.
    NoAddress = 9,
    /// More flows begin than the node takes: dropped.
    Flood = 10,
    /// SCTP to a backend on another port, whose checksum covers the ports: dropped.
    SctpPort = 11,
    /// A part of a datagram for an owned address, of which the first part never came: dropped.
    LostFragment = 12,
    /// A packet was to be refused, and too many have been in this second: dropped in silence.
    RefusalLimit = 13,
    /// A packet could not be changed, since it is cut short or there was no memory: dropped.
    Unchangeable = 14,
}

impl DropReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 15] = [
        Self::NoEndpoints,
        Self::UnknownPort,
        Self::NoLocalEndpoints,
        Self::UnassignedAddress,
        Self::Inconsistent,
        Self::NoRecord,
        Self::SourceNotAllowed,
        Self::FlowTableFull,
        Self::NoPort,
        Self::NoAddress,
        Self::Flood,
        Self::SctpPort,
        Self::LostFragment,
        Self::RefusalLimit,
        Self::Unchangeable,
    ];

    /// The name in `shunt dump counters` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::UnknownPort => "unknown-port",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::UnassignedAddress => "unassigned-address",
            Self::Inconsistent => "inconsistent",
            Self::NoRecord => "no-record",
            Self::SourceNotAllowed => "source-not-allowed",
            Self::FlowTableFull => "flow-table-full",
            Self::NoPort => "no-port",
            Self::NoAddress => "no-address",
            Self::Flood => "flood",
            Self::SctpPort => "sctp-port",
            Self::LostFragment => "lost-fragment",
            Self::RefusalLimit => "refusal-limit",
            Self::Unchangeable => "unchangeable",
        }
    }
}
