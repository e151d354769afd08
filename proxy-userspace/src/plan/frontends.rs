//! Which addresses and ports a service port is reached by, in the form of the `FRONTENDS` keys.
//!
//! Every kind is expanded, also kinds that no hook serves yet. Two Services that claim one key are none of this
//! module's business: `diff` sees them both.

use std::net::IpAddr;

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};

use super::tables::DesiredFrontend;
use crate::model::{Family, Protocol, Service, ServicePort};

/// Expands one port of a Service in the family of `cluster_ip`: every frontend, sorted by key, no key twice.
///
/// Where one address is of several kinds, the cluster IP wins over a load balancer's IP, and that over an external
/// IP: the first is the Service's own, and the second may be bound by source ranges, which the last must not evade.
/// The cluster IP alone is owned as a whole, so that its unserved ports are refused; the other ports of an external
/// address may well be those of a host.
pub fn expand_frontends(service: &Service, port: &ServicePort, cluster_ip: IpAddr) -> Vec<DesiredFrontend> {
    let (family, own) = (Family::of(cluster_ip), Addr::from(cluster_ip));
    let (number, proto) = (Port::new(port.port), proto_number(port.protocol));
    let at = |ip: IpAddr| FrontendKey::new(ip.into(), number, proto);
    let of_family = |ip: &&IpAddr| Family::of(**ip) == family;

    let count = 3 + service.load_balancer_ips.len() + service.external_ips.len();
    let mut frontends = Vec::with_capacity(count);
    let mut add = |key, kind, flags| frontends.push(DesiredFrontend { key, kind, flags });
    add(at(cluster_ip), FrontendKind::ClusterIp, 0);
    add(FrontendKey::owned_vip(own), FrontendKind::OwnedVip, 0);
    if let Some(number) = port.node_port {
        add(FrontendKey::node_port(own, Port::new(number), proto), FrontendKind::NodePort, 0);
    }
    let flags = if restricts_sources(service, family) { FrontendValue::CHECK_SOURCE } else { 0 };
    for ip in service.load_balancer_ips.iter().filter(of_family) {
        add(at(*ip), FrontendKind::LoadBalancer, flags);
    }
    for ip in service.external_ips.iter().filter(of_family) {
        add(at(*ip), FrontendKind::ExternalIp, 0);
    }
    // Stable, so that of equal keys the first one added stays.
    frontends.sort_by_key(|frontend| frontend.key);
    frontends.dedup_by_key(|frontend| frontend.key);
    frontends
}

/// Whether a service port has any frontend besides the cluster IP in `family`: what externalTrafficPolicy governs.
pub fn has_external_frontend(service: &Service, port: &ServicePort, family: Family) -> bool {
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    port.node_port.is_some()
        || service.load_balancer_ips.iter().any(of_family)
        || service.external_ips.iter().any(of_family)
}

/// Whether `loadBalancerSourceRanges` bind the load balancer's IPs of `family`.
///
/// A family without a range of its own is unrestricted, and so is one with a range of prefix length zero.
pub fn restricts_sources(service: &Service, family: Family) -> bool {
    let mut ranges = service.source_ranges.iter().filter(|net| Family::of_net(net) == family).peekable();
    ranges.peek().is_some() && ranges.all(|net| net.prefix_len() != 0)
}

/// The number of a protocol in keys.
pub const fn proto_number(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::TCP,
        Protocol::Udp => Proto::UDP,
        Protocol::Sctp => Proto::SCTP,
    }
}

#[cfg(test)]
#[path = "frontends_tests.rs"]
mod tests;
