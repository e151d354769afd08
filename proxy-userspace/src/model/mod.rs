//! The nouns: what Kubernetes says, in packed form and already checked. No serde, no clocks, no I/O.
//!
//! `source::convert` makes these from API objects; whatever it could not make sense of was reported there by
//! object and field, so everything here is valid by construction.

mod endpoint;
mod event;
mod node;
mod service;

pub use endpoint::{Endpoint, EndpointSlice, Hints, SlicePort};
pub use event::{Event, Listing, ObjectName};
pub use node::{Node, ServiceCidr};
pub use service::{Family, Protocol, Service, ServicePort, TrafficPolicy};
