//! The Kubernetes API as a source: four watches, the same events as the manifests'.
//!
//! Each watch runs by itself: list, then follow, and after any fault go on where it stopped. A relist is one
//! `ListStarted` .. `ListEnded`: no deletions come, the state drops what was not said again. What the API server says
//! is read object by object and let go at once; nothing is kept here but names that endpoints share.
//!
//! The watch protocol is spoken here and not by kube's `watcher`, which waits for the head of an answer without limit,
//! reopens a silent or short-lived stream without a word, asks again for ever where the server answers a resumed watch
//! with 410 as a status, decodes a page of a listing as a whole, and forgets where it was when its client is replaced.
//!
//! How long a dead server goes unnoticed: see [`Bounds`].

mod access;
mod answer;
mod backoff;
mod batcher;
mod connections;
mod fault;
mod paging;
mod resource;
mod servers;
mod watch;
mod write;

pub use access::{Access, AccessError, Identity};
pub use connections::{Connection, Connections};
pub use write::{Unwritten, Writing};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Batch, SourceError};
use backoff::Backoff;
use resource::Resource;
use servers::Servers;
use watch::{Follower, Surroundings};

/// How long the source waits for what. The default is what a user runs; tests shorten it.
///
/// A server whose host is gone is noticed after `keepalive` (30 s), one that is silent with its host alive after
/// `silence` (90 s), in the midst of a listing after `answer` (30 s). A watch that fell silent is opened again; if that
/// has no answer either, the next server is asked after another `answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For a TCP connection.
    pub connect: Duration,
    /// For the head of an answer, and between any two pieces of a listing.
    pub answer: Duration,
    /// Between any two pieces of a watch, before it is opened again. An API server sends a bookmark every minute, but need
    /// not.
    pub silence: Duration,
    /// For the whole of one page of a listing.
    pub page: Duration,
    /// For the whole of a listing that comes as a stream.
    pub listing: Duration,
    /// Bytes of a page at most, and of an object on a watch; of a page that is larger, less is asked for.
    pub page_bytes: usize,
    /// For sign of life of the server's host.
    pub keepalive: Duration,
    /// For the own Node to come into being, before going on without.
    pub node: Duration,
    /// Until an API that the server does not have is asked for again.
    pub absent: Duration,
    /// First and longest wait after a fault.
    pub backoff: (Duration, Duration),
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            page: Duration::from_mins(1),
            listing: Duration::from_mins(5),
            page_bytes: 32 << 20,
            keepalive: Duration::from_secs(30),
            // As long as kube-proxy waits.
            node: Duration::from_secs(30),
            absent: Duration::from_mins(5),
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
        }
    }
}

/// The API that is being followed; dropping it ends the thread.
#[derive(Debug)]
pub struct Kube {
    _stop: oneshot::Sender<()>,
    /// Its sender is gone with the thread.
    alive: oneshot::Receiver<()>,
    connections: Connections,
}

impl Kube {
    /// Follows Services, EndpointSlices, ServiceCIDRs and the Node of this name, from a thread of its own in the network
    /// namespace of the caller. A receiver that is slow holds the watches up; one that is gone ends them.
    pub fn follow(
        access: Access,
        bounds: Bounds,
        node_name: &str,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Self, SourceError> {
        let (stop, stopped) = oneshot::channel();
        let (life, alive) = oneshot::channel::<()>();
        let connections = Connections::default();
        let surroundings = Arc::new(Surroundings {
            servers: Servers::new(access.servers().len()),
            access,
            bounds,
            batches,
            connections: connections.clone(),
        });
        let node_name = node_name.to_owned();
        let name = "kube";
        let failed = |source| SourceError::Thread { name, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let watches = async move {
            let follower = |resource| Follower::new(Arc::clone(&surroundings), resource).run();
            tokio::join!(
                follower(Resource::Services),
                follower(Resource::EndpointSlices),
                follower(Resource::Node(node_name.into())),
                follower(Resource::ServiceCidrs)
            )
        };
        let run = move || {
            // Dropped with the thread, also when it panics.
            let _life = life;
            runtime.block_on(async {
                tokio::select! {
                    // Both an answer and a sender that is gone mean the end.
                    _ = stopped => {}
                    _ = watches => {}
                }
            });
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { _stop: stop, alive, connections })
    }

    /// Resolves when the thread has ended, which it does by itself only if it panics or its receiver is gone.
    pub async fn ended(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.alive).await;
    }

    /// How the watches stand.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

/// Waits until an API server answers at one of the addresses, whatever it says; gives up after `limit`.
pub async fn reach(access: &Access, bounds: Bounds, limit: Duration) -> Result<(), SourceError> {
    let mut backoff = Backoff::new(bounds.backoff);
    let mut last = "no answer".to_owned();
    let attempts = async {
        for server in (0..access.servers().len()).cycle() {
            match watch::greet(access, server, bounds).await {
                Ok(()) => return,
                Err(fault) => last = fault.to_string(),
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    };
    match tokio::time::timeout(limit, attempts).await {
        Ok(()) => Ok(()),
        Err(_) => Err(SourceError::Unreached { servers: access.servers().join(", "), limit, last }),
    }
}
