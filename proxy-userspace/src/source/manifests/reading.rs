//! What one file says, and the words for it.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::document::{self, Fault};
use crate::model::{EndpointSlice, Event, Node, ObjectName, Service, ServiceCidr};
use crate::source::Warning;
use crate::source::convert::{self, Converted, Interner, Outcome, Unserved};

/// What makes two objects the same. Of Nodes only the own one is ever kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    Service(ObjectName),
    Slice(ObjectName),
    Node,
    ServiceCidr(Box<str>),
}

/// An object as it was last said to the state, which shares the large ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    ServiceCidr(Arc<ServiceCidr>),
}

/// What a file says about a key; `None` if the object is there but not served, which hides the same object of a later
/// file all the same.
pub(super) type Claim = Option<Object>;
pub(super) type Claims = BTreeMap<Key, Claim>;

/// What a file says.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) claims: Claims,
    /// True if an object may be missing, so that nothing may be deleted.
    pub(super) is_partial: bool,
    pub(super) warnings: Vec<Warning>,
}

impl Reading {
    /// Of a file's bytes.
    pub(super) fn of(path: &Path, bytes: &[u8], node_name: &str, names: &mut Interner) -> Self {
        let mut reader = Reader { path, reading: Self::default() };
        document::read_file(path, bytes, &mut |found| match found {
            Err(fault) => reader.fault(fault),
            Ok(document::Object::Service(object)) => reader.claim(convert::service(&object)),
            Ok(document::Object::Slice(object)) => reader.claim(convert::slice(&object, names)),
            Ok(document::Object::Node(object)) if object.metadata.name == node_name => {
                reader.claim(convert::node(&object, names));
            }
            Ok(document::Object::Node(_)) => {}
            Ok(document::Object::ServiceCidr(object)) => reader.claim(convert::service_cidr(&object)),
        });
        reader.reading
    }
}

struct Reader<'a> {
    path: &'a Path,
    reading: Reading,
}

impl Reader<'_> {
    fn fault(&mut self, fault: Fault) {
        self.reading.is_partial |= fault.is_bad;
        self.reading.warnings.push(Warning {
            object: format!("{} of {}", fault.place, self.path.display()),
            field: fault.line.map(|line| format!("line {line}")).unwrap_or_default(),
            problem: fault.problem,
            about: None,
        });
    }

    fn claim<T: Claimed>(&mut self, (outcome, warnings): Converted<T, T::Name>) {
        for warning in warnings {
            self.warn(&warning.object, &warning.field, warning.problem);
        }
        let (key, claim) = match outcome {
            Outcome::Served(object) => (T::key(object.name()), Some(object.into_object())),
            Outcome::Unserved(name, reason) => {
                let key = T::key(name);
                self.explain(&key, reason);
                (key, None)
            }
            Outcome::Rejected => {
                self.reading.is_partial = true;
                return;
            }
        };
        match self.reading.claims.entry(key) {
            btree_map::Entry::Vacant(place) => {
                place.insert(claim);
            }
            btree_map::Entry::Occupied(first) => {
                let key = first.key().clone();
                self.warn(&key, "", "twice in this file; the first one counts".into());
            }
        }
    }

    /// With an API server, having no cluster IP is a passing state. Nobody allocates one for a manifest.
    fn explain(&mut self, key: &Key, reason: Unserved) {
        if reason == Unserved::NoClusterIp {
            let problem = "missing: a manifest must give it, nothing is allocated; the Service is not served";
            self.warn(key, "spec.clusterIP", problem.into());
        }
    }

    fn warn(&mut self, object: &impl fmt::Display, field: &str, problem: String) {
        let object = format!("{object} in {}", self.path.display());
        self.reading.warnings.push(Warning { object, field: field.to_owned(), problem, about: None });
    }
}

/// A model object that a file can claim.
trait Claimed {
    /// What `convert` calls it by; nothing for a kind that it never calls unserved and that has one key only.
    type Name;
    fn name(&self) -> Self::Name;
    fn key(name: Self::Name) -> Key;
    fn into_object(self) -> Object;
}

impl Claimed for Service {
    type Name = ObjectName;
    fn name(&self) -> ObjectName {
        self.name.clone()
    }
    fn key(name: ObjectName) -> Key {
        Key::Service(name)
    }
    fn into_object(self) -> Object {
        Object::Service(self.into())
    }
}

impl Claimed for EndpointSlice {
    type Name = ObjectName;
    fn name(&self) -> ObjectName {
        self.name.clone()
    }
    fn key(name: ObjectName) -> Key {
        Key::Slice(name)
    }
    fn into_object(self) -> Object {
        Object::Slice(self.into())
    }
}

impl Claimed for Node {
    type Name = ();
    fn name(&self) {}
    fn key((): ()) -> Key {
        Key::Node
    }
    fn into_object(self) -> Object {
        Object::Node(self.into())
    }
}

impl Claimed for ServiceCidr {
    type Name = Box<str>;
    fn name(&self) -> Box<str> {
        self.name.clone()
    }
    fn key(name: Box<str>) -> Key {
        Key::ServiceCidr(name)
    }
    fn into_object(self) -> Object {
        Object::ServiceCidr(self.into())
    }
}

impl Key {
    /// That there is no such object any more.
    pub(super) fn into_deletion(self) -> Event {
        match self {
            Self::Service(name) => Event::ServiceDeleted(name),
            Self::Slice(name) => Event::SliceDeleted(name),
            Self::Node => Event::NodeDeleted,
            Self::ServiceCidr(name) => Event::ServiceCidrDeleted(name),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(out, "Service {name}"),
            Self::Slice(name) => write!(out, "EndpointSlice {name}"),
            Self::Node => out.write_str("the own Node"),
            Self::ServiceCidr(name) => write!(out, "ServiceCIDR {name}"),
        }
    }
}

impl Object {
    /// That the object came or changed.
    pub(super) fn to_event(&self) -> Event {
        match self {
            Self::Service(service) => Event::ServiceApplied(Arc::clone(service)),
            Self::Slice(slice) => Event::SliceApplied(Arc::clone(slice)),
            Self::Node(node) => Event::NodeApplied(Node::clone(node)),
            Self::ServiceCidr(cidr) => Event::ServiceCidrApplied(ServiceCidr::clone(cidr)),
        }
    }
}
