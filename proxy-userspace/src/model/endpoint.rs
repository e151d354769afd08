//! `EndpointSlices`, packed.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Family, ObjectName, Protocol};

/// One `EndpointSlice` of a Service; slices of type FQDN never get here.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `hints.forZones`.
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes`.
    pub node_hints: Box<[Arc<str>]>,
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
