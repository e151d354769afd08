//! Which clients `loadBalancerSourceRanges` let in.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::node::CidrKey;

use super::node::covering_keys;
use crate::model::{Family, Node, Service};

/// The ranges whose clients may use the load balancer's IPs of `family`, sorted, none inside another. They bind only
/// where [`restricts_sources`](super::frontends::restricts_sources) says so.
///
/// Some balancers have their IP on each node too: what a node sends there comes from that very IP. So where a range holds
/// an address of this node, the IPs themselves are let in.
pub fn allowed_sources(service: &Service, family: Family, node: &Node) -> Box<[CidrKey]> {
    let ranges = service.source_ranges.iter().filter(|net| Family::of_net(net) == family);
    let mut nets: Vec<IpNet> = ranges.map(IpNet::trunc).collect();
    if node.addresses.iter().any(|own| nets.iter().any(|net| net.contains(own))) {
        let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
        nets.extend(service.load_balancer_ips.iter().filter(of_family).map(|ip| IpNet::from(*ip)));
    }
    covering_keys(nets).into()
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
