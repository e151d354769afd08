//! discovery.k8s.io/v1 EndpointSlice.

use serde::Deserialize;

use super::{Metadata, nullable};

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "nullable")]
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

/// `endpoints[]` of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Only the first counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// Node that it runs on.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// Who should use it.
    #[serde(deserialize_with = "nullable")]
    pub hints: EndpointHints,
}

/// `endpoints[].conditions`, each of which may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Ready for connections.
    pub ready: Option<bool>,
    /// Ready, apart from terminating.
    pub serving: Option<bool>,
    /// On its way out.
    pub terminating: Option<bool>,
}

/// `endpoints[].hints`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointHints {
    /// Zones that should use it.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
    /// Nodes that should use it.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
}

/// One zone or node of a hint.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// `ports[]` of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP` if empty.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// Number; none and zero both mean that the port does not count.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
}
