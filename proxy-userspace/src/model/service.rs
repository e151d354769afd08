//! Services, as far as a node needs to know them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ObjectName;

/// An address family. Each family of a Service is served by itself (kube-proxy runs one proxier for each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a range.
    pub const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// Protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// internalTrafficPolicy or externalTrafficPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TrafficPolicy {
    /// All usable endpoints.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// A Service that has at least one cluster IP: headless, ExternalName and not yet allocated ones are deletions
/// to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `spec.clusterIPs`: at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`, of families that have a cluster IP.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode nil or VIP, of families that have a cluster IP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, both families mixed.
    pub source_ranges: Vec<IpNet>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// Timeout in seconds if `spec.sessionAffinity` is ClientIP.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`: governs cluster IPs only.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: governs NodePorts, load-balancer IPs and external IPs only.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, for type LoadBalancer with external policy Local.
    pub health_check_node_port: Option<u16>,
}

impl Service {
    /// Its service ports: one for each port in each family.
    pub fn count_ports(&self) -> usize {
        self.ports.len() * self.cluster_ips.len()
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for the only port of a Service. Endpoints are matched by it and by the protocol, never by number.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// `port`, never zero.
    pub port: u16,
    /// `nodePort`, if the API holds one and the type serves it.
    pub node_port: Option<u16>,
}
