//! A stand-in for an API server: lists and watches over plain HTTP, on loopback if not told else, from a thread of its own, with the
//! faults that a test asks for.
//!
//! It speaks as much of the protocol as a node agent needs: pages, watches from a version, streaming lists, bookmarks,
//! expired versions, tokens, missing rights and APIs, and Events that are made and merged. Objects are whatever JSON a
//! test puts there. A label or field selector is judged when an object is sent, so that an object that stops to match is
//! not said to be deleted.

mod answers;
mod place;
mod serve;
mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::watch;

pub use world::Asked;
use world::World;

/// Path of Services.
pub const SERVICES: &str = "/api/v1/services";
/// Path of EndpointSlices.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
/// Path of Nodes.
pub const NODES: &str = "/api/v1/nodes";
/// Path of ServiceCIDRs.
pub const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Path of Events, which are made and changed one by one and never listed.
pub const EVENTS: &str = "/apis/events.k8s.io/v1/events";

/// How the server behaves. Changes count for requests that come later; those under way are ended by
/// [`ApiServer::cut`].
#[derive(Clone, Debug)]
pub struct Manners {
    /// Whether it knows streaming lists.
    pub streams_lists: bool,
    /// Between two bookmarks of a watch.
    pub bookmark_every: Duration,
    /// The only token that is let in; none: everyone is.
    pub token: Option<String>,
    /// Paths that it does not serve.
    pub absent: Vec<String>,
    /// Paths of which nobody may ask or write anything.
    pub denied: Vec<String>,
    /// Paths on which it fails with 500.
    pub failing: Vec<String>,
    /// Paths on which it takes requests and says nothing.
    pub mute: Vec<String>,
    /// Paths on which it grants watches and says nothing more, also on those that it serves.
    pub quiet: Vec<String>,
    /// Paths on which a listing, of either kind, comes in drops and never to an end.
    pub dripping: Vec<String>,
    /// Paths on which a watch from a version ends with its first bookmark.
    pub ending: Vec<String>,
    /// Whether an expired version is refused by a status, and not by an event of a watch that was granted.
    pub expires_by_status: bool,
    /// Whether it takes requests and says nothing, also on the watches that it serves.
    pub is_silent: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            streams_lists: true,
            bookmark_every: Duration::from_millis(50),
            token: None,
            absent: Vec::new(),
            denied: Vec::new(),
            failing: Vec::new(),
            mute: Vec::new(),
            quiet: Vec::new(),
            dripping: Vec::new(),
            ending: Vec::new(),
            expires_by_status: false,
            is_silent: false,
        }
    }
}

/// A server; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    world: Arc<World>,
    stop: Option<watch::Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server with nothing in it.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// The same at an address of the network namespace that the calling thread is in.
    pub fn start_at(ip: IpAddr) -> Result<Self> {
        Self::serve(Arc::new(World::default()), ip)
    }

    /// Starts another server of the same objects and manners.
    pub fn beside(&self) -> Result<Self> {
        Self::serve(Arc::clone(&self.world), self.address.ip())
    }

    fn serve(world: Arc<World>, ip: IpAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let (sender, bound) = mpsc::channel();
        let served = Arc::clone(&world);
        let run = move || {
            let ended = runtime.block_on(serve::run(served, stopped, ip, |address| {
                // Whoever started this waits for it.
                let _ = sender.send(address);
            }));
            if let Err(error) = ended {
                eprintln!("API server: {error:#}");
            }
        };
        let thread = std::thread::Builder::new().name("apiserver".to_owned()).spawn(run)?;
        let address = bound.recv().context("the API server did not start")?;
        Ok(Self { address, world, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it is asked.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes an object, or replaces the one of the same name. Its version is added.
    pub fn put(&self, path: &str, object: Value) {
        self.world.put(path, object);
    }

    /// The uid of an object, if there is one of this name.
    pub fn uid(&self, path: &str, namespace: &str, name: &str) -> Option<String> {
        self.world.uid(path, &format!("{namespace}/{name}"))
    }

    /// Deletes an object; nothing if it is not there.
    pub fn delete(&self, path: &str, namespace: &str, name: &str) {
        self.world.delete(path, namespace, name);
    }

    /// Changes the manners.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        self.world.behave(change);
    }

    /// Breaks off every watch, of the servers beside this one too.
    pub fn cut(&self) {
        self.world.cut();
    }

    /// Forgets what changed up to now: whoever wants to go on from an earlier version must list again.
    pub fn compact(&self) {
        self.world.compact();
    }

    /// The Events that were written, in the order of namespace and name.
    pub fn events(&self) -> Vec<Value> {
        self.world.events()
    }

    /// Forgets all Events, as an API server does after an hour.
    pub fn expire_events(&self) {
        self.world.expire_events();
    }

    /// What was asked so far, of the servers beside this one too.
    pub fn asked(&self) -> Vec<Asked> {
        self.world.asked()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
