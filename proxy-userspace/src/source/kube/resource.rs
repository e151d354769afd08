//! The four kinds of objects that are followed: how they are asked for, and what one of them means.

use std::fmt::Write;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::{Event, Listing, ObjectName};
use crate::source::api::{self, Kind};
use crate::source::convert::{self, Converted, Interner, Outcome};
use crate::source::{Subject, Warning};

/// A kind of object, and which of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// Services that no other proxy serves and that are not headless.
    Services,
    /// Slices of Services that have a cluster IP.
    EndpointSlices,
    /// The Node of this name.
    Node(Box<str>),
    /// All ServiceCIDRs.
    ServiceCidrs,
}

/// What an object said.
#[derive(Debug)]
pub(super) struct Said {
    /// What becomes of it: applied, deleted, or kept as it was.
    pub(super) event: Option<Event>,
    pub(super) warnings: Vec<Warning>,
    /// Where a watch goes on after it; empty if it did not decode.
    pub(super) version: String,
}

impl Resource {
    /// What its listing is called.
    pub(super) fn listing(&self) -> Listing {
        match self {
            Self::Services => Listing::Services,
            Self::EndpointSlices => Listing::EndpointSlices,
            Self::Node(_) => Listing::Node,
            Self::ServiceCidrs => Listing::ServiceCidrs,
        }
    }

    /// Path and query of one page of a listing, of `limit` objects.
    ///
    /// No `resourceVersion=0`, with which kube-proxy lists: such a listing comes out of the server's cache, which may be
    /// older than what this watch has already seen of another server, so that the world would go back in time; and the
    /// server ignores `limit` for it and sends everything at once. Without it etcd is asked, page by page, or on newer
    /// servers the cache once it has caught up. It costs etcd a read, on servers without streaming lists only.
    pub(super) fn list_path(&self, limit: u32, page: Option<&str>) -> String {
        let mut path = self.path();
        // Writing to a string cannot fail.
        let _ = write!(path, "limit={limit}");
        if let Some(page) = page {
            let _ = write!(path, "&continue={}", encoded(page));
        }
        path
    }

    /// Path and query of a watch that starts with all there is.
    pub(super) fn streaming_path(&self, seconds: u64) -> String {
        let start = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        format!("{}{}&{start}", self.path(), watching(seconds))
    }

    /// Path and query of a watch that goes on from `version`.
    pub(super) fn watch_path(&self, version: &str, seconds: u64) -> String {
        format!("{}{}&resourceVersion={}", self.path(), watching(seconds), encoded(version))
    }

    /// Path with the selectors of kube-proxy 1.37, ending where more of the query is added.
    fn path(&self) -> String {
        let own_node;
        let (path, selectors): (_, &[(&str, &str)]) = match self {
            Self::Services => (
                "/api/v1/services",
                &[
                    ("labelSelector", "!service.kubernetes.io/service-proxy-name"),
                    ("fieldSelector", "spec.clusterIP!=None"),
                ],
            ),
            Self::EndpointSlices => (
                "/apis/discovery.k8s.io/v1/endpointslices",
                &[("labelSelector", "!service.kubernetes.io/headless")],
            ),
            Self::Node(name) => {
                own_node = format!("metadata.name={name}");
                ("/api/v1/nodes", &[("fieldSelector", &own_node)])
            }
            Self::ServiceCidrs => ("/apis/networking.k8s.io/v1/servicecidrs", &[]),
        };
        let mut path = format!("{path}?");
        for (key, selector) in selectors {
            // Writing to a string cannot fail.
            let _ = write!(path, "{key}={}&", encoded(selector));
        }
        path
    }

    /// What an object that is there says.
    pub(super) fn applied(&self, object: &RawValue, names: &mut Interner) -> Said {
        let said = match self {
            Self::Services => decode::<api::Service>(object).map(|it| {
                let meaning = convert::service(&it);
                (meant(meaning, |it| Event::ServiceApplied(it.into()), Event::ServiceDeleted), it.metadata)
            }),
            Self::EndpointSlices => decode::<api::EndpointSlice>(object).map(|it| {
                let meaning = convert::slice(&it, names);
                (meant(meaning, |it| Event::SliceApplied(it.into()), Event::SliceDeleted), it.metadata)
            }),
            Self::Node(_) => decode::<api::Node>(object).map(|it| {
                let meaning = convert::node(&it, names);
                (meant(meaning, Event::NodeApplied, |()| Event::NodeDeleted), it.metadata)
            }),
            Self::ServiceCidrs => decode::<api::ServiceCidr>(object).map(|it| {
                let meaning = convert::service_cidr(&it);
                (meant(meaning, Event::ServiceCidrApplied, Event::ServiceCidrDeleted), it.metadata)
            }),
        };
        match said {
            Ok(((event, warnings), metadata)) => {
                let event = event.or_else(|| self.kept(&metadata.namespace, &metadata.name));
                Said { event, warnings, version: metadata.resource_version }
            }
            Err(fault) => {
                let Names { namespace, name, version } = names_of(object);
                let problem = format!("{}; what was known of the object stands", fault.problem);
                let warnings = vec![self.subject(&namespace, &name).warning(fault.field, problem)];
                Said { event: self.kept(&namespace, &name), warnings, version }
            }
        }
    }

    /// What becomes of an object that is gone, of which only the name counts.
    pub(super) fn deleted(&self, object: &RawValue) -> Said {
        let Names { namespace, name, version } = names_of(object);
        let event = match self {
            Self::Services => object_name(&namespace, &name).map(Event::ServiceDeleted),
            Self::EndpointSlices => object_name(&namespace, &name).map(Event::SliceDeleted),
            Self::Node(own) => (**own == *name).then_some(Event::NodeDeleted),
            Self::ServiceCidrs => Some(Event::ServiceCidrDeleted(name.into())),
        };
        Said { event, warnings: Vec::new(), version }
    }

    fn kept(&self, namespace: &str, name: &str) -> Option<Event> {
        match self {
            Self::Services => object_name(namespace, name).map(Event::ServiceKept),
            Self::EndpointSlices => object_name(namespace, name).map(Event::SliceKept),
            Self::Node(own) => (**own == *name).then_some(Event::NodeKept),
            Self::ServiceCidrs => Some(Event::ServiceCidrKept(name.into())),
        }
    }

    /// As rights name it.
    pub(super) fn plural(&self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Node(_) => "nodes",
            Self::ServiceCidrs => "servicecidrs",
        }
    }

    /// One of its objects.
    pub(super) fn subject(&self, namespace: &str, name: &str) -> Subject {
        let kind = match self {
            Self::Services => Kind::Service,
            Self::EndpointSlices => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidrs => Kind::ServiceCidr,
        };
        Subject { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// An object that does not decode.
struct Undecodable {
    field: String,
    problem: String,
}

fn decode<T: DeserializeOwned>(object: &RawValue) -> Result<T, Undecodable> {
    serde_json::from_str(object.get()).map_err(|error| {
        // Keeping track of the field costs time, so it is looked for only where something is wrong.
        let mut again = serde_json::Deserializer::from_str(object.get());
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Ok(_) => Undecodable { field: String::new(), problem: error.to_string() },
            Err(error) => Undecodable { field: error.path().to_string(), problem: error.inner().to_string() },
        }
    })
}

/// The event of an outcome; none where what was known stands.
fn meant<T, Name>(
    (outcome, warnings): Converted<T, Name>,
    applied: impl FnOnce(T) -> Event,
    deleted: impl FnOnce(Name) -> Event,
) -> (Option<Event>, Vec<Warning>) {
    let event = match outcome {
        Outcome::Served(object) => Some(applied(object)),
        Outcome::Unserved(name, _) => Some(deleted(name)),
        Outcome::Rejected => None,
    };
    (event, warnings)
}

#[derive(Default)]
struct Names {
    namespace: String,
    name: String,
    version: String,
}

/// The names of an object of which nothing else is sure.
fn names_of(object: &RawValue) -> Names {
    #[derive(Deserialize)]
    struct Named {
        metadata: Value,
    }
    let Ok(Named { metadata }) = serde_json::from_str(object.get()) else { return Names::default() };
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Names { namespace: text("namespace"), name: text("name"), version: text("resourceVersion") }
}

/// Only what can be the name of something that is known.
fn object_name(namespace: &str, name: &str) -> Option<ObjectName> {
    let is_part = |part: &str| !part.is_empty() && !part.contains('/');
    (is_part(namespace) && is_part(name)).then(|| ObjectName::new(namespace, name))
}

fn watching(seconds: u64) -> String {
    format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}")
}

/// Everything but what a URL never gives a meaning, by its bytes.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn applied(resource: &Resource, value: &Value) -> Said {
        resource.applied(&raw(value), &mut Interner::default())
    }

    #[test]
    fn selectors_are_kube_proxys() {
        let watch = Resource::Services.watch_path("7", 300);
        assert_eq!(
            watch,
            "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&\
             fieldSelector=spec.clusterIP%21%3DNone&watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion=7"
        );
        let slices = Resource::EndpointSlices.list_path(25, None);
        let path = "/apis/discovery.k8s.io/v1/endpointslices";
        assert_eq!(slices, format!("{path}?labelSelector=%21service.kubernetes.io%2Fheadless&limit=25"));
        let node = Resource::Node("node-1".into()).list_path(250, Some("a=/"));
        assert_eq!(node, "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1&limit=250&continue=a%3D%2F");
        assert!(Resource::ServiceCidrs.list_path(9, None).ends_with("/servicecidrs?limit=9"));
        assert!(Resource::EndpointSlices.streaming_path(1).contains("&sendInitialEvents=true&"));
    }

    #[test]
    fn an_undecodable_object_is_named_with_its_field_and_kept() {
        let service = serde_json::json!({
            "metadata": { "name": "web", "namespace": "default", "resourceVersion": "9" },
            "spec": { "ports": [{ "port": 80 }, { "port": "eighty" }] },
        });
        let said = applied(&Resource::Services, &service);
        assert_eq!(said.event, Some(Event::ServiceKept(ObjectName::new("default", "web"))));
        assert_eq!((said.version.as_str(), said.warnings.len()), ("9", 1));
        assert_eq!(
            (said.warnings[0].object.as_str(), said.warnings[0].field.as_str()),
            ("Service default/web", "spec.ports[1].port")
        );
        let nothing = applied(&Resource::Services, &serde_json::json!("text"));
        assert_eq!((nothing.event, nothing.warnings[0].object.as_str()), (None, "Service without a name"));
    }

    #[test]
    fn what_makes_no_sense_is_kept_and_what_is_not_served_goes() {
        let cidr = serde_json::json!({ "metadata": { "name": "c" }, "spec": { "cidrs": ["10.0.0.0/99"] } });
        let said = applied(&Resource::ServiceCidrs, &cidr);
        assert_eq!(said.event, Some(Event::ServiceCidrKept("c".into())));
        assert_eq!(said.warnings.len(), 1);
        let headless = serde_json::json!({
            "metadata": { "name": "web", "namespace": "default" }, "spec": { "clusterIP": "None" },
        });
        let gone = Some(Event::ServiceDeleted(ObjectName::new("default", "web")));
        assert_eq!(applied(&Resource::Services, &headless).event, gone);
        assert_eq!(Resource::Services.deleted(&raw(&headless)).event, gone);
    }

    #[test]
    fn managed_fields_are_never_decoded() {
        let node = serde_json::json!({
            "metadata": { "name": "a", "managedFields": [{ "fieldsV1": { "f:x": [1, { "y": "z" }] } }] },
        });
        let said = applied(&Resource::Node("a".into()), &node);
        assert!(matches!(said.event, Some(Event::NodeApplied(_))) && said.warnings.is_empty());
        assert_eq!(Resource::Node("b".into()).deleted(&raw(&node)).event, None);
    }
}
