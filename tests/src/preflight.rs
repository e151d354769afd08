//! `shunt check` on a node of the topology, and what it found.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::pin_dir;
use crate::process::{binary, placed};
use crate::topology::Node;

/// What one run found.
#[derive(Debug)]
pub struct Preflight {
    /// The exit code.
    pub code: Option<i32>,
    findings: Vec<Finding>,
}

/// What it found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it stands, e.g. `ok`.
    pub state: String,
    /// What was found.
    pub found: String,
}

impl Preflight {
    /// Looks at `node`: its network, cgroup and pins.
    pub fn of(node: &Node) -> Result<Self> {
        Self::run(node, &pin_dir(node), &[])
    }

    /// The same with another pin directory, by another program: its words, to which those of `shunt check` are added.
    pub fn run(node: &Node, pin_dir: &Path, wrapper: &[&str]) -> Result<Self> {
        let mut command = under(node, wrapper)?;
        command.args(["check", "--output", "json", "--cgroup"]).arg(node.cgroup.path());
        let output = command.arg("--pin-dir").arg(pin_dir).output().context("run shunt check")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let rows: Vec<Value> = serde_json::from_str(&said).with_context(|| format!("{said}{errors}"))?;
        let field = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let finding = |row: &Value| Finding {
            check: field(row, "check"),
            state: field(row, "state"),
            found: field(row, "found"),
        };
        let preflight = Self { code: output.status.code(), findings: rows.iter().map(finding).collect() };
        let expected = Some(preflight.expected_code());
        ensure!(preflight.code == expected, "exit code {expected:?} would follow from {preflight:?}");
        Ok(preflight)
    }

    /// The exit code that follows from the findings.
    fn expected_code(&self) -> i32 {
        let any = |states: &[&str]| self.findings.iter().any(|finding| states.contains(&&*finding.state));
        if any(&["missing"]) { 3 } else { i32::from(any(&["warning", "unseen"])) }
    }

    /// State and text of the finding about `check`.
    pub fn about(&self, check: &str) -> Result<(&str, &str)> {
        let finding = self.findings.iter().find(|finding| finding.check == check);
        let finding = finding.with_context(|| format!("nothing about {check} in {self:#?}"))?;
        Ok((&finding.state, &finding.found))
    }

    /// What somebody should act on.
    pub fn to_act_on(&self) -> Vec<&str> {
        let acts = self.findings.iter().filter(|finding| !["ok", "info"].contains(&&*finding.state));
        acts.map(|finding| &*finding.check).collect()
    }
}

/// A command that runs `shunt` on the node by another program: its words, none for nothing.
pub fn under(node: &Node, wrapper: &[&str]) -> Result<Command> {
    let agent = node.agent();
    let Some((first, words)) = wrapper.split_first() else { return agent.command("shunt") };
    let mut command = placed(Path::new(first), agent.netns, agent.cgroup);
    command.args(words).arg(binary("shunt")?);
    Ok(command)
}
