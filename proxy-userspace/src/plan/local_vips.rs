//! Cluster IPs that are addresses of the node's own interfaces too. Whoever put them there answers for them (NodeLocal
//! DNSCache holds that of the cluster's DNS), so they are left alone for as long as they are there, unless the user says
//! otherwise (`--serve-local-vips`). External IPs and load balancers' IPs are no matter of this: as with kube-proxy they
//! win over what the node itself has at their port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proxy_common::frontend::FrontendKind;

use super::desired::ServicePlan;
use crate::model::ObjectName;

/// A cluster IP that is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeftAlone {
    /// The address.
    pub address: IpAddr,
    /// Label of the first service port that goes without.
    pub label: Arc<str>,
}

/// What is left alone, and where that can be.
#[derive(Clone, Debug, Default)]
pub struct LocalVips {
    are_served: bool,
    /// Addresses on the node's interfaces that a Service could have.
    addresses: BTreeSet<IpAddr>,
    left_alone: BTreeMap<ObjectName, Vec<LeftAlone>>,
}

impl LocalVips {
    /// Nothing is known yet; `are_served`: nothing is ever left alone.
    pub fn new(are_served: bool) -> Self {
        Self { are_served, ..Self::default() }
    }

    /// The node has these addresses now. Services with a cluster IP among those that are returned must be planned again.
    ///
    /// Loopback and link-local addresses are none that a Service can have, and the latter come and go with every pod.
    pub fn observe(&mut self, addresses: &[IpAddr]) -> BTreeSet<IpAddr> {
        if self.are_served {
            return BTreeSet::new();
        }
        let is_link_local = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let now: BTreeSet<IpAddr> =
            addresses.iter().copied().filter(|ip| !ip.is_loopback() && !is_link_local(*ip)).collect();
        let changed = self.addresses.symmetric_difference(&now).copied().collect();
        self.addresses = now;
        changed
    }

    /// Takes from the plan of a Service what is to be left alone: its cluster IP as a frontend, and as an address whose
    /// other ports are refused. Its other frontends stay.
    pub fn withhold(&mut self, service: &ObjectName, plan: &mut ServicePlan) {
        let mut left_alone: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
        for port in &mut plan.ports {
            let label = &port.label;
            port.frontends.retain(|frontend| {
                let is_vip = matches!(frontend.kind, FrontendKind::ClusterIp | FrontendKind::OwnedVip);
                let address = frontend.key.addr.to_ip();
                let is_left = is_vip && self.addresses.contains(&address);
                if is_left {
                    left_alone.entry(address).or_insert_with(|| Arc::clone(label));
                }
                !is_left
            });
        }
        if left_alone.is_empty() {
            self.left_alone.remove(service);
        } else {
            let left = left_alone.into_iter().map(|(address, label)| LeftAlone { address, label });
            self.left_alone.insert(service.clone(), left.collect());
        }
    }

    /// A Service is gone.
    pub fn forget(&mut self, service: &ObjectName) {
        self.left_alone.remove(service);
    }

    /// All that is left alone, by Service.
    pub fn left_alone(&self) -> impl Iterator<Item = &LeftAlone> {
        self.left_alone.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Node, Protocol, Service, ServicePort, TrafficPolicy};
    use crate::plan::desired::desired_ports;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn dns() -> Service {
        let port = |name: &str, protocol| ServicePort {
            name: name.into(),
            protocol,
            port: 53,
            node_port: Some(30_053),
        };
        Service {
            name: ObjectName::new("kube-system", "dns"),
            cluster_ips: vec![ip("10.96.0.10"), ip("fd00::10")],
            external_ips: vec![ip("192.0.2.1"), ip("192.0.2.2")],
            load_balancer_ips: vec![ip("2001:db8::1")],
            source_ranges: Vec::new(),
            ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
        }
    }

    /// The frontends that are planned, by address and kind.
    fn planned(vips: &mut LocalVips) -> BTreeSet<String> {
        let service = dns();
        let mut plan = desired_ports(&service, &[] as &[crate::model::EndpointSlice], &Node::default());
        vips.withhold(&service.name, &mut plan);
        let frontends = plan.ports.iter().flat_map(|port| &port.frontends);
        frontends.map(|one| format!("{} {:?}", one.key.addr.to_ip(), one.kind)).collect()
    }

    fn said(vips: &LocalVips) -> Vec<String> {
        vips.left_alone().map(|one| format!("{} {}", one.address, one.label)).collect()
    }

    #[test]
    fn a_cluster_ip_on_an_interface_is_left_alone_and_nothing_else_is() {
        let mut vips = LocalVips::new(false);
        let all = planned(&mut vips);
        assert_eq!((all.len(), said(&vips).len()), (9, 0));
        // The external IP is on an interface as well.
        assert_eq!(vips.observe(&[ip("10.96.0.10"), ip("192.0.2.1")]).len(), 2);
        let left: Vec<String> = all.difference(&planned(&mut vips)).cloned().collect();
        assert_eq!(left, ["10.96.0.10 ClusterIp", "10.96.0.10 OwnedVip"]);
        assert_eq!(said(&vips), ["10.96.0.10 kube-system/dns:dns/udp"], "once for all ports");
        vips.observe(&[ip("10.96.0.10"), ip("fd00::10")]);
        let left: Vec<String> = all.difference(&planned(&mut vips)).cloned().collect();
        assert_eq!(left.len(), 4);
        assert_eq!(said(&vips)[1], "fd00::10 kube-system/dns:dns/udp6");
        vips.observe(&[]);
        assert_eq!((planned(&mut vips), said(&vips)), (all, vec![]));
    }

    #[test]
    fn what_changed_is_told_and_what_no_service_can_have_is_no_change() {
        let mut vips = LocalVips::new(false);
        assert!(vips.observe(&["127.0.0.1", "::1", "fe80::1", "169.254.1.1"].map(ip)).is_empty());
        assert_eq!(vips.observe(&[ip("10.96.0.10")]), [ip("10.96.0.10")].into());
        assert!(vips.observe(&[ip("10.96.0.10"), ip("fe80::2")]).is_empty());
        assert_eq!(vips.observe(&[ip("192.0.2.9")]), [ip("10.96.0.10"), ip("192.0.2.9")].into());
    }

    #[test]
    fn the_flag_leaves_nothing_alone() {
        let mut vips = LocalVips::new(true);
        assert!(vips.observe(&[ip("10.96.0.10")]).is_empty());
        assert_eq!((planned(&mut vips).len(), said(&vips).len()), (9, 0));
    }

    #[test]
    fn a_service_that_is_gone_is_not_told_of() {
        let mut vips = LocalVips::new(false);
        vips.observe(&[ip("10.96.0.10")]);
        planned(&mut vips);
        vips.forget(&dns().name);
        assert_eq!(said(&vips).len(), 0);
    }
}
