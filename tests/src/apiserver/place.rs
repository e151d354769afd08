//! What a path names: a collection, maybe of one namespace, or an object in it.

use super::{EVENTS, NODES, SERVICE_CIDRS, SERVICES, SLICES};

/// All collections.
const COLLECTIONS: [&str; 5] = [SERVICES, SLICES, NODES, SERVICE_CIDRS, EVENTS];

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Path of the collection in all namespaces.
    pub(super) collection: &'static str,
    /// The namespace that it is narrowed down to.
    pub(super) namespace: Option<String>,
    /// An object.
    pub(super) name: Option<String>,
}

impl Place {
    /// None for what the server does not know.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (namespace, plain) = match path.split_once("/namespaces/") {
            Some((base, rest)) => {
                let (namespace, rest) = rest.split_once('/')?;
                (Some(namespace.to_owned()), format!("{base}/{rest}"))
            }
            None => (None, path.to_owned()),
        };
        COLLECTIONS.into_iter().find_map(|collection| {
            let name = match plain.strip_prefix(collection)? {
                "" => None,
                rest => Some(rest.strip_prefix('/')?.to_owned()),
            };
            Some(Self { collection, namespace: namespace.clone(), name })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_collection_or_one_of_its_objects() {
        let all = Place { collection: SERVICES, namespace: None, name: None };
        assert_eq!(Place::of("/api/v1/services"), Some(all.clone()));
        let shop = Place { namespace: Some("shop".to_owned()), ..all };
        assert_eq!(Place::of("/api/v1/namespaces/shop/services"), Some(shop));
        let event = Place {
            collection: EVENTS,
            namespace: Some("default".to_owned()),
            name: Some("web.1".to_owned()),
        };
        assert_eq!(Place::of("/apis/events.k8s.io/v1/namespaces/default/events/web.1"), Some(event));
        for other in ["/api/v1/pods", "/api/v1/servicesx", "/api/v1/namespaces/shop", "/version"] {
            assert_eq!(Place::of(other), None, "{other}");
        }
    }
}
