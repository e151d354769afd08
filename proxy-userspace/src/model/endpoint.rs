//! `EndpointSlices`, packed.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Family, ObjectName, Protocol};

/// One `EndpointSlice` of a Service; slices of type FQDN never get here.
///
/// Two slices are equal if they mean the same: when they came to mean it does not count.
#[derive(Clone, Debug, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub name: ObjectName,
    /// Name of the Service (label `kubernetes.io/service-name`), in the same namespace.
    pub service: Box<str>,
    /// `addressType`.
    pub family: Family,
    /// `endpoints`, those with an address that parses.
    pub endpoints: Vec<Endpoint>,
    /// `ports`, those with a name and a number.
    pub ports: Vec<SlicePort>,
    /// When the change that made the slice what it is began, in milliseconds since 1970 (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`); none where the API does not say.
    pub triggered_at: Option<i64>,
}

impl PartialEq for EndpointSlice {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a field that is added must be judged here.
        let Self { name, service, family, endpoints, ports, triggered_at: _ } = self;
        *name == other.name
            && *service == other.service
            && *family == other.family
            && *endpoints == other.endpoints
            && *ports == other.ports
    }
}

/// One endpoint, which may be ready or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub addr: IpAddr,
    /// `nodeName`; none means remote, even where the address is on this node.
    pub node: Option<Arc<str>>,
    /// `conditions.ready`; nil means ready.
    pub ready: bool,
    /// `conditions.serving`; nil means serving.
    pub serving: bool,
    /// `conditions.terminating`; nil means not terminating.
    pub terminating: bool,
    /// `hints`; none where it names neither a zone nor a node.
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant. Apart from [`Endpoint`], of which a large cluster has a million, mostly without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: Box<[Arc<str>]>,
    /// `hints.forNodes`.
    pub nodes: Box<[Arc<str>]>,
}

impl Hints {
    /// The hints, if there are any.
    pub fn boxed(self) -> Option<Box<Self>> {
        (!self.zones.is_empty() || !self.nodes.is_empty()).then(|| Box::new(self))
    }
}

impl Endpoint {
    /// `hints.forZones`.
    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// `hints.forNodes`.
    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name; empty for the only port of a Service.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number, never zero.
    pub port: u16,
}
