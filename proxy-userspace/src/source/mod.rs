//! In: whoever says what the cluster wants. A source turns what it reads into [`Event`]s and never learns what becomes
//! of them.
//!
//! `api` holds the shapes that are decoded, `convert` gives them meaning, `kube` follows an API server (and hands it what
//! `events` has to tell), `manifests` reads a directory, `node` the addresses of this node's interfaces.

pub mod api;
pub mod convert;
pub mod kube;
pub mod manifests;
pub mod node;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Event;

/// Changes that belong together: they are applied to the state before anything is planned, so that no half of them
/// reaches the datapath.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// Changes, in order.
    pub events: Vec<Event>,
    /// What could not be made sense of, and was skipped.
    pub warnings: Vec<Warning>,
}

impl Batch {
    /// True if there is nothing to do and nothing to say.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.warnings.is_empty()
    }
}

/// Something that was skipped, named so that its author can find it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object, e.g. `Service default/web`, with its file if it has one.
    pub object: String,
    /// The field, e.g. `spec.clusterIPs[0]`; for text that could not be read, the line.
    pub field: String,
    /// What is wrong with it, and what follows from that.
    pub problem: String,
    /// The object by its names in the API, if it is one and has any.
    pub about: Option<Subject>,
}

/// An object of the API, by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Its kind.
    pub kind: api::Kind,
    /// Its namespace; empty if it is in none.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl Subject {
    /// Something that is wrong with the object.
    fn warning(&self, field: String, problem: String) -> Warning {
        let about = (!self.name.is_empty()).then(|| self.clone());
        Warning { object: self.to_string(), field, problem, about }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.word();
        match (&*self.namespace, &*self.name) {
            (_, "") => write!(out, "{kind} without a name"),
            ("", name) => write!(out, "{kind} {name}"),
            (namespace, name) => write!(out, "{kind} {namespace}/{name}"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(out, "{}: {}", self.object, self.problem)
        } else {
            write!(out, "{}: {}: {}", self.object, self.field, self.problem)
        }
    }
}

/// Why a source could not be opened. Once open, a source does not fail: it reports, and tries again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory of manifests cannot be listed.
    #[error("manifests directory {path}")]
    Directory {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gives no watch.
    #[error("inotify for {path}")]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread of a source could not be started.
    #[error("start of the {name} thread")]
    Thread {
        /// Name of the thread.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No API server answered in time.
    #[error(
        "no API server answered at {servers} (KUBERNETES_SERVICE_HOST) within {limit:?}: {last}; name its own address with \
         --api-server: a cluster IP is an address that this agent itself is here to serve"
    )]
    Unreached {
        /// The addresses that were tried.
        servers: String,
        /// How long.
        limit: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// No netlink socket for the addresses of the node.
    #[error("netlink socket for interface addresses")]
    Netlink(#[source] io::Error),
}
