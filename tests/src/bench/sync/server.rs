//! Who serves the objects: a real API server, or the stand-in where etcd would be the bottleneck.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use hyper::Request;
use serde_json::{Value, json};

use super::world::{self, NAMESPACE, service, slice, unreachable};
use crate::apiserver::{ApiServer, NODES, SERVICE_CIDRS, SERVICES, SLICES};
use crate::cluster::{Api, ControlPlane};
use crate::topology::Node;

/// Requests under way at the same time.
const AT_ONCE: usize = 64;
/// Requests of one call: it has a time limit.
const BATCH: usize = 200;

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

/// The name of service `index`; those that wait come after the others.
pub(super) fn name(index: usize) -> String {
    format!("s{index:06}")
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
                    server.put(SERVICES, service(&name(index), Some(world::cluster_ip(index))));
                    server.put(SLICES, slice(&name(index), &endpoints(index)));
                }
                Ok((size.services..all).map(world::cluster_ip).collect())
            }
            Self::Real(control) => {
                let api = control.api()?;
                for node in nodes {
                    api.create_node(node, None)?;
                }
                let services = (0..all).map(|index| (path("services"), service(&name(index), None)));
                let made = send(api, &services.collect::<Vec<_>>())?;
                let slices = (0..all).map(|index| (slices(), slice(&name(index), &endpoints(index))));
                send(api, &slices.collect::<Vec<_>>())?;
                let ips: HashMap<&str, &str> = made
                    .iter()
                    .filter_map(|made| {
                        Some((made["metadata"]["name"].as_str()?, made["spec"]["clusterIP"].as_str()?))
                    })
                    .collect();
                let ip =
                    |index| ips.get(&*name(index)).and_then(|ip| ip.parse().ok()).context("a cluster IP");
                (size.services..all).map(ip).collect()
            }
        }
    }

    /// Gives service `index` these endpoints.
    pub(super) fn point(&self, index: usize, endpoints: &[IpAddr]) -> Result<()> {
        match self {
            Self::StandIn(server) => server.put(SLICES, slice(&name(index), endpoints)),
            Self::Real(control) => {
                let api = control.api()?;
                let put = Request::put(format!("{}/{}", slices(), name(index)));
                let body = slice(&name(index), endpoints).to_string().into_bytes();
                let request = put.header("content-type", "application/json").body(body)?;
                let client = api.client();
                let _: Value = api.run(async move { client.request(request).await })??;
            }
        }
        Ok(())
    }
}

fn path(plural: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{plural}")
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

/// Creates objects, many at a time; what the server made of them, in no order.
fn send(api: &Api, objects: &[(String, Value)]) -> Result<Vec<Value>> {
    let mut made = Vec::with_capacity(objects.len());
    for batch in objects.chunks(BATCH) {
        let (client, batch) = (api.client(), batch.to_vec());
        let count = batch.len();
        let requests = futures_util::stream::iter(batch).map(move |(path, object)| {
            let client = client.clone();
            async move {
                let post = Request::post(path).header("content-type", "application/json");
                let request = post.body(object.to_string().into_bytes())?;
                anyhow::Ok(client.request::<Value>(request).await?)
            }
        });
        let answers = api.run(requests.buffer_unordered(AT_ONCE).collect::<Vec<_>>())?;
        made.extend(answers.into_iter().collect::<Result<Vec<_>>>()?);
        ensure!(made.len() >= count, "every object was made");
    }
    Ok(made)
}
