//! What a source can say: a closed enum.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{EndpointSlice, Node, Service, ServiceCidr};

/// Namespace and name of an object, as `namespace/name` in one allocation that clones share: every name is held by
/// the source, by the state and by the object itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// From both parts; neither may hold a slash, which the API forbids.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(Arc::from(format!("{namespace}/{name}")))
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A kind of object that a source lists as a whole before anything may be pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listing {
    /// Services.
    Services,
    /// `EndpointSlices`.
    EndpointSlices,
    /// The own Node.
    Node,
    /// ServiceCIDRs.
    ServiceCidrs,
    /// The addresses of the node's own interfaces.
    NodeAddresses,
}

impl Listing {
    /// All of them, in declaration order.
    pub const ALL: [Self; 5] =
        [Self::Services, Self::EndpointSlices, Self::Node, Self::ServiceCidrs, Self::NodeAddresses];
}

/// One change. Large objects are shared: a source keeps what it said last to see what changed, and the state keeps the
/// same allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service came or changed.
    ServiceApplied(Arc<Service>),
    /// A Service went, or is no longer served by a node.
    ServiceDeleted(ObjectName),
    /// A Service is there, but what it says makes no sense: what is known of it stands.
    ServiceKept(ObjectName),
    /// A slice came or changed.
    SliceApplied(Arc<EndpointSlice>),
    /// A slice went.
    SliceDeleted(ObjectName),
    /// A slice is there, but what it says makes no sense: what is known of it stands.
    SliceKept(ObjectName),
    /// The own Node came or changed.
    NodeApplied(Node),
    /// The own Node went.
    NodeDeleted,
    /// The own Node is there, but what it says makes no sense: what is known of it stands.
    NodeKept,
    /// A ServiceCIDR came or changed.
    ServiceCidrApplied(ServiceCidr),
    /// A ServiceCIDR went.
    ServiceCidrDeleted(Box<str>),
    /// A ServiceCIDR is there, but what it says makes no sense: what is known of it stands.
    ServiceCidrKept(Box<str>),
    /// The addresses on the node's own interfaces, all of them.
    NodeAddresses(Vec<IpAddr>),
    /// A listing starts: objects of this kind that are neither applied nor kept until it ends are gone.
    ListStarted(Listing),
    /// A listing ended.
    ListEnded(Listing),
}
