//! Which devices the packet path is attached to, what they are told of, and whose packets count as inside.
//!
//! [`choose`] decides from facts and knows no kernel; [`Follower`] gathers the facts by netlink and sends the whole list
//! whenever it changes. Attaching is for `datapath`.

mod choose;
#[cfg(test)]
mod choose_tests;
mod facts;
mod follow;
mod inside;
mod read;
mod selection;
mod sources;

pub use choose::{Choice, Chosen, choose};
pub use facts::{Address, DefaultRoute, Facts, Kind, Link};
pub use follow::{DevicesError, Follower, look};
pub use inside::inside;
pub use selection::{Pattern, Selection, SelectionError};

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
    /// Whether its packets begin with their IP header, without an Ethernet frame, as those of WireGuard do.
    pub is_bare: bool,
    /// Whether packets may go past the stack between it and another: one with Ethernet frames that is no port of another device;
    /// of pods, one end of a pair.
    pub shortens: bool,
    /// Source of IPv4 packets that need another.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
}
