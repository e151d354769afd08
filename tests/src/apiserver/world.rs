//! What the servers hold: objects as text, the changes since the last compaction, and who asked for what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::Manners;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Path of the collection.
    pub path: String,
    /// Query as it came.
    pub query: String,
    /// Bearer token.
    pub token: Option<String>,
}

impl Asked {
    /// Whether everything was asked for, and not only what changes.
    pub fn is_listing(&self) -> bool {
        !self.query.contains("watch=true") || self.query.contains("sendInitialEvents=true")
    }
}

/// An object, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) text: Arc<str>,
    name: Arc<str>,
    labels: Arc<[String]>,
    version: u64,
}

impl Stored {
    /// Whether the selectors of a query let it through: `!key` of labels, `metadata.name=value` of fields.
    pub(super) fn matches(&self, selectors: &Selectors) -> bool {
        let has_label = |key: &String| self.labels.contains(key);
        !selectors.absent_labels.iter().any(has_label)
            && selectors.name.as_ref().is_none_or(|name| **name == *self.name)
    }
}

/// What a request narrows itself down to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    pub(super) absent_labels: Vec<String>,
    pub(super) name: Option<String>,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) path: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) object: Stored,
}

#[derive(Debug, Default)]
struct Kept {
    version: u64,
    /// Versions up to this one are forgotten.
    compacted: u64,
    objects: BTreeMap<Arc<str>, BTreeMap<String, Stored>>,
    changes: Vec<Change>,
    asked: Vec<Asked>,
    manners: Manners,
    /// Counts the cuts.
    cuts: u64,
}

/// Shared by all servers of one cluster.
#[derive(Debug)]
pub(super) struct World {
    kept: Mutex<Kept>,
    /// Counts whatever a watch may wait for.
    turned: watch::Sender<u64>,
}

impl Default for World {
    fn default() -> Self {
        Self { kept: Mutex::default(), turned: watch::Sender::new(0) }
    }
}

impl World {
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut kept = self.lock();
        kept.version += 1;
        let version = kept.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let metadata = &object["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        let labels = metadata["labels"].as_object().into_iter().flat_map(|labels| labels.keys().cloned());
        let stored = Stored {
            name: text("name").into(),
            labels: labels.collect(),
            version,
            text: object.to_string().into(),
        };
        let key = format!("{}/{}", text("namespace"), stored.name);
        let path: Arc<str> = path.into();
        let before = kept.objects.entry(Arc::clone(&path)).or_default().insert(key, stored.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        kept.changes.push(Change { version, path, kind, object: stored });
        drop(kept);
        self.turn();
    }

    pub(super) fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut kept = self.lock();
        let key = format!("{namespace}/{name}");
        let Some(object) = kept.objects.get_mut(path).and_then(|objects| objects.remove(&key)) else {
            return;
        };
        kept.version += 1;
        let version = kept.version;
        // The last state is sent with the version of the deletion.
        let (old, new) = (object.version.to_string(), version.to_string());
        let text = object
            .text
            .replace(&format!("\"resourceVersion\":\"{old}\""), &format!("\"resourceVersion\":\"{new}\""));
        let object = Stored { text: text.into(), version, ..object };
        kept.changes.push(Change { version, path: path.into(), kind: "DELETED", object });
        drop(kept);
        self.turn();
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.lock().manners);
        self.turn();
    }

    pub(super) fn cut(&self) {
        self.lock().cuts += 1;
        self.turn();
    }

    pub(super) fn compact(&self) {
        let mut kept = self.lock();
        // A change of something else makes the present version an old one.
        kept.version += 1;
        kept.compacted = kept.version;
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    pub(super) fn note(&self, asked: Asked) {
        self.lock().asked.push(asked);
    }

    pub(super) fn manners(&self) -> Manners {
        self.lock().manners.clone()
    }

    pub(super) fn cuts(&self) -> u64 {
        self.lock().cuts
    }

    /// Wakes up whenever something may have happened.
    pub(super) fn turns(&self) -> watch::Receiver<u64> {
        self.turned.subscribe()
    }

    /// All objects of a collection after the key `after`, `limit` at most, each with its key; and the version of that.
    pub(super) fn list(&self, path: &str, after: &str, limit: usize) -> (Vec<(String, Stored)>, u64) {
        let kept = self.lock();
        let objects = kept.objects.get(path);
        let later = |(key, _): &(&String, &Stored)| key.as_str() > after;
        let items = objects.into_iter().flatten().filter(later).take(limit);
        (items.map(|(key, stored)| (key.clone(), stored.clone())).collect(), kept.version)
    }

    /// Whether nobody can go on from a version any more. Whoever already has is not concerned.
    pub(super) fn is_forgotten(&self, version: u64) -> bool {
        version < self.lock().compacted
    }

    /// The changes of a collection after a version, and the version that they reach.
    pub(super) fn changes(&self, path: &str, after: u64) -> (Vec<Change>, u64) {
        let kept = self.lock();
        let start = kept.changes.partition_point(|change| change.version <= after);
        let changes = kept.changes[start..].iter().filter(|change| *change.path == *path).cloned();
        (changes.collect(), kept.version)
    }

    fn turn(&self) {
        self.turned.send_modify(|turns| *turns += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
