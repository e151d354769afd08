//! Who plays a scenario: a writer with its files, and those that come after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use shunt::agent::sync::{Sync, SyncOptions};
use shunt::maps::apply::{Executed, StoreOrder};
use shunt::maps::{MapStore, adopt, render};
use shunt::model::{Event, Listing};
use shunt::plan::node::NodePortAddresses;
use shunt::plan::rules::Rules;
use shunt::source::manifests::{Directory, FileChange};

use super::NODE;
use super::mortal::Mortal;

/// A batch that ends early is tried again this often: with faults at one effect in ten, long batches take many.
const TRIES: usize = 20_000;
/// Milliseconds between two batches, longer than any quarantine.
const STEP: u64 = 1_500;

pub(super) struct Player<S, T> {
    sync: Sync<Mortal<S>>,
    tick: T,
    directory: Directory,
    files: BTreeMap<PathBuf, Vec<u8>>,
    pending: Vec<FileChange>,
    addresses: Vec<IpAddr>,
    addresses_changed: bool,
    is_listed: bool,
    labels: HashMap<u64, String>,
    /// What was said, each once: a batch that is planned again says it again.
    warnings: BTreeSet<String>,
    executed: Executed,
    now: u64,
}

impl<S: MapStore, T: Fn(&mut S, u64)> Player<S, T> {
    pub(super) fn new(store: S, tick: T) -> Result<Self> {
        let options = SyncOptions {
            node_name: NODE.to_owned(),
            node_ports: NodePortAddresses::All,
            serve_local_vips: false,
            expected: Listing::ALL.to_vec(),
            rules: Rules::for_shards(2),
            order: StoreOrder::Planned,
        };
        Ok(Self {
            sync: Sync::adopt(Mortal::new(store), options)?,
            tick,
            directory: Directory::new(NODE),
            files: BTreeMap::new(),
            pending: Vec::new(),
            addresses: Vec::new(),
            addresses_changed: true,
            is_listed: false,
            labels: HashMap::new(),
            warnings: BTreeSet::new(),
            executed: Executed::default(),
            now: 0,
        })
    }

    pub(super) fn into_store(self) -> S {
        self.sync.into_store().store
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
        self.addresses_changed = true;
    }

    pub(super) fn change(&mut self, file: &str, content: Option<Vec<u8>>) {
        let path = PathBuf::from(file);
        match &content {
            Some(bytes) => self.files.insert(path.clone(), bytes.clone()),
            None => self.files.remove(&path),
        };
        self.pending.push((path, content));
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        self.take_changes();
        for _ in 0..TRIES {
            if self.write() {
                return Ok(());
            }
        }
        bail!("the maps never settled")
    }

    /// A sync whose writer dies after `effects`; the next one ends it.
    pub(super) fn kill(mut self, effects: u64) -> Result<Self> {
        self.take_changes();
        self.sync.store_mut().die_after(effects);
        for _ in 0..TRIES {
            let is_settled = self.write();
            if self.sync.store().is_dead() {
                let mut next = self.successor()?;
                next.sync()?;
                return Ok(next);
            }
            ensure!(!is_settled, "the writer was done before {effects} effects");
        }
        bail!("the writer never died")
    }

    /// A new writer, which must find nothing to do.
    pub(super) fn restart(self) -> Result<Self> {
        let before = self.text()?;
        let mut next = self.successor()?;
        next.sync()?;
        ensure!(next.executed == Executed::default(), "a restart wrote: {:?}", next.executed);
        ensure!(next.text()? == before, "a restart changed the maps");
        Ok(next)
    }

    pub(super) fn text(&self) -> Result<String> {
        let actual = adopt::adopt(self.sync.store())?.actual;
        Ok(render::text(&actual, &|tag| self.labels.get(&tag.0).cloned()))
    }

    /// What was said since the last time, and who claims in vain what another has.
    pub(super) fn warnings(&mut self) -> String {
        let mut lines = std::mem::take(&mut self.warnings);
        let conflicts = self.sync.planner().conflicts();
        lines.extend(conflicts.iter().map(|conflict| {
            format!("{}: frontend {} is taken by {}", conflict.loser, conflict.key, conflict.winner)
        }));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn take_changes(&mut self) {
        let changes = std::mem::take(&mut self.pending);
        let batch =
            if self.is_listed { self.directory.update(changes) } else { self.directory.list(changes) };
        self.is_listed = true;
        self.sync.take(batch.events);
        self.warnings.extend(batch.warnings.iter().map(ToString::to_string));
        if std::mem::take(&mut self.addresses_changed) {
            let listing = Listing::NodeAddresses;
            let addresses = Event::NodeAddresses(self.addresses.clone());
            self.sync.take([Event::ListStarted(listing), addresses, Event::ListEnded(listing)]);
        }
    }

    /// Writes once; whether all is in the maps now.
    fn write(&mut self) -> bool {
        self.now += STEP;
        (self.tick)(&mut self.sync.store_mut().store, STEP);
        let outcome = self.sync.sync(|| self.now);
        self.labels.extend(outcome.named.iter().map(|(tag, label)| (tag.0, label.to_string())));
        self.warnings.extend(outcome.warnings.iter().map(ToString::to_string));
        self.executed += outcome.executed;
        outcome.error.is_none() && outcome.is_settled
    }

    /// The next writer over the same maps, to which every file is new.
    fn successor(self) -> Result<Self> {
        let Self { sync, tick, files, addresses, labels, warnings, now, .. } = self;
        let mut next = Self::new(sync.into_store().store, tick)?;
        next.pending = files.iter().map(|(path, bytes)| (path.clone(), Some(bytes.clone()))).collect();
        (next.files, next.addresses, next.labels, next.warnings, next.now) =
            (files, addresses, labels, warnings, now);
        Ok(next)
    }
}
