//! The API objects as far as a node reads them, for JSON and YAML alike.
//!
//! Every field is optional and every unknown field is ignored: an object that the API server accepts must decode, so
//! that what is wrong with it can be reported by field. Addresses stay text for the same reason. `null` means absent,
//! as it does in the API. Nothing is checked here; `convert` does that.

mod node;
mod service;
mod slice;

pub use node::{Node, NodeAddress, NodeSpec, NodeStatus, ServiceCidr, ServiceCidrSpec, Taint};
pub use service::{
    ClientIpConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
pub use slice::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Hint};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

/// `null` and absent are the same.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(decoder: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(decoder)?.unwrap_or_default())
}

/// True for a key that is there, whatever its value: the two labels that hide an object are tested for presence only.
fn present<'de, D: Deserializer<'de>>(decoder: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(decoder).map(|IgnoredAny| true)
}

/// True for a key with a value; `null` is none.
fn given<'de, D: Deserializer<'de>>(decoder: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(decoder)?.is_some())
}

/// What tells one object from another before it is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TypeMeta {
    /// Group and version.
    #[serde(deserialize_with = "nullable")]
    pub api_version: String,
    /// Kind.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
}

/// The objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
    /// v1 List.
    List,
}

impl Kind {
    /// As the API spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::List => "List",
        }
    }

    /// Its group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Node | Self::List => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ServiceCidr => "networking.k8s.io/v1",
        }
    }
}

impl TypeMeta {
    /// Which of the objects that are read this is, if any.
    pub fn known(&self) -> Option<Kind> {
        match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "Service") => Some(Kind::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Kind::EndpointSlice),
            ("v1", "Node") => Some(Kind::Node),
            ("networking.k8s.io/v1", "ServiceCIDR") => Some(Kind::ServiceCidr),
            ("v1", "List") => Some(Kind::List),
            _ => None,
        }
    }
}

/// `metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Namespace; empty for objects that have none.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: Annotations,
    /// Where a watch goes on after this object; empty in manifests.
    #[serde(rename = "resourceVersion", deserialize_with = "nullable")]
    pub resource_version: String,
    /// Whether it is being deleted.
    #[serde(rename = "deletionTimestamp", deserialize_with = "given")]
    pub is_deleting: bool,
}

/// The annotations that matter; the others are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// When the change that led to a slice began, as RFC 3339.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time", deserialize_with = "nullable")]
    pub trigger_time: String,
}

/// The labels that matter; the others are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// The Service of a slice.
    #[serde(rename = "kubernetes.io/service-name", deserialize_with = "nullable")]
    pub service_name: String,
    /// A Service that another proxy serves.
    #[serde(rename = "service.kubernetes.io/service-proxy-name", deserialize_with = "present")]
    pub has_proxy_name: bool,
    /// A slice of a headless Service.
    #[serde(rename = "service.kubernetes.io/headless", deserialize_with = "present")]
    pub is_headless: bool,
    /// Zone of a Node.
    #[serde(rename = "topology.kubernetes.io/zone", deserialize_with = "nullable")]
    pub zone: String,
}
