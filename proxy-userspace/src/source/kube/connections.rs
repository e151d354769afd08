//! How the watches stand, for whoever reports it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::model::Listing;

/// One watch. Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Address of the API server in use, or last tried.
    pub server: String,
    /// Where the last answer came from; that is another address than the server's if a name stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Since when it has been followed without a break; none while it is not, and until a watch that was opened has brought
    /// something.
    pub watching_since: Option<Timestamp>,
    /// Since when it has not been followed; none while it is.
    pub lost_since: Option<Timestamp>,
    /// The last fault, also one that is over.
    pub last_error: Option<String>,
    /// Listings that were completed; one is the start, more are relists.
    pub listings: u64,
    /// Faults since the start.
    pub faults: u64,
    /// What this server cannot do, if anything: the listing is empty for that reason.
    pub absent: Option<String>,
}

/// A shared, cheap handle on the state of all watches.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<BTreeMap<Listing, Connection>>>);

impl Connections {
    /// The watch of a kind of object; none before it was first tried.
    pub fn get(&self, listing: Listing) -> Option<Connection> {
        self.lock().get(&listing).cloned()
    }

    /// A server is about to be asked.
    pub(super) fn tries(&self, listing: Listing, server: &str) {
        let mut watches = self.lock();
        let watch = watches.entry(listing).or_default();
        if watch.server != server {
            server.clone_into(&mut watch.server);
        }
        if watch.watching_since.is_none() {
            watch.lost_since.get_or_insert_with(Timestamp::now);
        }
    }

    /// Where the last answers came from.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.lock().values().filter_map(|watch| Some(watch.peer?.ip())).collect()
    }

    /// An answer came.
    pub(super) fn reached(&self, listing: Listing, peer: Option<SocketAddr>) {
        self.lock().entry(listing).or_default().peer = peer;
    }

    /// A listing is complete.
    pub(super) fn listed(&self, listing: Listing) {
        self.lock().entry(listing).or_default().listings += 1;
    }

    /// Changes come in.
    pub(super) fn follows(&self, listing: Listing) {
        let mut watches = self.lock();
        let watch = watches.entry(listing).or_default();
        watch.absent = None;
        if watch.lost_since.take().is_some() || watch.watching_since.is_none() {
            info!(?listing, server = %watch.server, "watching");
        }
        watch.watching_since.get_or_insert_with(Timestamp::now);
    }

    /// Changes do not come in. Said in the log when it begins, and when the reason changes.
    pub(super) fn lost(&self, listing: Listing, error: String) {
        let mut watches = self.lock();
        let watch = watches.entry(listing).or_default();
        watch.faults += 1;
        if watch.watching_since.take().is_some() || watch.last_error.as_ref() != Some(&error) {
            warn!(?listing, server = %watch.server, error, "not watching; what is known stands");
        }
        watch.lost_since.get_or_insert_with(Timestamp::now);
        watch.last_error = Some(error);
    }

    /// The server has no such objects to list, for a reason that is said once.
    pub(super) fn absent(&self, listing: Listing, reason: &str) {
        let mut watches = self.lock();
        let watch = watches.entry(listing).or_default();
        if watch.absent.as_deref() != Some(reason) {
            info!(?listing, server = %watch.server, reason, "taken as empty");
        }
        watch.absent = Some(reason.to_owned());
        watch.watching_since = None;
        watch.lost_since.get_or_insert_with(Timestamp::now);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Listing, Connection>> {
        // Every holder only assigns fields: after a panic in one, each field still is an old or a new value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_either_followed_or_lost() {
        let connections = Connections::default();
        let listing = Listing::Services;
        assert_eq!(connections.get(listing), None);
        let state = || {
            let watch = connections.get(listing).unwrap();
            (watch.watching_since.is_some(), watch.lost_since.is_some(), watch.faults)
        };
        connections.tries(listing, "http://a");
        assert_eq!(state(), (false, true, 0));
        connections.follows(listing);
        assert_eq!(state(), (true, false, 0));
        let since = connections.get(listing).unwrap().watching_since;
        // The server ends every watch from time to time, which is no loss.
        connections.tries(listing, "http://a");
        connections.follows(listing);
        assert_eq!(connections.get(listing).unwrap().watching_since, since);
        connections.lost(listing, "gone".to_owned());
        connections.lost(listing, "gone".to_owned());
        assert_eq!(state(), (false, true, 2));
        connections.follows(listing);
        assert_eq!(connections.get(listing).unwrap().last_error.as_deref(), Some("gone"));
    }
}
