//! Golden scenarios: manifests, steps and the expected text of the maps in one file, played on any store.
//!
//! A line that starts with `@` is a step; the lines after it are its content.
//! `@addresses IP...` the node's own addresses; `@write FILE` a manifest; `@remove FILE`; `@sync` puts all changes since
//! the last one into the maps as one batch; `@kill N` is a sync whose writer dies after N effects on the maps, and another
//! adopts them and ends it; `@restart` a new writer adopts the maps, and must find nothing to do; `@expect` the text of the
//! maps; `@warnings` what was said of bad objects since the last such step, and who claims in vain what another has.
//! Lines before the first step tell what the scenario is about.

mod large;
mod mortal;
mod player;

use anyhow::{Context, Result, bail};
use shunt::maps::MapStore;

pub use self::large::{LARGE, large};
use self::player::Player;

/// Name of the node in every scenario.
pub const NODE: &str = "node-1";

/// One step and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    words: Vec<String>,
    content: String,
}

impl Step {
    /// Whether its content is what was seen, not what is done.
    fn is_seen(&self) -> bool {
        self.words.first().is_some_and(|word| word == "expect" || word == "warnings")
    }
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

    /// The scenario as text, with `expected` in place of what its `@expect` and `@warnings` steps hold.
    pub fn with_expected(&self, expected: &[String]) -> String {
        let mut expected = expected.iter();
        let mut out = self.preface.clone();
        for step in &self.steps {
            out.extend(["@", &step.words.join(" "), "\n"]);
            out += if step.is_seen() { expected.next().unwrap_or(&step.content) } else { &step.content };
        }
        out
    }

    /// What each `@expect` and `@warnings` step holds, in order.
    pub fn expected(&self) -> Vec<String> {
        self.steps.iter().filter(|step| step.is_seen()).map(|step| step.content.clone()).collect()
    }
}

/// What playing a scenario led to.
#[derive(Clone, Debug)]
pub struct Played<S> {
    /// What was there at each `@expect` and `@warnings`, in order.
    pub seen: Vec<String>,
    /// The maps in the end.
    pub store: S,
}

/// Plays a scenario on `store`. `tick` moves a fake's clock.
pub fn play<S: MapStore>(scenario: &Scenario, store: S, tick: impl Fn(&mut S, u64)) -> Result<Played<S>> {
    let mut player = Player::new(store, tick)?;
    let mut seen = Vec::new();
    for step in &scenario.steps {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        let context = || format!("@{}", words.join(" "));
        match words.as_slice() {
            ["addresses", addresses @ ..] => {
                let parsed: Result<Vec<_>, _> = addresses.iter().map(|text| text.parse()).collect();
                player.set_addresses(parsed.with_context(context)?);
            }
            ["write", file] => player.change(file, Some(step.content.clone().into_bytes())),
            ["remove", file] => player.change(file, None),
            ["sync"] => player.sync()?,
            ["kill", effects] => player = player.kill(effects.parse().with_context(context)?)?,
            ["restart"] => player = player.restart()?,
            ["expect"] => seen.push(player.text()?),
            ["warnings"] => seen.push(player.warnings()),
            other => bail!("no such step: {}", other.join(" ")),
        }
    }
    Ok(Played { seen, store: player.into_store() })
}
