//! How long a record lives without packets: as long as nf_conntrack keeps its own, whose sysctls the agent reads.

use crate::addr::Proto;
use crate::flow::Flow;

/// Seconds that records live, by what was last seen of the flow.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP that nobody has answered (`nf_conntrack_tcp_timeout_syn_sent`).
    pub tcp_opening: u32,
    /// TCP that is open (`..._established`).
    pub tcp_open: u32,
    /// TCP that one side has finished, or reset (`..._time_wait`).
    pub tcp_finished: u32,
    /// TCP that was reset before it was open (`..._close`).
    pub tcp_reset: u32,
    /// UDP (`nf_conntrack_udp_timeout`).
    pub udp: u32,
    /// UDP with datagrams both ways, and more of them (`..._udp_timeout_stream`).
    pub udp_stream: u32,
    /// SCTP (`..._sctp_timeout_established`).
    pub sctp: u32,
}

impl Timeouts {
    /// What the kernel comes with.
    pub const KERNEL: Self = Self {
        tcp_opening: 120,
        tcp_open: 432_000,
        tcp_finished: 120,
        tcp_reset: 10,
        udp: 30,
        udp_stream: 120,
        sctp: 210,
    };

    /// Seconds that a record of this protocol lives.
    #[inline(always)]
    pub const fn of(&self, proto: Proto, flow: &Flow) -> u32 {
        match proto {
            // Connection tracking checks that an RST is within the window, and then keeps its record for a moment only. Here
            // nobody knows: a forged one is not to cost an open connection that pauses.
            Proto::TCP if flow.has(Flow::RESET) && !flow.has(Flow::SETTLED) => self.tcp_reset,
            Proto::TCP if flow.has(Flow::FINISHED | Flow::ENDED | Flow::RESET) => self.tcp_finished,
            Proto::TCP if flow.has(Flow::SETTLED) => self.tcp_open,
            Proto::TCP => self.tcp_opening,
            Proto::UDP if flow.has(Flow::SETTLED) => self.udp_stream,
            Proto::UDP => self.udp,
            _ => self.sctp,
        }
    }
}

/// Whether a record counts still. The clocks of two CPUs may differ: one from just ahead does.
#[inline(always)]
pub const fn is_alive(flow: &Flow, proto: Proto, timeouts: &Timeouts, now: u64) -> bool {
    now.saturating_sub(flow.used) <= timeouts.of(proto, flow) as u64 * 1_000_000_000
}
