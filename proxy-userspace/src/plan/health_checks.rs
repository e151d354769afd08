//! Who asks for a health check of its own (`healthCheckNodePort`), where it is to be answered, and with which count: for
//! the balancer of a Service of type LoadBalancer with external policy Local, which is to choose nodes that have an
//! endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::desired::port_tag;
use super::tables::OwnerTag;
use crate::model::{EndpointSlice, Family, Node, ObjectName, Service};

/// One socket that answers for one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// The Service.
    pub service: ObjectName,
    /// Where.
    pub address: SocketAddr,
}

/// Every socket that there should be, with the number of local endpoints that it tells.
pub type Listeners = BTreeMap<Listener, usize>;

/// What one Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    port: u16,
    /// Families that it has a cluster IP of.
    families: Vec<FamilyCheck>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FamilyCheck {
    family: Family,
    /// Its service ports.
    tags: Vec<OwnerTag>,
    /// Addresses of ready endpoints on this node.
    local: usize,
}

/// What brings the sockets that are open to those that there should be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Moves {
    /// To be closed first: who comes may want the address of who goes.
    pub close: Vec<Listener>,
    /// To be opened.
    pub open: Vec<Listener>,
    /// Wanted, and one too many.
    pub left_out: Vec<Listener>,
}

/// What `service` asks for, if anything. `slices` are those that name it.
///
/// As with kube-proxy each family counts its own endpoints, on whatever port: an address counts once, and only while it is
/// ready, also where terminating endpoints carry the traffic.
pub fn health_check(service: &Service, slices: &[&EndpointSlice], node: &Node) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    if service.ports.is_empty() {
        return None;
    }
    let families = service.cluster_ips.iter().map(|ip| {
        let family = Family::of(*ip);
        let tags = service.ports.iter().map(|port| port_tag(&service.name, port, family)).collect();
        FamilyCheck { family, tags, local: ready_local(slices, family, node).len() }
    });
    Some(HealthCheck { port, families: families.collect() })
}

fn ready_local(slices: &[&EndpointSlice], family: Family, node: &Node) -> BTreeSet<IpAddr> {
    let is_local = |name: Option<&str>| !node.name.is_empty() && name == Some(&*node.name);
    slices
        .iter()
        .filter(|slice| slice.family == family && !slice.ports.is_empty())
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && is_local(endpoint.node.as_deref()))
        .map(|endpoint| endpoint.addr)
        .collect()
}

/// The sockets that `checks` come to. `addresses` are those that answer, the unspecified one of a family for all of it;
/// `is_held` says whether the maps hold a service port: a node that has no room for one is not to be chosen.
pub fn listeners(
    checks: &BTreeMap<ObjectName, HealthCheck>,
    addresses: &[IpAddr],
    is_held: impl Fn(OwnerTag) -> bool,
) -> Listeners {
    let mut listeners = Listeners::new();
    for (service, check) in checks {
        for FamilyCheck { family, tags, local } in &check.families {
            let count = if tags.iter().all(|tag| is_held(*tag)) { *local } else { 0 };
            let of_family = addresses.iter().filter(|ip| Family::of(**ip) == *family);
            listeners.extend(of_family.map(|ip| {
                let address = SocketAddr::new(*ip, check.port);
                (Listener { service: service.clone(), address }, count)
            }));
        }
    }
    listeners
}

/// What brings the `open` sockets to `wanted`, of which `room` may be open at a time. Those that are open stay; of the
/// others the first by name have the room.
pub fn moves<'a>(wanted: &Listeners, open: impl IntoIterator<Item = &'a Listener>, room: usize) -> Moves {
    let open: BTreeSet<&Listener> = open.into_iter().collect();
    let close: Vec<Listener> =
        open.iter().filter(|one| !wanted.contains_key(**one)).map(|one| (*one).clone()).collect();
    let mut missing: Vec<Listener> = wanted.keys().filter(|one| !open.contains(one)).cloned().collect();
    let left = room.saturating_sub(open.len() - close.len());
    let left_out = missing.split_off(left.min(missing.len()));
    Moves { close, open: missing, left_out }
}

#[cfg(test)]
#[path = "health_checks_tests.rs"]
mod tests;
