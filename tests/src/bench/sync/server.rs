//! Who serves the objects: a real API server, or the stand-in where etcd would be the bottleneck.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use serde_json::json;

use crate::apiserver::{ApiServer, NODES, SERVICE_CIDRS, SERVICES, SLICES};
use crate::cluster::ControlPlane;
use crate::cluster::bulk::{name, service, slice, unreachable};
use crate::topology::Node;

/// A server of objects.
pub(super) enum Server<'a> {
    Real(&'a ControlPlane),
    StandIn(ApiServer),
}

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) services: usize,
    pub(super) endpoints: usize,
    /// Services that get their endpoint later.
    pub(super) waiting: usize,
}

impl Server<'_> {
    /// Puts all objects there; the cluster IPs of the services that wait.
    pub(super) fn fill(&self, size: Size, nodes: &[Node]) -> Result<Vec<IpAddr>> {
        let endpoints =
            |index| if index < size.services { unreachable(index, size.endpoints) } else { Vec::new() };
        let all = size.services + size.waiting;
        match self {
            Self::StandIn(server) => {
                for node in nodes {
                    server.put(NODES, json!({ "metadata": { "name": node.name } }));
                }
                let cidr = json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.96.0.0/12"] } });
                server.put(SERVICE_CIDRS, cidr);
                for index in 0..all {
                    server.put(SERVICES, service(&name(index), Some(cluster_ip(index))));
                    server.put(SLICES, slice(&name(index), &endpoints(index)));
                }
                Ok((size.services..all).map(cluster_ip).collect())
            }
            Self::Real(control) => {
                let api = control.api()?;
                for node in nodes {
                    api.create_node(node, None)?;
                }
                let made = api.create_services(0..all, endpoints)?;
                Ok(made[size.services..].to_vec())
            }
        }
    }

    /// Gives service `index` these endpoints.
    pub(super) fn point(&self, index: usize, endpoints: &[IpAddr]) -> Result<()> {
        match self {
            Self::StandIn(server) => server.put(SLICES, slice(&name(index), endpoints)),
            Self::Real(control) => {
                control.api()?.point_services(std::iter::once(index), |_| endpoints.to_vec())?;
            }
        }
        Ok(())
    }
}

/// The cluster IP of service `index` where the server gives out none.
fn cluster_ip(index: usize) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + index as u32).into()
}
