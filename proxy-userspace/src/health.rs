//! The agent's HTTP endpoints: `/healthz`, `/livez` and `/readyz` for whoever asks, `/proxyMode` and `/status` for
//! this node. They only read; what they say comes from [`crate::status`].
//!
//! They run on a thread of their own, so that they answer while the agent's loop is busy, and say so.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::status::{Health, Reporter};

/// How long until a port that was taken is tried again, as kube-proxy does.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// Connections served at a time on one port: the health port is open to the network.
const CONNECTIONS: usize = 64;
/// A connection's whole life: one request, one answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// How long [`get`] waits.
const ANSWER: Duration = Duration::from_secs(2);
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

/// Serves both ports from a new thread for as long as the process lives. The sockets belong to the network
/// namespace of the calling thread.
pub fn start(healthz: SocketAddr, metrics: SocketAddr, reporter: Reporter) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("shunt-http".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(
                serve(Port::Healthz, healthz, reporter.clone()),
                serve(Port::Metrics, metrics, reporter.clone())
            )
        })
    })?;
    Ok(())
}

/// Serves one port for ever; a port that is taken is tried again until it is free.
pub async fn serve(port: Port, address: SocketAddr, reporter: Reporter) {
    let listener = bind(port, address, BIND_RETRY).await;
    accept(port, &listener, reporter).await;
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

async fn accept(port: Port, listener: &TcpListener, reporter: Reporter) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let reporter = reporter.clone();
                tokio::spawn(async move {
                    serve_connection(port, stream, reporter).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or a client that left: neither ends the server, nor may it spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(port: Port, stream: TcpStream, reporter: Reporter) {
    let answer = service_fn(|request: Request<hyper::body::Incoming>| {
        let response = respond(port, request.method(), request.uri().path(), &reporter);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that is slow or breaks off harms nobody but itself.
    let _ = timeout(CONNECTION_LIFE, connection).await;
}

fn respond(port: Port, method: &Method, path: &str, reporter: &Reporter) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match (port, path) {
        (Port::Healthz, "/healthz") => healthz(reporter.health(Instant::now()), true),
        (Port::Healthz, "/livez") => healthz(reporter.health(Instant::now()), false),
        (Port::Healthz, "/readyz") => readyz(&reporter.snapshot().reasons_not_ready()),
        (Port::Metrics, "/healthz") => text(StatusCode::OK, "ok"),
        (Port::Metrics, "/proxyMode") => text(StatusCode::OK, "shunt"),
        (Port::Metrics, "/names") => json(StatusCode::OK, &reporter.names()),
        (Port::Metrics, "/status") => json(StatusCode::OK, &reporter.snapshot()),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// Body of `/healthz` and `/livez`, in kube-proxy's words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody {
    last_updated: Option<Timestamp>,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

/// `/healthz` asks for the node too, so that load balancers drain one that is going; `/livez` does not, since a
/// restart of the agent would not help.
fn healthz(health: Health, with_node: bool) -> Response<Full<Bytes>> {
    let is_healthy = health.keeps_up && (health.node_eligible || !with_node);
    let current_time = Timestamp::now();
    let body = HealthBody {
        // kube-proxy calls a healthy proxy just updated, even if nothing has changed for hours; probes rely on it.
        last_updated: if is_healthy { Some(current_time) } else { health.last_updated },
        current_time,
        node_eligible: with_node.then_some(health.node_eligible),
    };
    json(if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
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
