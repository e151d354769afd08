//! What the servers hold: objects as text, the changes since the last compaction, and who asked for what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::Manners;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method, in capitals.
    pub method: String,
    /// Path as it came.
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
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    labels: Arc<[String]>,
    /// `spec.clusterIP`, the only field of a spec that a selector may name.
    cluster_ip: Option<Arc<str>>,
    version: u64,
}

impl Stored {
    /// Whether the selectors of a query let it through: `!key` of labels, and of fields `name=value` and `name!=value`.
    pub(super) fn matches(&self, selectors: &Selectors) -> bool {
        let has_label = |key: &String| self.labels.contains(key);
        let has_field = |field: &Field| (self.field(&field.name) == field.value) == field.is_wanted;
        !selectors.absent_labels.iter().any(has_label)
            && selectors.fields.iter().all(has_field)
            && selectors.namespace.as_ref().is_none_or(|namespace| **namespace == *self.namespace)
    }
}

impl Stored {
    fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.name,
            "spec.clusterIP" => self.cluster_ip.as_deref().unwrap_or_default(),
            // A real server refuses it, and the source would follow nothing.
            _ => "?",
        }
    }
}

/// What a field must be, or must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) is_wanted: bool,
}

/// What a request narrows itself down to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    pub(super) absent_labels: Vec<String>,
    pub(super) fields: Vec<Field>,
    pub(super) namespace: Option<String>,
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
    /// By namespace and name.
    events: BTreeMap<(String, String), Value>,
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
        let path: Arc<str> = path.into();
        let objects = kept.objects.entry(Arc::clone(&path)).or_default();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let text =
            |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let key = format!("{}/{}", text(&object, "namespace"), text(&object, "name"));
        // An object keeps its uid for as long as it is there.
        let uid = objects.get(&key).map_or_else(|| format!("uid-{version}").into(), |it| Arc::clone(&it.uid));
        object["metadata"]["uid"] = (*uid).into();
        let metadata = &object["metadata"];
        let labels = metadata["labels"].as_object().into_iter().flat_map(|labels| labels.keys().cloned());
        let stored = Stored {
            namespace: text(&object, "namespace").into(),
            name: text(&object, "name").into(),
            uid,
            labels: labels.collect(),
            cluster_ip: object["spec"]["clusterIP"].as_str().map(Arc::from),
            version,
            text: object.to_string().into(),
        };
        let before = objects.insert(key, stored.clone());
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

    pub(super) fn uid(&self, path: &str, key: &str) -> Option<String> {
        let kept = self.lock();
        kept.objects.get(path)?.get(key).map(|stored| stored.uid.to_string())
    }

    /// Makes an Event; false if there is one of its name.
    pub(super) fn create_event(&self, namespace: &str, event: Value) -> bool {
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut kept = self.lock();
        let key = (namespace.to_owned(), name);
        let is_new = !kept.events.contains_key(&key);
        if is_new {
            kept.events.insert(key, event);
        }
        is_new
    }

    /// Replaces fields of an Event; false if it is not there.
    pub(super) fn patch_event(&self, (namespace, name): (&str, &str), fields: &Value) -> bool {
        let mut kept = self.lock();
        let event = kept.events.get_mut(&(namespace.to_owned(), name.to_owned()));
        let Some(event) = event else { return false };
        for (field, value) in fields.as_object().into_iter().flatten() {
            event[field] = value.clone();
        }
        true
    }

    pub(super) fn events(&self) -> Vec<Value> {
        self.lock().events.values().cloned().collect()
    }

    pub(super) fn expire_events(&self) {
        self.lock().events.clear();
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

    /// All objects of a collection that are chosen and come after the key `after`, `limit` at most, each with its key;
    /// and the version of that.
    pub(super) fn list(
        &self,
        (path, selectors): (&str, &Selectors),
        after: &str,
        limit: usize,
    ) -> (Vec<(String, Stored)>, u64) {
        let kept = self.lock();
        let objects = kept.objects.get(path);
        let later = |(key, stored): &(&String, &Stored)| key.as_str() > after && stored.matches(selectors);
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
