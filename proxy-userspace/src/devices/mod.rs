//! Which devices the packet path is attached to.

mod named;

pub use named::named;

use std::net::{Ipv4Addr, Ipv6Addr};

/// A device whose packets pass through the programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hooked {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is the host end of a pod's pair of devices, or a bridge of such.
    pub leads_to_pods: bool,
    /// Source of IPv4 packets that need another.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
}
