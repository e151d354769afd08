//! The agent's HTTP endpoints: `/healthz`, `/livez` and `/readyz` for whoever asks, `/metrics`, `/status`, `/proxyMode`
//! and `/configz` for this node. They only read; what they say comes from [`crate::status`] and [`crate::metrics`].
//!
//! They run on a thread of their own, so that they answer while the agent's loop is busy, and say so.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::health_checks;
use crate::metrics::Scraper;
use crate::metrics::family::Form;
use crate::status::{Health, Probe, Reporter};

/// How long until a port that was taken is tried again, as kube-proxy does.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// Connections served at a time on one port: the health port is open to the network.
const CONNECTIONS: usize = 64;
/// A connection's whole life: one request, one answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// Bytes of a request's head, of which a client may say as many as it likes and none is needed.
const HEAD_BYTES: usize = 16 << 10;
/// How long [`get`] waits.
const ANSWER: Duration = Duration::from_secs(2);
/// Go's zero time, 0001-01-01T00:00:00Z, which kube-proxy shows for what has not happened.
const NEVER: Timestamp = Timestamp::constant(-62_135_596_800, 0);
/// Bytes that [`get`] reads at most.
const ANSWER_BYTES: usize = 16 << 20;

/// Which of the two ports is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `--healthz-address`: load balancers and the kubelet ask.
    Healthz,
    /// `--metrics-address`: this node asks.
    Metrics,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Of [`Port::Healthz`].
    pub healthz: SocketAddr,
    /// Of [`Port::Metrics`].
    pub metrics: SocketAddr,
    /// Whether an address that is taken is an error, instead of being tried again (kube-proxy's bindAddressHardFail).
    pub must_bind: bool,
}

/// What the endpoints tell.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Health and status.
    pub reporter: Reporter,
    /// `/metrics`.
    pub metrics: Arc<Scraper>,
    /// `/configz`.
    pub configz: Arc<serde_json::Value>,
}

/// Connections that one listener serves at a time.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    own: Arc<Semaphore>,
    /// Shared with other listeners.
    shared: Option<Arc<Semaphore>>,
}

impl Places {
    /// So many.
    pub(crate) fn new(count: usize) -> Self {
        Self { own: Arc::new(Semaphore::new(count)), shared: None }
    }

    /// So many, and not more with all who share the others.
    pub(crate) fn within(count: usize, shared: &Arc<Semaphore>) -> Self {
        Self { shared: Some(Arc::clone(shared)), ..Self::new(count) }
    }
}

/// Serves both ports, and the health checks of Services, from a new thread for as long as the process lives. The sockets
/// belong to the network namespace of the calling thread.
pub fn start(listen: Listen, pages: Pages, checks: health_checks::Server) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let held = |address: SocketAddr| listen.must_bind.then(|| hold(address)).transpose();
    let (healthz, metrics) = (held(listen.healthz)?, held(listen.metrics)?);
    std::thread::Builder::new().name("shunt-http".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(
                serve(Port::Healthz, (listen.healthz, healthz), pages.clone()),
                serve(Port::Metrics, (listen.metrics, metrics), pages.clone()),
                checks.serve()
            )
        })
    })?;
    Ok(())
}

/// Listens at once.
fn hold(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("listen on {address}: {error}"));
    let listener = std::net::TcpListener::bind(address).map_err(named)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves one port for ever; a port that is taken is tried again until it is free.
async fn serve(port: Port, (address, held): (SocketAddr, Option<std::net::TcpListener>), pages: Pages) {
    let listener = match held.and_then(|held| TcpListener::from_std(held).ok()) {
        Some(listener) => listener,
        None => bind(port, address, BIND_RETRY).await,
    };
    accept_pages(port, &listener, pages).await;
}

async fn accept_pages(port: Port, listener: &TcpListener, pages: Pages) {
    let answer = move |request| {
        let pages = pages.clone();
        async move { respond(port, &request, pages).await }
    };
    accept(listener, &Places::new(CONNECTIONS), answer).await;
}

async fn bind(port: Port, address: SocketAddr, retry: Duration) -> TcpListener {
    let mut has_failed = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(?port, %address, "serving HTTP");
                return listener;
            }
            Err(error) if !has_failed => {
                has_failed = true;
                warn!(?port, %address, %error, "cannot listen, trying again every {} s", retry.as_secs());
            }
            Err(_) => {}
        }
        sleep(retry).await;
    }
}

/// Answers every connection, for ever. Whoever drops this ends the connections too.
pub(crate) async fn accept<A, F>(listener: &TcpListener, places: &Places, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(own) = Arc::clone(&places.own).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                // Only now: a listener that nobody asks must not keep others from answering.
                let shared = match &places.shared {
                    Some(shared) => Arc::clone(shared).acquire_owned().await.ok(),
                    None => None,
                };
                let answer = answer.clone();
                connections.spawn(async move {
                    serve_connection(stream, answer).await;
                    drop((own, shared));
                });
            }
            // Out of descriptors, or a client that left: neither ends the server, nor may it spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection<A, F>(stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let answer = service_fn(move |request| {
        let response = answer(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        // As Go's servers write them: somebody may have matched kube-proxy's by letter.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that is slow or breaks off harms nobody but itself.
    let _ = timeout(CONNECTION_LIFE, connection).await;
}

async fn respond(port: Port, request: &Request<Incoming>, pages: Pages) -> Response<Full<Bytes>> {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let reporter = &pages.reporter;
    match (port, request.uri().path()) {
        (Port::Healthz, "/healthz") => probe(reporter, Probe::Healthz),
        (Port::Healthz, "/livez") => probe(reporter, Probe::Livez),
        (Port::Healthz, "/readyz") => readyz(&reporter.snapshot().reasons_not_ready()),
        (Port::Metrics, "/configz") => json(StatusCode::OK, &*pages.configz),
        (Port::Metrics, "/healthz") => text(StatusCode::OK, "ok"),
        (Port::Metrics, "/metrics") => {
            // A scraper may repeat the header; its parts are as good as one list.
            let accepted = request.headers().get_all(header::ACCEPT).iter();
            let accepted: Vec<&str> = accepted.filter_map(|value| value.to_str().ok()).collect();
            metrics(pages.metrics, Form::accepted(&accepted.join(","))).await
        }
        (Port::Metrics, "/proxyMode") => text(StatusCode::OK, "shunt"),
        (Port::Metrics, "/names") => json(StatusCode::OK, &reporter.names()),
        (Port::Metrics, "/status") => json(StatusCode::OK, &reporter.snapshot()),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// A scrape reads maps for as long as it takes; meanwhile health is told.
async fn metrics(scraper: Arc<Scraper>, form: Form) -> Response<Full<Bytes>> {
    match tokio::task::spawn_blocking(move || scraper.scrape(form)).await {
        Ok(body) => response(StatusCode::OK, form.media_type(), body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Body of `/healthz` and `/livez`, in kube-proxy's words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    /// By IP family; empty before the first batch. One batch writes both.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: Timestamp,
    healthy: bool,
}

/// `/healthz` asks for the node too, so that load balancers drain one that is going; `/livez` does not, since a
/// restart of the agent would not help.
fn probe(reporter: &Reporter, probe: Probe) -> Response<Full<Bytes>> {
    let health = reporter.health(Instant::now());
    let is_healthy = health.keeps_up && (health.node_eligible || probe == Probe::Livez);
    reporter.measure(|measures| measures.answered(probe, is_healthy));
    let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &health_body(health, probe, Timestamp::now()))
}

fn health_body(health: Health, probe: Probe, now: Timestamp) -> HealthBody {
    let node_eligible = (probe == Probe::Healthz).then_some(health.node_eligible);
    let is_healthy = health.keeps_up && node_eligible.unwrap_or(true);
    let of_family =
        health.last_updated.map(|last_updated| FamilyHealth { last_updated, healthy: health.keeps_up });
    let families = of_family.into_iter().flat_map(|family| ["IPv4", "IPv6"].map(|name| (name, family)));
    HealthBody {
        // kube-proxy calls a healthy proxy just updated, even if nothing has changed for hours; probes rely on it.
        last_updated: if is_healthy { now } else { health.last_updated.unwrap_or(NEVER) },
        current_time: now,
        node_eligible,
        healthy: health.keeps_up,
        status: families.collect(),
    }
}

fn readyz(reasons: &[String]) -> Response<Full<Bytes>> {
    if reasons.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body) {
        Ok(bytes) => response(status, "application/json", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers: [(HeaderName, &'static str); 3] = [
        (header::CONTENT_TYPE, media_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why an agent's endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nothing listens there.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// What listens there does not speak HTTP, or broke off.
    #[error("ask {address}: {source}")]
    Http {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The answer is longer than any of ours, or broke off.
    #[error("read the answer of {address}: {reason}")]
    Body {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {address} within {} s", ANSWER.as_secs())]
    Late {
        /// Where.
        address: SocketAddr,
    },
}

/// Asks an agent for `path`, and waits two seconds at most.
pub async fn get(address: SocketAddr, path: &'static str) -> Result<(StatusCode, Bytes), GetError> {
    timeout(ANSWER, ask(reachable(address), path)).await.map_err(|_| GetError::Late { address })?
}

async fn ask(address: SocketAddr, path: &'static str) -> Result<(StatusCode, Bytes), GetError> {
    let http = |source| GetError::Http { address, source };
    let stream = TcpStream::connect(address).await.map_err(|source| GetError::Connect { address, source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // The connection is driven beside the request and ends with it; its error is the request's.
    let driver = tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static(path);
    if let Ok(host) = HeaderValue::try_from(address.to_string()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    driver.abort();
    match body {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) => Err(GetError::Body { address, reason: error.to_string() }),
    }
}

/// A server that listens on every address is reached on the loopback of its family.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
