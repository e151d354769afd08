//! Golden scenarios: manifests, steps and the expected text of the maps in one file, played on any store.
//!
//! A line that starts with `@` is a step; the lines after it are its content.
//! `@addresses IP...` the node's own addresses; `@write FILE` a manifest; `@remove FILE`; `@sync` puts all changes since
//! the last one into the maps as one batch; `@restart` a new writer adopts the maps; `@expect` the text of the maps.
//! Lines before the first step tell what the scenario is about.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use shunt::agent::sync::{Sync, SyncOptions};
use shunt::maps::apply::StoreOrder;
use shunt::maps::{MapStore, adopt, render};
use shunt::model::{Event, Listing};
use shunt::plan::node::NodePortAddresses;
use shunt::plan::rules::Rules;
use shunt::source::manifests::{Directory, FileChange};

/// Name of the node in every scenario.
pub const NODE: &str = "node-1";
/// A batch that ends early is tried again this often: with faults at one effect in ten, long batches take many.
const TRIES: usize = 20_000;
/// Milliseconds between two batches, longer than any quarantine.
const STEP: u64 = 1_500;

/// One step and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    words: Vec<String>,
    content: String,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    preface: String,
    steps: Vec<Step>,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Self {
        let (mut preface, mut steps) = (String::new(), Vec::<Step>::new());
        for line in text.lines() {
            match (line.strip_prefix('@'), steps.last_mut()) {
                (Some(words), _) => {
                    let words = words.split_whitespace().map(str::to_owned).collect();
                    steps.push(Step { words, content: String::new() });
                }
                (None, Some(step)) => step.content.extend([line, "\n"]),
                (None, None) => preface.extend([line, "\n"]),
            }
        }
        Self { preface, steps }
    }

    /// The scenario as text, with `expected` in place of what its `@expect` steps hold.
    pub fn with_expected(&self, expected: &[String]) -> String {
        let mut expected = expected.iter();
        let mut out = self.preface.clone();
        for step in &self.steps {
            out.extend(["@", &step.words.join(" "), "\n"]);
            let is_expect = step.words.first().is_some_and(|word| word == "expect");
            out += if is_expect { expected.next().unwrap_or(&step.content) } else { &step.content };
        }
        out
    }

    /// What each `@expect` step holds.
    pub fn expected(&self) -> Vec<String> {
        let is_expect = |step: &&Step| step.words.first().is_some_and(|word| word == "expect");
        self.steps.iter().filter(is_expect).map(|step| step.content.clone()).collect()
    }
}

/// Plays a scenario on `store`; what the maps held at each `@expect`. `tick` moves a fake's clock.
pub fn play<S: MapStore>(scenario: &Scenario, store: S, tick: impl Fn(&mut S, u64)) -> Result<Vec<String>> {
    let mut player = Player::new(store)?;
    let mut seen = Vec::new();
    for step in &scenario.steps {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["addresses", addresses @ ..] => {
                let parsed: Result<Vec<_>, _> = addresses.iter().map(|text| text.parse()).collect();
                player.addresses = parsed.with_context(|| words.join(" "))?;
                player.addresses_changed = true;
            }
            ["write", file] => player.change(file, Some(step.content.clone().into_bytes())),
            ["remove", file] => player.change(file, None),
            ["sync"] => player.sync(&tick)?,
            ["restart"] => player = player.restart(&tick)?,
            ["expect"] => seen.push(player.text()?),
            other => bail!("no such step: {}", other.join(" ")),
        }
    }
    Ok(seen)
}

struct Player<S> {
    sync: Sync<S>,
    directory: Directory,
    files: BTreeMap<PathBuf, Vec<u8>>,
    pending: Vec<FileChange>,
    addresses: Vec<std::net::IpAddr>,
    addresses_changed: bool,
    is_listed: bool,
    labels: HashMap<u64, String>,
    now: u64,
}

impl<S: MapStore> Player<S> {
    fn new(store: S) -> Result<Self> {
        let options = SyncOptions {
            node_name: NODE.to_owned(),
            node_ports: NodePortAddresses::All,
            expected: Listing::ALL.to_vec(),
            rules: Rules::for_shards(2),
            order: StoreOrder::Planned,
        };
        Ok(Self {
            sync: Sync::adopt(store, options)?,
            directory: Directory::new(NODE),
            files: BTreeMap::new(),
            pending: Vec::new(),
            addresses: Vec::new(),
            addresses_changed: true,
            is_listed: false,
            labels: HashMap::new(),
            now: 0,
        })
    }

    fn change(&mut self, file: &str, content: Option<Vec<u8>>) {
        let path = PathBuf::from(file);
        match &content {
            Some(bytes) => self.files.insert(path.clone(), bytes.clone()),
            None => self.files.remove(&path),
        };
        self.pending.push((path, content));
    }

    fn sync(&mut self, tick: &impl Fn(&mut S, u64)) -> Result<()> {
        let changes = std::mem::take(&mut self.pending);
        let batch =
            if self.is_listed { self.directory.update(changes) } else { self.directory.list(changes) };
        self.is_listed = true;
        self.sync.take(batch.events);
        if std::mem::take(&mut self.addresses_changed) {
            let listing = Listing::NodeAddresses;
            let addresses = Event::NodeAddresses(self.addresses.clone());
            self.sync.take([Event::ListStarted(listing), addresses, Event::ListEnded(listing)]);
        }
        for _ in 0..TRIES {
            self.now += STEP;
            tick(self.sync.store_mut(), STEP);
            let outcome = self.sync.sync(|| self.now);
            self.labels.extend(outcome.named.iter().map(|(tag, label)| (tag.0, label.to_string())));
            if outcome.error.is_none() && outcome.is_settled {
                return Ok(());
            }
        }
        bail!("the maps never settled")
    }

    /// A new writer, which must find nothing to do.
    fn restart(self, tick: &impl Fn(&mut S, u64)) -> Result<Self> {
        let before = self.text()?;
        let Self { sync, files, addresses, labels, now, .. } = self;
        let mut next = Self::new(sync.into_store())?;
        (next.files, next.addresses, next.labels, next.now) = (files.clone(), addresses, labels, now);
        next.pending = files.into_iter().map(|(path, bytes)| (path, Some(bytes))).collect();
        next.sync(tick)?;
        ensure!(next.text()? == before, "a restart changed the maps");
        Ok(next)
    }

    fn text(&self) -> Result<String> {
        let actual = adopt::adopt(self.sync.store())?.actual;
        Ok(render::text(&actual, &|tag| self.labels.get(&tag.0).cloned()))
    }
}
