//! What the files say, and which changes follow from a change of files: the pure core of the source.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reading::{Claim, Claims, Key, Reading};
use crate::model::{Event, Listing};
use crate::source::convert::Interner;
use crate::source::{Batch, Warning};

/// A file and what it holds now; none if it is gone. A path is always spelled the same way.
pub type FileChange = (PathBuf, Option<Vec<u8>>);

/// All files and what each last said.
#[derive(Debug)]
pub struct Directory {
    node_name: String,
    names: Interner,
    files: BTreeMap<Arc<Path>, Claims>,
    /// The file whose claim counts: the first of those that have one.
    owners: HashMap<Key, Arc<Path>>,
    /// The others; seldom any.
    shadowed: BTreeMap<Key, BTreeSet<Arc<Path>>>,
}

impl Directory {
    /// The kinds of objects that come from files.
    pub const LISTINGS: [Listing; 4] =
        [Listing::Services, Listing::EndpointSlices, Listing::Node, Listing::ServiceCidrs];

    /// An empty directory, seen from the node of this name.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            names: Interner::default(),
            files: BTreeMap::new(),
            owners: HashMap::new(),
            shadowed: BTreeMap::new(),
        }
    }

    /// The first look at all files: the listing of each kind.
    pub fn list(&mut self, files: impl IntoIterator<Item = FileChange>) -> Batch {
        let mut batch = self.update(files);
        let found = std::mem::take(&mut batch.events);
        batch.events.extend(Self::LISTINGS.map(Event::ListStarted));
        batch.events.extend(found);
        batch.events.extend(Self::LISTINGS.map(Event::ListEnded));
        batch
    }

    /// Changes of files that were seen together. Only objects whose meaning changed between before all of them and
    /// after all of them make an event, deletions first.
    pub fn update(&mut self, changes: impl IntoIterator<Item = FileChange>) -> Batch {
        let mut before = BTreeMap::new();
        let mut warnings = Vec::new();
        for change in changes {
            self.take(change, &mut before, &mut warnings);
        }
        let (mut events, mut applied) = (Vec::new(), Vec::new());
        for (key, before) in before {
            match self.claim(&key) {
                after if *after == before => {}
                Some(after) => applied.push(after.to_event()),
                None => events.push(key.into_deletion()),
            }
        }
        events.append(&mut applied);
        Batch { events, warnings }
    }

    /// What counts for a key.
    fn claim(&self, key: &Key) -> &Claim {
        let claims = self.owners.get(key).and_then(|owner| self.files.get(owner));
        claims.and_then(|claims| claims.get(key)).unwrap_or(&None)
    }

    /// Puts a file's new claims in place of its old ones, and notes what counted before for each key it touches.
    fn take(
        &mut self,
        (path, content): FileChange,
        before: &mut BTreeMap<Key, Claim>,
        warnings: &mut Vec<Warning>,
    ) {
        let path: Arc<Path> = path.into();
        let mut reading = match content {
            Some(bytes) => Reading::of(&path, &bytes, &self.node_name, &mut self.names),
            None => Reading::default(),
        };
        let old = self.files.get(&path);
        for (key, claim) in old.into_iter().flatten() {
            match reading.claims.get_mut(key) {
                // The old object is the one that the state shares.
                Some(new) if new == claim => new.clone_from(claim),
                None if reading.is_partial => {
                    reading.claims.insert(key.clone(), claim.clone());
                }
                Some(_) | None => {
                    before.entry(key.clone()).or_insert_with(|| self.claim(key).clone());
                }
            }
        }
        for key in reading.claims.keys().filter(|key| !old.is_some_and(|old| old.contains_key(*key))) {
            before.entry(key.clone()).or_insert_with(|| self.claim(key).clone());
        }
        warnings.append(&mut reading.warnings);
        self.replace(&path, reading.claims, warnings);
    }

    fn replace(&mut self, path: &Arc<Path>, new: Claims, warnings: &mut Vec<Warning>) {
        let old = self.files.remove(path).unwrap_or_default();
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            self.release(key, path);
        }
        for key in new.keys().filter(|key| !old.contains_key(*key)) {
            self.contend(key, path, warnings);
        }
        if !new.is_empty() {
            self.files.insert(Arc::clone(path), new);
        }
    }

    fn release(&mut self, key: &Key, path: &Arc<Path>) {
        let mut next = None;
        if let Some(others) = self.shadowed.get_mut(key) {
            if !others.remove(path) {
                next = others.pop_first();
            }
            let is_last = others.is_empty();
            if is_last {
                self.shadowed.remove(key);
            }
        }
        if self.owners.get(key) == Some(path) {
            match next {
                Some(next) => self.owners.insert(key.clone(), next),
                None => self.owners.remove(key),
            };
        }
    }

    fn contend(&mut self, key: &Key, path: &Arc<Path>, warnings: &mut Vec<Warning>) {
        let Some(owner) = self.owners.get_mut(key) else {
            self.owners.insert(key.clone(), Arc::clone(path));
            return;
        };
        let loser = if path < owner { std::mem::replace(owner, Arc::clone(path)) } else { Arc::clone(path) };
        warnings.push(Warning {
            object: format!("{key} in {}", loser.display()),
            field: String::new(),
            problem: format!("also in {}, which wins: it is the first in order", owner.display()),
            about: None,
        });
        self.shadowed.entry(key.clone()).or_default().insert(loser);
    }
}
