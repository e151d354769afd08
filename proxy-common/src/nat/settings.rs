//! What the agent tells the packet path.

use super::{Ports, Timeouts};
use crate::addr::Addr;
#[cfg(doc)]
use crate::lb::Pick;

/// The one value of `SETTINGS`.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long records live.
    pub timeouts: Timeouts,
    /// Ports set aside.
    pub ports: Ports,
    /// Flows that may begin on one CPU in a second, which is 2^30 ns here.
    pub flows_per_second: u32,
    /// Refusals that one CPU sends in a second at most (RST, ICMP unreachable); beyond that packets are dropped.
    pub refusals_per_second: u32,
    /// Flows that may be opening in the main table; while there are more, others begin apart.
    pub open_at_once: u32,
    /// [`Settings::MASQUERADES`] and [`Settings::HAS_MASQUERADED`].
    pub masquerades: u32,
}

impl Settings {
    /// What begins through a frontend gets an address of the node as its source also towards pods of this node, but where the backend
    /// is to see its client ([`Pick::KEEPS_SOURCE`]). kube-proxy's `masqueradeAll`.
    pub const MASQUERADES: u32 = 1;
    /// There may be flows that began so.
    pub const HAS_MASQUERADED: u32 = 2;

    /// The value of `masquerades` for an agent that wishes for it or not, after what was there `before`.
    #[inline(always)]
    pub const fn masquerading(is_wished: bool, before: u32) -> u32 {
        if is_wished { Self::MASQUERADES | Self::HAS_MASQUERADED } else { before & Self::HAS_MASQUERADED }
    }
}

/// Value of `DEVICES`, whose key is the index of a device.
#[repr(C)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What IPv4 packets get as source that need another, or the unspecified address.
    pub v4: Addr,
    /// The same for IPv6.
    pub v6: Addr,
    /// Not zero: the device leads to pods of this node.
    pub leads_to_pods: u32,
    /// Not zero: packets may go past the stack from it or to it, see [`crate::shortcut`].
    pub shortens: u32,
}
