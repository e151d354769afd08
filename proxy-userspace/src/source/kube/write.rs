//! What is written to an API server: Events, and before that the question who they are about. It asks one thing at a
//! time, and a server that does not answer makes it turn to the next.

use std::fmt;

use hyper::{Method, Request, header};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Bounds;
use super::access::Access;
use super::answer::{self, JSON};
use super::fault::Fault;
use super::resource::encoded;
use crate::source::Subject;
use crate::source::api::Kind;

/// Asks for no more than the metadata of objects, where the server knows how.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// A way to write to whichever API server answers.
pub struct Writing {
    access: Access,
    bounds: Bounds,
    /// Which of the addresses is in use.
    server: usize,
    /// Open while there is something to write.
    client: Option<Client>,
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    /// The right is missing.
    #[error("{0}")]
    Denied(String),
    /// There is an object of this name.
    #[error("an object of this name exists")]
    Exists,
    /// What was to be changed, or where it was to be made, is not there.
    #[error("{0}")]
    Absent(String),
    /// It would be refused for ever.
    #[error("{0}")]
    Refused(String),
    /// It may go better later.
    #[error("{0}")]
    Later(String),
}

impl fmt::Debug for Writing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Writing").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Writing {
    /// Nothing is opened before it is needed.
    pub fn new(access: Access, bounds: Bounds) -> Self {
        Self { access, bounds, server: 0, client: None }
    }

    /// Nothing will be written for a while: the connection is closed, and credentials are read anew after it.
    pub fn rest(&mut self) {
        self.client = None;
    }

    /// The uid of an object; none if there is no such object any more.
    ///
    /// It is found by a listing of one: that needs no right beyond those of the source.
    pub async fn find_uid(&mut self, subject: &Subject) -> Result<Option<String>, Unwritten> {
        let Some(path) = list_path(subject) else { return Ok(None) };
        let request = Request::get(path).header(header::ACCEPT, METADATA).body(Body::empty());
        let body = self.send(request).await?;
        let text = answer::whole(body, self.bounds).await.map_err(|fault| self.judge(&fault))?;
        uid_in(&text).map_err(|fault| self.judge(&fault))
    }

    /// Makes an Event in a namespace.
    pub async fn create_event(&mut self, namespace: &str, event: &Value) -> Result<(), Unwritten> {
        let request = Request::post(events_path(namespace)).header(header::CONTENT_TYPE, JSON);
        self.send(request.body(event.to_string().into_bytes().into())).await.map(drop)
    }

    /// Merges fields into an Event.
    pub async fn patch_event(
        &mut self,
        (namespace, name): (&str, &str),
        fields: &Value,
    ) -> Result<(), Unwritten> {
        let path = format!("{}/{}", events_path(namespace), encoded(name));
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/merge-patch+json");
        self.send(request.body(fields.to_string().into_bytes().into())).await.map(drop)
    }

    async fn send(&mut self, request: Result<Request<Body>, hyper::http::Error>) -> Result<Body, Unwritten> {
        let client = if let Some(client) = &self.client {
            client.clone()
        } else {
            let made = self.access.client(self.server, self.bounds);
            let (client, _) = made.map_err(|error| self.judge(&Fault::from(error)))?;
            self.client.insert(client).clone()
        };
        let limit = self.bounds.answer;
        let answer = answer::send(&client, request, limit).await;
        answer.map(|answer| answer.body).map_err(|fault| self.judge(&fault))
    }

    /// Draws the consequences of a fault.
    fn judge(&mut self, fault: &Fault) -> Unwritten {
        if fault.suspects_server() {
            self.server = (self.server + 1) % self.access.servers().len();
        }
        let text = fault.to_string();
        let unwritten = match fault {
            Fault::Refused(refusal) => match refusal.code {
                403 if refusal.is_of_ending_namespace() => Unwritten::Absent(text),
                403 => Unwritten::Denied(text),
                404 => Unwritten::Absent(text),
                409 if refusal.reason == "AlreadyExists" => Unwritten::Exists,
                // 401: the token is on its way to be replaced.
                401 | 409 | 429 | 500.. => Unwritten::Later(text),
                _ => Unwritten::Refused(text),
            },
            _ => Unwritten::Later(text),
        };
        if matches!(unwritten, Unwritten::Later(_)) {
            self.client = None;
        }
        unwritten
    }
}

/// Path and query of a listing of this object alone; none for what is no object.
fn list_path(subject: &Subject) -> Option<String> {
    let (base, plural) = match subject.kind {
        Kind::Service => ("/api/v1", "services"),
        Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        Kind::Node => ("/api/v1", "nodes"),
        Kind::ServiceCidr => ("/apis/networking.k8s.io/v1", "servicecidrs"),
        Kind::List => return None,
    };
    let namespace = match &*subject.namespace {
        "" => String::new(),
        namespace => format!("/namespaces/{}", encoded(namespace)),
    };
    let selector = encoded(&format!("metadata.name={}", subject.name));
    Some(format!("{base}{namespace}/{plural}?fieldSelector={selector}&limit=1"))
}

fn events_path(namespace: &str) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", encoded(namespace))
}

fn uid_in(text: &[u8]) -> Result<Option<String>, Fault> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: Option<String>,
    }
    let items = answer::read_page(text)?.items.unwrap_or_default();
    let Some(object) = items.first() else { return Ok(None) };
    let object: &RawValue = object;
    let read: Result<Object, _> = serde_json::from_str(object.get());
    read.map(|object| object.metadata.uid).map_err(|error| Fault::Garbled(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kube::Identity;
    use crate::source::kube::fault::Refusal;

    fn subject(kind: Kind, namespace: &str, name: &str) -> Subject {
        Subject { kind, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn an_object_is_asked_for_by_a_listing_of_one() {
        let path = |kind, namespace, name| list_path(&subject(kind, namespace, name));
        assert_eq!(
            path(Kind::Service, "shop", "web").as_deref(),
            Some("/api/v1/namespaces/shop/services?fieldSelector=metadata.name%3Dweb&limit=1")
        );
        assert_eq!(
            path(Kind::ServiceCidr, "", "kubernetes").as_deref(),
            Some("/apis/networking.k8s.io/v1/servicecidrs?fieldSelector=metadata.name%3Dkubernetes&limit=1")
        );
        assert_eq!(path(Kind::List, "", "x"), None);
        let odd = path(Kind::EndpointSlice, "a/b", "c?d").unwrap();
        assert!(
            odd.contains("/namespaces/a%2Fb/endpointslices?fieldSelector=metadata.name%3Dc%3Fd&"),
            "{odd}"
        );
    }

    #[test]
    fn a_listing_of_nothing_has_no_uid() {
        assert_eq!(uid_in(br#"{"metadata":{},"items":[]}"#).unwrap(), None);
        let one = br#"{"metadata":{},"items":[{"metadata":{"name":"a","uid":"u-1"}}]}"#;
        assert_eq!(uid_in(one).unwrap().as_deref(), Some("u-1"));
        assert!(uid_in(b"<html>").is_err());
    }

    #[test]
    fn what_a_refusal_means_for_a_write() {
        let access = Access::resolve(
            &["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()],
            Identity::ServiceAccount("/absent".into()),
        );
        let mut writing = Writing::new(access.unwrap(), Bounds::default());
        let mut judge = |text: &str, code: u16| {
            let mut refusal: Refusal = serde_json::from_str(text).unwrap();
            refusal.code = code;
            (writing.judge(&Fault::Refused(refusal)), writing.server)
        };
        let ending = r#"{"reason":"Forbidden","details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        assert!(matches!(judge(ending, 403), (Unwritten::Absent(_), 0)));
        assert!(matches!(judge(r#"{"reason":"Forbidden"}"#, 403), (Unwritten::Denied(_), 0)));
        assert!(matches!(judge(r#"{"reason":"AlreadyExists"}"#, 409), (Unwritten::Exists, 0)));
        assert!(matches!(judge(r#"{"reason":"Conflict"}"#, 409), (Unwritten::Later(_), 0)));
        assert!(matches!(judge("{}", 422), (Unwritten::Refused(_), 0)));
        assert!(matches!(judge("{}", 401), (Unwritten::Later(_), 0)));
        assert!(matches!(judge("{}", 500), (Unwritten::Later(_), 1)), "another server may do better");
        assert!(matches!(judge("{}", 503), (Unwritten::Later(_), 0)), "and after the last comes the first");
    }
}
