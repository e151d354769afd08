//! Which address a packet gets that leaves by a device with another source than its own.
//!
//! It is the one that the kernel takes for the node's own packets there. `inet_select_addr` (net/ipv4/devinet.c) takes the
//! first address of the device that is not secondary and not for the link alone, and where there is none that of another
//! device; a route's preferred source goes before. IPv6 (RFC 6724, `ipv6_dev_get_saddr`) passes over those that are
//! deprecated or tentative. What the kernel decides by each destination is decided here once for a device: an address in
//! the network of the gateway is not looked for, and temporary addresses of IPv6 are left out, since flows outlive them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::facts::{Address, Facts, Kind};

/// The source of IPv4 packets, and of IPv6 packets, that leave by this link.
pub(super) fn sources(facts: &Facts, index: u32) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let v4 = match source(facts, index, true) {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    let v6 = match source(facts, index, false) {
        Some(IpAddr::V6(ip)) => Some(ip),
        _ => None,
    };
    (v4, v6)
}

/// The device's own, that of the default route, that of its device, that of the loopback device (nodes whose links have no
/// addresses have their own there), and last that of any link by which packets of others arrive, as the kernel does.
fn source(facts: &Facts, index: u32, is_v4: bool) -> Option<IpAddr> {
    let own = |index| first(facts.node_addresses(index), is_v4);
    let route = facts.default_routes.iter().find(|route| route.is_v4 == is_v4);
    let loopback = || facts.links.iter().find(|link| link.kind == Kind::Loopback);
    own(index)
        .or_else(|| route?.preferred_source)
        .or_else(|| own(route?.index))
        .or_else(|| own(loopback()?.index))
        .or_else(|| facts.links.iter().filter(|link| link.carries_packets()).find_map(|link| own(link.index)))
}

fn first<'a>(mut addresses: impl Iterator<Item = &'a Address>, is_v4: bool) -> Option<IpAddr> {
    let is_fit =
        |address: &&Address| address.ip.is_ipv4() == is_v4 && !address.is_secondary && !address.is_unfit;
    addresses.find(is_fit).map(|address| address.ip)
}
