//! API objects that tests write: kinds, names, and the nodes and pods that no kubelet reports.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::{ApiResource, GroupVersionKind};
use serde_json::{Map, Value, json};

use super::api::Api;
use crate::topology::Node;
use crate::wait;

/// Limit within which a controller does what it is there for.
const CONTROLLER: Duration = Duration::from_secs(20);

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind<'a> {
    /// As in a manifest: `v1`, `discovery.k8s.io/v1`.
    pub api_version: &'a str,
    /// As in a manifest.
    pub name: &'a str,
}

/// Namespace.
pub const NAMESPACE: Kind<'static> = Kind { api_version: "v1", name: "Namespace" };
/// Node.
pub const NODE: Kind<'static> = Kind { api_version: "v1", name: "Node" };
/// Pod.
pub const POD: Kind<'static> = Kind { api_version: "v1", name: "Pod" };
/// Service.
pub const SERVICE: Kind<'static> = Kind { api_version: "v1", name: "Service" };
/// ServiceAccount.
pub const SERVICE_ACCOUNT: Kind<'static> = Kind { api_version: "v1", name: "ServiceAccount" };
/// ConfigMap.
pub const CONFIG_MAP: Kind<'static> = Kind { api_version: "v1", name: "ConfigMap" };
/// DaemonSet.
pub const DAEMON_SET: Kind<'static> = Kind { api_version: "apps/v1", name: "DaemonSet" };
/// EndpointSlice.
pub const SLICE: Kind<'static> = Kind { api_version: "discovery.k8s.io/v1", name: "EndpointSlice" };

impl Kind<'_> {
    pub(super) fn resource(self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.name))
    }
}

/// What names an object.
#[derive(Clone, Copy, Debug)]
pub struct Ref<'a> {
    /// Its kind.
    pub kind: Kind<'a>,
    /// Its namespace; none for what lives outside of them.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

impl fmt::Display for Ref<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind.name, self.namespace.unwrap_or_default(), self.name)
    }
}

/// A pod that is to be.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its namespace, which exists.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The node that it is bound to.
    pub node: &'a str,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Its addresses, the first of which is the one that old clients see.
    pub ips: &'a [IpAddr],
}

impl Pod<'_> {
    /// The pod's name among objects.
    pub fn reference(&self) -> Ref<'_> {
        Ref { kind: POD, namespace: Some(self.namespace), name: self.name }
    }
}

/// A Service with a selector, and one TCP port.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// Its namespace, which exists.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Labels of its pods.
    pub selector: &'a [(&'a str, &'a str)],
    /// The port of its frontends.
    pub port: u16,
    /// The port of its pods.
    pub target_port: u16,
}

impl Service<'_> {
    /// Its name among objects.
    pub fn reference(&self) -> Ref<'_> {
        Ref { kind: SERVICE, namespace: Some(self.namespace), name: self.name }
    }
}

impl Api {
    /// Creates a namespace, and waits until pods may be created in it.
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        self.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))?;
        let account = Ref { kind: SERVICE_ACCOUNT, namespace: Some(name), name: "default" };
        wait::until(CONTROLLER, &format!("{account}"), || self.get(&account)).map(drop)
    }

    /// Creates the Node object of `node`, ready, in `zone` if one is given.
    pub fn create_node(&self, node: &Node, zone: Option<&str>) -> Result<()> {
        let addresses = node.addresses().map(|ip| json!({ "type": "InternalIP", "address": ip }));
        let mut labels = json!({ "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux" });
        if let Some(zone) = zone {
            labels["topology.kubernetes.io/zone"] = zone.into();
        }
        let [first, _] = node.pod_ranges();
        self.create(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name, "labels": labels },
            "spec": { "podCIDR": first, "podCIDRs": node.pod_ranges() },
        }))?;
        let status = json!({
            "addresses": addresses,
            // Topology hints share out endpoints by the processors of a zone.
            "allocatable": { "cpu": "2" },
            "capacity": { "cpu": "2" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        self.patch_status(&Ref { kind: NODE, namespace: None, name: &node.name }, &status).map(drop)
    }

    /// Creates a pod and reports it as running and ready, as the kubelet of its node would.
    pub fn run_pod(&self, pod: &Pod<'_>) -> Result<()> {
        self.create(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": pod.namespace, "name": pod.name, "labels": map(pod.labels) },
            "spec": {
                "nodeName": pod.node,
                "automountServiceAccountToken": false,
                "containers": [{ "name": "main", "image": "none" }],
            },
        }))?;
        let first = pod.ips.first().context("a running pod has an address")?;
        let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({ "phase": "Running", "podIP": first, "podIPs": ips, "conditions": ready(true) });
        self.patch_status(&pod.reference(), &status).map(drop)
    }

    /// Reports a pod as ready, or as not ready.
    pub fn set_ready(&self, pod: &Ref<'_>, is_ready: bool) -> Result<()> {
        self.patch_status(pod, &json!({ "conditions": ready(is_ready) })).map(drop)
    }

    /// Creates a dual-stack Service of type ClusterIP; the cluster IPs that it was given, IPv4 first.
    pub fn create_service(&self, service: &Service<'_>) -> Result<Vec<IpAddr>> {
        let made = self.create(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "namespace": service.namespace, "name": service.name },
            "spec": {
                "selector": map(service.selector),
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{ "port": service.port, "targetPort": service.target_port, "protocol": "TCP" }],
            },
        }))?;
        serde_json::from_value(made["spec"]["clusterIPs"].clone()).context("the Service has no cluster IPs")
    }

    /// The slices of a Service that the controllers keep.
    pub fn slices(&self, service: &Ref<'_>) -> Result<Vec<Value>> {
        self.list(SLICE, service.namespace, &format!("kubernetes.io/service-name={}", service.name))
    }

    /// Waits until the slices of a Service list exactly these addresses as ready.
    pub fn wait_ready_endpoints(&self, service: &Ref<'_>, addresses: &[IpAddr]) -> Result<()> {
        let mut wanted = addresses.to_vec();
        wanted.sort();
        wait::until_ok(CONTROLLER, &format!("the endpoints of {service}"), || {
            let slices = self.slices(service).map_err(|error| format!("{error:#}"))?;
            let seen = ready_addresses(&slices);
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?}, not {wanted:?}")) }
        })
    }
}

/// The addresses of the ready endpoints in `slices`, in order.
pub fn ready_addresses(slices: &[Value]) -> Vec<IpAddr> {
    let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let addresses = ready.filter_map(|endpoint| endpoint["addresses"].as_array()).flatten();
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    addresses.sort();
    addresses
}

fn ready(is_ready: bool) -> Value {
    json!([{ "type": "Ready", "status": if is_ready { "True" } else { "False" } }])
}

fn map(pairs: &[(&str, &str)]) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>())
}
