//! The servers behind `healthCheckNodePort`: for each Service that has one, a socket that tells a load balancer how many
//! endpoints this node has, in kube-proxy's words.
//!
//! Which there should be is worked out in `plan`; here they are opened, closed and tried again, on the thread of
//! [`crate::health`] and by its HTTP server.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::health::{Places, accept};
use crate::model::ObjectName;
use crate::plan::health_checks::{Listener, Listeners, moves};
use crate::status::{FailedHealthCheck, HealthChecksStatus, Reporter};
use crate::sys::files;

/// How long until a socket that could not be opened is tried again, as the agent's own ports are.
const RETRY: Duration = Duration::from_secs(5);
/// Connections served at a time for one Service and address. A balancer has a few probers, and these ports are open to the
/// network.
const CONNECTIONS: usize = 16;
/// The same for all of them together.
const ALL_CONNECTIONS: usize = 256;
/// Connections that may wait for one of these to end, at each socket.
const BACKLOG: u32 = 128;
/// Failures that may wait to be told by an Event; of more than this at once the log and the status tell.
const FAILURES: usize = 100;
/// How many endpoints of the Service are on this node; balancers may use it as a weight.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// A socket that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub listener: Listener,
    /// Why.
    pub problem: String,
}

/// The agent's side.
#[derive(Debug)]
pub struct HealthChecks {
    wanted: watch::Sender<Arc<Listeners>>,
    failures: mpsc::Receiver<Failure>,
}

/// The side of the servers; see [`Server::serve`].
#[derive(Debug)]
pub struct Server {
    wanted: watch::Receiver<Arc<Listeners>>,
    failures: mpsc::Sender<Failure>,
    reporter: Reporter,
    retry: Duration,
}

/// Both sides; none is wanted yet.
pub fn channel(reporter: Reporter) -> (HealthChecks, Server) {
    let (sender, wanted) = watch::channel(Arc::default());
    let (told, failures) = mpsc::channel(FAILURES);
    let server = Server { wanted, failures: told, reporter, retry: RETRY };
    (HealthChecks { wanted: sender, failures }, server)
}

impl HealthChecks {
    /// Lets there be these and no others.
    pub fn want(&self, listeners: Listeners) {
        self.wanted.send_if_modified(|wanted| {
            let is_new = **wanted != listeners;
            if is_new {
                *wanted = Arc::new(listeners);
            }
            is_new
        });
    }

    /// The next socket that could not be opened; each once, until it is opened or no longer wanted.
    pub async fn failed(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // The thread of the servers has ended, which it does with the process.
            None => pending().await,
        }
    }
}

impl Server {
    /// Keeps the servers as they are wanted, for as long as anybody can want anything.
    pub(crate) async fn serve(mut self) {
        let mut servers = Servers::new(self.reporter, self.failures);
        loop {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            servers.turn(&wanted).await;
            let changed = if servers.failed.is_empty() {
                self.wanted.changed().await
            } else {
                timeout(self.retry, self.wanted.changed()).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// The servers that run, and those that cannot.
struct Servers {
    reporter: Reporter,
    failures: mpsc::Sender<Failure>,
    running: BTreeMap<Listener, Running>,
    /// What is wanted and cannot be opened, with the reason.
    failed: BTreeMap<Listener, String>,
    /// Sockets that may be open at a time.
    room: usize,
    places: Arc<Semaphore>,
}

/// One server.
struct Running {
    local: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Running {
    /// Closes its connections and its socket, whose address is free when this returns.
    async fn close(self) {
        self.task.abort();
        // That it was cancelled is no news.
        let _ = self.task.await;
    }
}

impl Servers {
    fn new(reporter: Reporter, failures: mpsc::Sender<Failure>) -> Self {
        // The other half is for the agent's own files, and for connections.
        let room = files::limit() / 2;
        let places = Arc::new(Semaphore::new(ALL_CONNECTIONS));
        Self { reporter, failures, running: BTreeMap::new(), failed: BTreeMap::new(), room, places }
    }

    /// Brings them to what is wanted, as far as that goes.
    async fn turn(&mut self, wanted: &Listeners) {
        let moves = moves(wanted, self.running.keys(), self.room);
        for listener in &moves.close {
            if let Some(running) = self.running.remove(listener) {
                running.close().await;
            }
            info!(service = %listener.service, address = %listener.address, "answers no health checks any more");
        }
        let before = std::mem::take(&mut self.failed);
        for listener in moves.open {
            match self.open(&listener) {
                Ok(running) => {
                    info!(service = %listener.service, address = %listener.address, "answers health checks");
                    self.running.insert(listener, running);
                }
                Err(error) => {
                    self.failed.insert(listener, error.to_string());
                }
            }
        }
        let full = || format!("the agent may open {} sockets for health checks, which are in use", self.room);
        self.failed.extend(moves.left_out.into_iter().map(|listener| (listener, full())));
        for (listener, running) in &self.running {
            running.local.store(wanted.get(listener).copied().unwrap_or(0), Ordering::Relaxed);
        }
        self.tell(&before);
    }

    fn open(&self, listener: &Listener) -> io::Result<Running> {
        let socket = listen(listener.address)?;
        let local = Arc::new(AtomicUsize::new(0));
        let page = Page {
            service: listener.service.clone(),
            local: Arc::clone(&local),
            reporter: self.reporter.clone(),
        };
        let places = Places::within(CONNECTIONS, &self.places);
        let task = tokio::spawn(async move {
            let answer = move |_| std::future::ready(page.answer());
            accept(&socket, &places, answer).await;
        });
        Ok(Running { local, task })
    }

    /// Tells log, status and the agent; a failure that stands was told before.
    fn tell(&self, before: &BTreeMap<Listener, String>) {
        for (listener, problem) in &self.failed {
            if before.contains_key(listener) {
                continue;
            }
            let Listener { service, address } = listener;
            warn!(%service, %address, %problem, "cannot answer health checks, trying again every {} s", RETRY.as_secs());
            // If too many wait, this one is in log and status only.
            let _ = self.failures.try_send(Failure { listener: listener.clone(), problem: problem.clone() });
        }
        let failed = self.failed.iter().map(|(listener, problem)| FailedHealthCheck {
            service: listener.service.to_string(),
            address: listener.address,
            problem: problem.clone(),
        });
        let status = HealthChecksStatus { listening: self.running.len(), failed: failed.collect() };
        self.reporter.update(|all| all.health_checks = status);
    }
}

/// Listens at once. One address may be spoken for in IPv4 and another socket in IPv6, so this one takes its own family
/// alone; and an address that was just added may be tentative, which is no reason to wait.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What one server tells.
#[derive(Clone)]
struct Page {
    service: ObjectName,
    local: Arc<AtomicUsize>,
    reporter: Reporter,
}

impl Page {
    /// The same whatever is asked, and however.
    fn answer(&self) -> Response<Full<Bytes>> {
        let local = self.local.load(Ordering::Relaxed);
        let keeps_up = self.reporter.health(Instant::now()).keeps_up;
        let is_good = local > 0 && keeps_up;
        let mut response = Response::new(Full::from(body(&self.service, local, keeps_up)));
        *response.status_mut() = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(WEIGHT, HeaderValue::from(local));
        response
    }
}

/// Byte by byte what kube-proxy answers: one level of tabs, and no line end after the last bracket.
fn body(service: &ObjectName, local: usize, keeps_up: bool) -> String {
    let (namespace, name) = (service.namespace(), service.name());
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\
         \"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {keeps_up}\n}}"
    )
}

#[cfg(test)]
#[path = "health_checks_tests.rs"]
mod tests;
