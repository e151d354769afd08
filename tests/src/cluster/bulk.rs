//! Many objects at a time: numbered Services without selectors, each with one slice, written by many requests at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use hyper::Request;
use serde_json::{Value, json};

use super::api::Api;

/// Port of every service.
pub const PORT: u16 = 80;
/// Port of every endpoint.
pub const BACKEND_PORT: u16 = 8080;
/// The namespace of all.
pub const NAMESPACE: &str = "default";

/// Requests under way at the same time.
const AT_ONCE: usize = 64;
/// Requests of one call: it has a time limit.
const BATCH: usize = 200;

/// The name of service `index`, and of its slice.
pub fn name(index: usize) -> String {
    format!("s{index:06}")
}

/// A service without a selector; `cluster_ip` is for a server that gives out none itself.
pub fn service(name: &str, cluster_ip: Option<IpAddr>) -> Value {
    let mut spec = json!({ "ports": [{ "port": PORT, "targetPort": BACKEND_PORT, "protocol": "TCP" }] });
    if let Some(ip) = cluster_ip {
        spec["clusterIP"] = ip.to_string().into();
        spec["clusterIPs"] = json!([ip]);
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": NAMESPACE, "name": name }, "spec": spec,
    })
}

/// The slice of a service.
pub fn slice(name: &str, endpoints: &[IpAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true }, "nodeName": "node-9" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4", "ports": [{ "name": "", "port": BACKEND_PORT, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// Endpoints of service `index` that no host has.
pub fn unreachable(index: usize, count: usize) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 0));
    let offset = index * count;
    (offset..offset + count).map(|number| Ipv4Addr::from(first + number as u32).into()).collect()
}

impl Api {
    /// Creates these services and their slices; their cluster IPs.
    pub fn create_services(
        &self,
        numbers: Range<usize>,
        endpoints: impl Fn(usize) -> Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>> {
        let services = numbers.clone().map(|index| post(services(), &service(&name(index), None)));
        let made = self.send_all(services.collect::<Result<_>>()?)?;
        let slices = numbers.clone().map(|index| post(slices(), &slice(&name(index), &endpoints(index))));
        self.send_all(slices.collect::<Result<_>>()?)?;
        let ips: HashMap<&str, &str> = made
            .iter()
            .filter_map(|made| {
                Some((made["metadata"]["name"].as_str()?, made["spec"]["clusterIP"].as_str()?))
            })
            .collect();
        let ip = |index| ips.get(&*name(index)).and_then(|ip| ip.parse().ok()).context("a cluster IP");
        numbers.map(ip).collect()
    }

    /// Gives these services other endpoints.
    pub fn point_services(
        &self,
        numbers: impl Iterator<Item = usize>,
        endpoints: impl Fn(usize) -> Vec<IpAddr>,
    ) -> Result<()> {
        let put = |index| {
            let put = Request::put(format!("{}/{}", slices(), name(index)));
            with_body(put, &slice(&name(index), &endpoints(index)))
        };
        self.send_all(numbers.map(put).collect::<Result<_>>()?).map(drop)
    }

    /// Deletes these services, and their slices.
    pub fn delete_services(&self, numbers: impl Iterator<Item = usize>) -> Result<()> {
        let mut requests = Vec::new();
        for index in numbers {
            for collection in [services(), slices()] {
                requests.push(Request::delete(format!("{collection}/{}", name(index))).body(Vec::new())?);
            }
        }
        self.send_all(requests).map(drop)
    }

    /// Makes requests, many at a time; what the server answered, in no order.
    pub fn send_all(&self, requests: Vec<Request<Vec<u8>>>) -> Result<Vec<Value>> {
        let count = requests.len();
        let mut answers = Vec::with_capacity(count);
        let mut requests = requests.into_iter();
        while answers.len() < count {
            let (client, batch) = (self.client(), requests.by_ref().take(BATCH).collect::<Vec<_>>());
            ensure!(!batch.is_empty(), "{} answers to {count} requests", answers.len());
            let sent = futures_util::stream::iter(batch).map(move |request| {
                let client = client.clone();
                async move { anyhow::Ok(client.request::<Value>(request).await?) }
            });
            let batch = self.run(sent.buffer_unordered(AT_ONCE).collect::<Vec<_>>())?;
            answers.extend(batch.into_iter().collect::<Result<Vec<_>>>()?);
        }
        Ok(answers)
    }
}

fn post(path: String, object: &Value) -> Result<Request<Vec<u8>>> {
    with_body(Request::post(path), object)
}

fn with_body(request: hyper::http::request::Builder, object: &Value) -> Result<Request<Vec<u8>>> {
    Ok(request.header("content-type", "application/json").body(object.to_string().into_bytes())?)
}

fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}
