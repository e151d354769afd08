//! Meaning: API objects become model objects, purely.
//!
//! Nothing panics and nothing is lost silently. What cannot be used becomes a [`Warning`] that names object and field,
//! and is skipped at the smallest sensible unit: an endpoint, a port, an address; the whole object only if nothing of
//! it could be served. Which objects a node serves at all follows kube-proxy.

mod address;
mod intern;
mod node;
mod service;
mod slice;
#[cfg(test)]
mod tests;

pub use address::{parse_ip, parse_net};
pub use intern::Interner;
pub use node::{node, service_cidr};
pub use service::service;
pub use slice::slice;

use std::fmt::Display;

use super::api::{Kind, Metadata};
use super::{Subject, Warning};
use crate::model::{ObjectName, Protocol};

/// What an object means to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T, Name = ObjectName> {
    /// It is served like this.
    Served(T),
    /// It is not for this node: whatever it was before is to be deleted.
    Unserved(Name, Unserved),
    /// It makes no sense: a warning says why, and whatever it was before stands.
    Rejected,
}

/// What an object means, and what of it was skipped.
pub type Converted<T, Name = ObjectName> = (Outcome<T, Name>, Vec<Warning>);

/// Why an object is not for this node. All but the last two are the normal life of an object, and not warned about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// Another proxy serves the Service (label `service.kubernetes.io/service-proxy-name`).
    OtherProxy,
    /// `type: ExternalName`: a matter of DNS.
    ExternalName,
    /// `clusterIP: None`, or a slice of such a Service (label `service.kubernetes.io/headless`).
    Headless,
    /// The API server has not allocated a cluster IP yet.
    NoClusterIp,
    /// A slice that names no Service.
    NoService,
    /// A slice of names instead of addresses.
    Fqdn,
}

/// The warnings of one object.
#[derive(Debug)]
struct Report {
    subject: Subject,
    warnings: Vec<Warning>,
}

impl Report {
    /// For an object that may turn out to have no name.
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let subject = Subject { kind, namespace: namespace.into(), name: name.into() };
        Self { subject, warnings: Vec::new() }
    }

    fn warn(&mut self, field: impl Into<String>, problem: impl Display) {
        self.warnings.push(self.subject.warning(field.into(), problem.to_string()));
    }
}

/// Name of an object in a namespace. Without one it is in `default`, as for everyone who applies a manifest without
/// saying more; objects of an API server always have one.
fn object_name(metadata: &Metadata, kind: Kind) -> (Option<ObjectName>, Report) {
    let namespace = if metadata.namespace.is_empty() { "default" } else { &metadata.namespace };
    let mut report = Report::new(kind, namespace, &metadata.name);
    let is_named = is_part_of_name(namespace, "metadata.namespace", &mut report)
        && is_part_of_name(&metadata.name, "metadata.name", &mut report);
    (is_named.then(|| ObjectName::new(namespace, &metadata.name)), report)
}

/// A name as the API allows it: not empty, and without the slash that joins it with its namespace.
fn is_part_of_name(text: &str, field: &str, report: &mut Report) -> bool {
    if text.is_empty() {
        report.warn(field, "missing; the object is skipped");
    } else if text.contains('/') {
        report.warn(field, format_args!("{text:?} holds a slash; the object is skipped"));
    } else {
        return true;
    }
    false
}

/// A protocol; the API's default is TCP.
fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// A port number that is not zero.
fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}
