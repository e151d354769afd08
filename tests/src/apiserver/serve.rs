//! From requests to answers.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::EVENTS;
use super::answers::{self, AnswerBody};
use super::place::Place;
use super::world::{Asked, Field, Selectors, World};

/// Pieces of a stream that may wait for a slow reader.
const PIECES: usize = 16;
/// Between two drops.
const DRIP: Duration = Duration::from_millis(20);
/// Bytes of a piece of the initial events, about.
const PIECE_BYTES: usize = 64 << 10;

/// Serves until `stopped` has no sender any more, and says where.
pub(super) async fn run(
    world: Arc<World>,
    mut stopped: watch::Receiver<bool>,
    ip: IpAddr,
    bound: impl FnOnce(SocketAddr),
) -> Result<()> {
    let listener = TcpListener::bind((ip, 0)).await.context("bind")?;
    bound(listener.local_addr()?);
    // Dropping the set breaks off every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Only a sender that is gone wakes this up.
            _ = stopped.changed() => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept")?;
                // As a real API server does: events are small, and would wait for acknowledgements.
                stream.set_nodelay(true).context("turn off Nagle's algorithm")?;
                let world = Arc::clone(&world);
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(Arc::clone(&world), request));
                    // A peer that goes away is no fault of the server.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(world: Arc<World>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    let asked = asked(&request);
    world.note(asked.clone());
    let manners = world.manners();
    let (cuts, mut turns) = (world.cuts(), world.turns());
    while world.manners().is_silent && world.cuts() == cuts {
        if turns.changed().await.is_err() {
            break;
        }
    }
    let is_asked = |paths: &[String], place: &Place| paths.iter().any(|path| path == place.collection);
    let place = Place::of(&asked.path).filter(|place| !is_asked(&manners.absent, place));
    while place.as_ref().is_some_and(|place| is_asked(&world.manners().mute, place)) {
        if turns.changed().await.is_err() {
            break;
        }
    }
    Ok(if asked.path == "/version" {
        answers::whole(StatusCode::OK, r#"{"major":"1","minor":"37"}"#.to_owned())
    } else if manners.token.is_some() && manners.token != asked.token {
        answers::refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    } else if let Some(place) = place {
        let plural = place.collection.rsplit('/').next().unwrap_or_default();
        if is_asked(&manners.denied, &place) {
            let verb = if asked.method == "GET" { "list" } else { "create" };
            let message = format!("{plural} is forbidden: User \"test\" cannot {verb} resource \"{plural}\"");
            answers::refusal(StatusCode::FORBIDDEN, "Forbidden", &message)
        } else if is_asked(&manners.failing, &place) {
            answers::refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "it does not work")
        } else if place.collection == EVENTS {
            write_event(&world, &place, request).await
        } else {
            collection(world, &place, &asked)
        }
    } else {
        answers::refusal(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    })
}

/// Events are only made, and merged with further fields.
async fn write_event(world: &World, place: &Place, request: Request<Incoming>) -> Response<AnswerBody> {
    let method = request.method().clone();
    let Ok(body) = request.into_body().collect().await else {
        return answers::refusal(StatusCode::BAD_REQUEST, "BadRequest", "the request broke off");
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return answers::refusal(StatusCode::BAD_REQUEST, "BadRequest", "not JSON");
    };
    let namespace = place.namespace.as_deref().unwrap_or_default();
    match (method, &place.name) {
        (Method::POST, None) if world.create_event(namespace, body.clone()) => {
            answers::whole(StatusCode::CREATED, body.to_string())
        }
        (Method::POST, None) => answers::refusal(StatusCode::CONFLICT, "AlreadyExists", "already exists"),
        (Method::PATCH, Some(name)) if world.patch_event((namespace, name), &body) => {
            answers::whole(StatusCode::OK, body.to_string())
        }
        (Method::PATCH, Some(_)) => answers::refusal(StatusCode::NOT_FOUND, "NotFound", "not found"),
        _ => answers::refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not allowed"),
    }
}

fn asked(request: &Request<Incoming>) -> Asked {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        token: authorization.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
    }
}

fn collection(world: Arc<World>, place: &Place, asked: &Asked) -> Response<AnswerBody> {
    let is_watch = parameter(&asked.query, "watch").is_some();
    if world.manners().dripping.contains(&asked.path) && asked.is_listing() {
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(drip(sender));
        return answers::endless(pieces);
    }
    let selectors = Selectors { namespace: place.namespace.clone(), ..selectors(&asked.query) };
    if !is_watch {
        let after = parameter(&asked.query, "continue").unwrap_or_default();
        let limit = parameter(&asked.query, "limit").and_then(|limit| limit.parse().ok());
        let limit = limit.unwrap_or(usize::MAX);
        let (items, version) = world.list((place.collection, &selectors), &after, limit);
        let next = items.last().filter(|_| items.len() == limit).map_or("", |(key, _)| key).to_owned();
        let items: Vec<_> = items.into_iter().map(|(_, item)| item).collect();
        return answers::page(&items, version, &next);
    }
    let manners = world.manners();
    let lists = parameter(&asked.query, "sendInitialEvents").is_some();
    if lists && !manners.streams_lists {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch";
        return answers::refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
    }
    let from = parameter(&asked.query, "resourceVersion").and_then(|version| version.parse().ok());
    let from = from.unwrap_or_default();
    if !lists && manners.expires_by_status && world.is_forgotten(from) {
        return answers::refusal(StatusCode::GONE, "Expired", "too old resource version");
    }
    let (sender, pieces) = mpsc::channel(PIECES);
    let watch = Watch { world, path: place.collection.to_owned(), selectors, sender };
    tokio::spawn(watch.run(from, lists));
    answers::endless(pieces)
}

/// White space now and then, of which neither JSON nor a watch is full.
async fn drip(sender: mpsc::Sender<Bytes>) {
    while sender.send(Bytes::from_static(b" ")).await.is_ok() {
        tokio::time::sleep(DRIP).await;
    }
}

/// One watch that is being served.
struct Watch {
    world: Arc<World>,
    path: String,
    selectors: Selectors,
    sender: mpsc::Sender<Bytes>,
}

impl Watch {
    /// Serves until it is cut, or its reader is gone.
    async fn run(self, mut version: u64, lists: bool) {
        let (cuts, mut turns) = (self.world.cuts(), self.world.turns());
        if lists {
            match self.send_all().await {
                Some(reached) => version = reached,
                None => return,
            }
        } else if self.world.is_forgotten(version) {
            let mut text = String::new();
            answers::push_expired(&mut text);
            // A reader that is gone has missed nothing.
            let _ = self.sender.send(text.into()).await;
            return;
        }
        loop {
            let manners = self.world.manners();
            if self.world.cuts() != cuts {
                return;
            }
            let says_nothing = manners.is_silent || manners.quiet.contains(&self.path);
            if !says_nothing {
                let Some(reached) = self.send_changes(version).await else { return };
                version = reached;
            }
            let ends_now = manners.ending.contains(&self.path) && !lists;
            let pause = if ends_now { Duration::ZERO } else { manners.bookmark_every };
            tokio::select! {
                turned = turns.changed() => if turned.is_err() { return },
                () = self.sender.closed() => return,
                () = tokio::time::sleep(pause), if !says_nothing => {
                    let mut text = String::new();
                    answers::push_bookmark(&mut text, version, false);
                    if self.sender.send(text.into()).await.is_err() || ends_now {
                        return;
                    }
                }
            }
        }
    }

    /// All objects, and the bookmark that ends them; returns their version, or nothing if nobody reads.
    async fn send_all(&self) -> Option<u64> {
        let (items, version) = self.world.list((&self.path, &self.selectors), "", usize::MAX);
        let mut text = String::new();
        for (_, item) in &items {
            answers::push_event(&mut text, "ADDED", &item.text);
            if text.len() >= PIECE_BYTES {
                self.sender.send(std::mem::take(&mut text).into()).await.ok()?;
            }
        }
        answers::push_bookmark(&mut text, version, true);
        self.sender.send(text.into()).await.ok()?;
        Some(version)
    }

    /// What changed since; returns the version reached, or nothing if nobody reads.
    async fn send_changes(&self, version: u64) -> Option<u64> {
        let mut text = String::new();
        let (changes, reached) = self.world.changes(&self.path, version);
        answers::push_changes(
            &mut text,
            changes.iter().filter(|change| change.object.matches(&self.selectors)),
        );
        if !text.is_empty() {
            self.sender.send(text.into()).await.ok()?;
        }
        Some(reached)
    }
}

fn selectors(query: &str) -> Selectors {
    let labels = parameter(query, "labelSelector").unwrap_or_default();
    let absent_labels = labels.split(',').filter_map(|term| term.strip_prefix('!')).map(str::to_owned);
    let fields = parameter(query, "fieldSelector").unwrap_or_default();
    let field = |term: &str| {
        let (name, value, is_wanted) = match term.split_once("!=") {
            Some((name, value)) => (name, value, false),
            None => term.split_once('=').map(|(name, value)| (name, value, true))?,
        };
        Some(Field { name: name.to_owned(), value: value.to_owned(), is_wanted })
    };
    Selectors {
        absent_labels: absent_labels.collect(),
        fields: fields.split(',').filter_map(field).collect(),
        namespace: None,
    }
}

/// A parameter of a query, with its escapes resolved.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let escaped = (byte == b'%').then(|| {
            let digits = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
            u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
        });
        bytes.push(escaped.unwrap_or(byte));
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_unescaped() {
        let query = "labelSelector=%21a%2Fb,%21c&watch=true&fieldSelector=metadata.name%3Dn,spec.x%21%3DNone";
        let selectors = selectors(query);
        assert_eq!(selectors.absent_labels, ["a/b", "c"]);
        let field = |name: &str, value: &str, is_wanted| Field {
            name: name.to_owned(),
            value: value.to_owned(),
            is_wanted,
        };
        assert_eq!(selectors.fields, [field("metadata.name", "n", true), field("spec.x", "None", false)]);
        assert_eq!(parameter(query, "limit"), None);
    }
}
