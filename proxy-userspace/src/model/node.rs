//! The own Node, and the ranges that cluster IPs come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The own Node, as far as it changes what is served.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// Name, as endpoints name it.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`; a node without one ignores zone hints.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of types InternalIP and ExternalIP, InternalIP first.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A ServiceCIDR: an address in it that no Service holds must not leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Name of the object.
    pub name: Box<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}
