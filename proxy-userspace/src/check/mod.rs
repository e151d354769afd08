//! The preflight of a host: [`gather`] looks, [`judge`] makes findings of what was seen. Nothing is changed; what the
//! judgement depends on is in [`facts`], so that it can be tried on hosts that nobody has.

pub mod facts;
pub mod gather;
mod hooks;
mod kernel;
mod kube_proxy;
mod network;
mod packets;
mod pins;
mod rights;
#[cfg(test)]
mod tests;

use serde::Serialize;

use self::facts::Facts;

/// How a finding stands, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing needs to be done.
    Info,
    /// Could not be looked at, so that nothing is known.
    Unseen,
    /// The agent runs, and somebody should do something.
    Warning,
    /// The agent cannot run without it.
    Missing,
}

impl State {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Unseen => "not seen",
            Self::Warning => "WARNING",
            Self::Missing => "MISSING",
        }
    }
}

/// What was found about one thing. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it stands.
    pub state: State,
    /// What was found; for [`State::Unseen`], why nothing was.
    pub found: String,
    /// What is lost, or what to do; none where it is [`State::Ok`].
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Ok, found: found.into(), advice: None }
    }

    fn new(check: impl Into<String>, state: State, texts: (impl Into<String>, impl Into<String>)) -> Self {
        Self { check: check.into(), state, found: texts.0.into(), advice: Some(texts.1.into()) }
    }

    fn info(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, State::Info, (found, advice))
    }

    fn unseen(check: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, State::Unseen, (why, advice))
    }

    fn warning(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, State::Warning, (found, advice))
    }

    fn missing(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, State::Missing, (found, advice))
    }
}

/// Everything that there is to say of these facts, in the order in which it is shown.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let parts = [
        kernel::judge(facts),
        hooks::judge(facts),
        pins::judge(&facts.pins, &facts.cgroup),
        rights::judge(facts),
        network::judge(facts),
        packets::judge(facts),
        kube_proxy::judge(facts),
    ];
    parts.concat()
}

/// The worst state among `findings`.
pub fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
}
