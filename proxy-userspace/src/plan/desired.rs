//! What one Service should look like in the maps: its service ports, each with identity, frontends, backends and
//! views.
//!
//! Ids are given out later, by `ids` and `diff`.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proxy_common::frontend::FrontendValue;
use proxy_common::names::CHUNK_SLOTS;
use proxy_common::service::{Head, View};
use sha2::{Digest, Sha256};

use super::eligible::{Policies, Scope, choose_eligible, gather_candidates};
use super::frontends::{expand_frontends, has_external_frontend, proto_number};
use super::sources::allowed_sources;
use super::tables::{DesiredPort, OwnerTag};
use crate::model::{EndpointSlice, Family, Node, ObjectName, Service, ServicePort, TrafficPolicy};

/// A Service as planned.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServicePlan {
    /// One for each port in each family with a cluster IP, in the order of [`port_tags`].
    pub ports: Vec<DesiredPort>,
    /// What could not be had as asked for.
    pub warnings: Vec<PlanWarning>,
}

/// Something that was asked for and that the maps cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanWarning {
    /// More endpoints are eligible than a view has slots; the rest gets no new connections.
    ViewFull {
        /// Label of the service port.
        label: Arc<str>,
        /// The view.
        view: View,
        /// Eligible endpoints without a slot.
        left_out: u32,
    },
}

impl PlanWarning {
    /// Label of the service port.
    pub fn label(&self) -> &str {
        match self {
            Self::ViewFull { label, .. } => label,
        }
    }
}

impl fmt::Display for PlanWarning {
    /// What it is, without the label.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ViewFull { view, left_out, .. } => {
                write!(
                    out,
                    "the {view:?} view holds {CHUNK_SLOTS} endpoints, {left_out} more get no connections"
                )
            }
        }
    }
}

/// Plans a Service on the own node.
///
/// `slices` are the slices that name the Service, in any order; those of a family without a cluster IP play no
/// part.
pub fn desired_ports<S: Borrow<EndpointSlice>>(service: &Service, slices: &[S], node: &Node) -> ServicePlan {
    let mut plan = ServicePlan { ports: Vec::with_capacity(service.count_ports()), warnings: Vec::new() };
    let mut candidates = Vec::new();
    for (port, cluster_ip) in each_port(service) {
        let family = Family::of(cluster_ip);
        gather_candidates(&mut candidates, slices.iter().map(Borrow::borrow), Scope { port, family, node });
        let external = has_external_frontend(service, port, family).then_some(service.external_policy);
        let eligible = choose_eligible(&candidates, Policies { internal: service.internal_policy, external });
        let label = port_label(&service.name, port, family);
        let frontends = expand_frontends(service, port, cluster_ip);
        let is_checked = frontends.iter().any(|it| it.flags & FrontendValue::CHECK_SOURCE != 0);
        let full = View::ALL.into_iter().zip(eligible.left_out).filter(|(_, left_out)| *left_out > 0);
        plan.warnings.extend(full.map(|(view, left_out)| {
            let label = Arc::clone(&label);
            PlanWarning::ViewFull { label, view, left_out }
        }));
        plan.ports.push(DesiredPort {
            tag: port_tag(&service.name, port, family),
            label,
            affinity_seconds: service.affinity_seconds.unwrap_or(0).min(Head::MAX_AFFINITY),
            frontends,
            sources: if is_checked { allowed_sources(service, family, node) } else { Box::default() },
            backends: eligible.backends,
            views: eligible.views,
            keeps_source: external == Some(TrafficPolicy::Local),
        });
    }
    plan
}

/// The identities of a Service's ports, without planning them: what a deletion takes away.
pub fn port_tags(service: &Service) -> Vec<OwnerTag> {
    each_port(service).map(|(port, ip)| port_tag(&service.name, port, Family::of(ip))).collect()
}

/// The identity of one service port of one family.
///
/// It is stored in pinned maps and must be the same in every version and on every machine: the first eight bytes,
/// little-endian, of SHA-256 over `namespace/name`, port name, protocol number and address bits, each ended by a
/// zero byte, which no name holds. A cryptographic hash, since whoever may create Services chooses the names, and
/// must not be able to choose those that take over the cell of a Service of somebody else.
pub fn port_tag(service: &ObjectName, port: &ServicePort, family: Family) -> OwnerTag {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let digest = Sha256::new()
        .chain_update(service.as_str())
        .chain_update([0])
        .chain_update(&*port.name)
        .chain_update([0, proto_number(port.protocol).0, 0, bits, 0])
        .finalize();
    let first = digest.iter().take(8).rev().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
    // Zero marks a free cell.
    OwnerTag(first.max(1))
}

/// The name of a service port in logs: `default/web:http/tcp`, or `default/web:80/udp6` for a port without a name
/// in the IPv6 family.
pub fn port_label(service: &ObjectName, port: &ServicePort, family: Family) -> Arc<str> {
    let proto = proto_number(port.protocol);
    let suffix = match family {
        Family::V4 => "",
        Family::V6 => "6",
    };
    if port.name.is_empty() {
        format!("{service}:{}/{proto}{suffix}", port.port).into()
    } else {
        format!("{service}:{}/{proto}{suffix}", port.name).into()
    }
}

fn each_port(service: &Service) -> impl Iterator<Item = (&ServicePort, IpAddr)> {
    service.ports.iter().flat_map(|port| service.cluster_ips.iter().map(move |ip| (port, *ip)))
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
