//! The own Node, and the ranges that cluster IPs come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The own Node, as far as it changes what is served, and whether load balancers may choose it.
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
    /// Whether it is on its way out (KEP-3836): it is being deleted, the cluster autoscaler has marked it, or it was
    /// there and is gone. Load balancers are not to choose it; what it serves stays as it is.
    pub is_leaving: bool,
}

/// A ServiceCIDR: an address in it that no Service holds must not leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Name of the object.
    pub name: Box<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}
