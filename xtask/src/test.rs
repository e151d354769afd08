//! `cargo xtask test`: runs the tiers and closes with one line of counts.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::ebpf::{self, Check, SHIPPED};
use crate::peers;
use crate::setup::{self, Purpose};
use crate::tally::Tally;
use crate::toolchain::{self, PINNED_RUST};
use crate::tree::Tree;

/// What tells the tests of an object that is not the committed one, in the order of [`SHIPPED`].
const VARIABLES: [&str; 2] = ["SHUNT_TEST_OBJECT", "SHUNT_PACKET_OBJECT"];

/// A tier of tests, least powerful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Unit and property tests: no root, no network.
    Unit,
    /// Manifests and steps against dumps of the maps.
    Golden,
    /// Layering, caps, formatting, clippy, licences.
    Lint,
    /// Each program through the kernel's verifier. Needs root.
    Verifier,
    /// Packets through the TC programs by test run. Needs root.
    Packet,
    /// Real sockets in network namespaces and cgroups of our own. Needs root.
    Netns,
    /// A real API server.
    Cluster,
    /// A real kube-proxy beside Shunt.
    Versus,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Golden => "golden",
            Self::Lint => "lint",
            Self::Verifier => "verifier",
            Self::Packet => "packet",
            Self::Netns => "netns",
            Self::Cluster => "cluster",
            Self::Versus => "versus",
        }
    }

    /// Whether the tier loads eBPF objects into the kernel.
    fn needs_kernel(self) -> bool {
        !matches!(self, Self::Unit | Self::Golden | Self::Lint)
    }

    /// Whether the tier runs real parts of Kubernetes.
    fn needs_peers(self) -> bool {
        matches!(self, Self::Cluster | Self::Versus)
    }

    /// What the tier needs to be installed, if anything.
    fn purpose(self) -> Option<Purpose> {
        match self {
            Self::Unit | Self::Golden => None,
            tier if tier.needs_peers() => Some(Purpose::Test),
            _ => Some(Purpose::Local),
        }
    }
}

/// Runs `tiers`, or all of them; true if nothing failed and something passed.
pub(crate) fn run(tree: &Tree, tiers: &[Tier]) -> Result<bool> {
    let tiers = if tiers.is_empty() { Tier::value_variants() } else { tiers };
    if let Some(purpose) = tiers.iter().filter_map(|tier| tier.purpose()).max() {
        // What is still missing is named again by each check that would have needed it.
        if let Err(error) = setup::run(tree, purpose) {
            println!("set-up: {error:#}; going on without");
        }
    }
    // Only now: what has just been unpacked has directories of its own.
    let mut run = Run { tree, path: toolchain::search_path(tree)?, tally: Tally::default() };
    if tiers.iter().any(|tier| tier.needs_kernel()) {
        run.check_object();
    }
    for tier in tiers {
        match tier {
            Tier::Unit => run.unit()?,
            Tier::Lint => run.lint()?,
            tier => run.target(*tier)?,
        }
    }
    Ok(run.tally.close())
}

struct Run<'a> {
    tree: &'a Tree,
    path: OsString,
    tally: Tally,
}

impl Run<'_> {
    fn check_object(&mut self) {
        println!("== ebpf --check");
        match ebpf::check(self.tree) {
            Ok(Check::Same) => self.tally.pass(),
            Ok(Check::NotCompared(reason)) => {
                self.tally.skip(format!("ebpf --check: bytes not compared: {reason}"));
            }
            Err(error) => self.tally.fail(format!("ebpf --check: {error:#}")),
        }
    }

    fn unit(&mut self) -> Result<()> {
        let mut tests = self.cargo(&["test", "--no-fail-fast", "--workspace", "--lib", "--bins"]);
        self.tally.tests(self.tree, "unit", &mut tests)?;
        let mut source = self.cargo(&["test", "--no-fail-fast", "--workspace", "--test", "source"]);
        self.tally.tests(self.tree, "unit, the Kubernetes source against a stand-in", &mut source)?;
        let mut examples = self.cargo(&["test", "--no-fail-fast", "--workspace", "--doc"]);
        self.tally.tests(self.tree, "unit, examples in the documentation", &mut examples)
    }

    fn lint(&mut self) -> Result<()> {
        let judged: [(&str, &[&str]); 3] = [
            ("fmt", &["fmt", "--all", "--check"]),
            ("fmt of proxy-ebpf", &["fmt", "--manifest-path", "proxy-ebpf/Cargo.toml", "--check"]),
            ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ];
        for (name, arguments) in judged {
            let Some(cargo) = toolchain::lint_cargo() else {
                self.tally.skip(format!("{name}: needs rustfmt and clippy of Rust {PINNED_RUST}"));
                continue;
            };
            let mut command = self.prepare(cargo, arguments);
            self.tally.step(name, &mut command);
        }
        let deny: [(&str, &[&str]); 2] = [
            ("deny", &["deny", "--all-features", "check", "licenses", "bans", "sources"]),
            (
                "deny of proxy-ebpf",
                &["deny", "--manifest-path", "proxy-ebpf/Cargo.toml", "check", "licenses", "bans", "sources"],
            ),
        ];
        for (name, arguments) in deny {
            let mut command = self.cargo(arguments);
            self.tally.step(name, &mut command);
        }
        let mut chart = self.cargo(&["test", "--no-fail-fast", "--workspace", "--test", "chart"]);
        // Without helm its tests say so, and are counted.
        chart.envs(peers::find(self.tree, &peers::HELM).ok().map(|path| (peers::DIRECTORIES, path)));
        self.tally.tests(self.tree, "lint, the Helm chart", &mut chart)?;
        self.target(Tier::Lint)
    }

    /// Runs the tier's target of the tests crate, for each object that it must hold with.
    fn target(&mut self, tier: Tier) -> Result<()> {
        let name = tier.name();
        let sources = self.tree.root.join("tests/tests");
        if !sources.join(format!("{name}.rs")).is_file() && !sources.join(name).join("main.rs").is_file() {
            println!("tier {name}: no tests yet in this version");
            return Ok(());
        }
        if !tier.needs_kernel() {
            let mut tests = self.cargo(&["test", "--no-fail-fast", "--workspace", "--test", name]);
            return self.tally.tests(self.tree, name, &mut tests);
        }
        if !rustix::process::geteuid().is_root() {
            self.tally.skip(format!("tier {name}: needs root"));
            return Ok(());
        }
        let peers = if tier.needs_peers() { peers::find_cluster(self.tree).map(Some) } else { Ok(None) };
        let peers = match peers {
            Ok(peers) => peers,
            Err(error) => {
                self.tally.skip(format!("tier {name}: real parts of Kubernetes: {error:#}"));
                return Ok(());
            }
        };
        // Always the whole workspace: another choice of packages is another choice of features, and builds the world anew.
        let mut helpers = self.cargo(&["build", "--workspace", "--bins"]);
        if !self.tally.require("helper programs of the tests", &mut helpers) {
            return Ok(());
        }
        for (title, objects) in self.objects(name) {
            // One at a time: these tests measure, and share the kernel's cgroup and namespace tables.
            let arguments =
                ["test", "--no-fail-fast", "--workspace", "--test", name, "--", "--test-threads=1"];
            let mut tests = self.cargo(&arguments);
            tests.envs(objects);
            tests.envs(peers.as_ref().map(|path| (peers::DIRECTORIES, path)));
            tests.env("SHUNT_PROOFS_OBJECT", self.tree.fresh_object("proofs"));
            self.tally.tests(self.tree, &title, &mut tests)?;
        }
        Ok(())
    }

    /// What a kernel tier runs with, as variables of the tests: the committed objects, and the fresh ones that differ.
    fn objects(&self, tier: &str) -> Vec<(String, Vec<(&'static str, PathBuf)>)> {
        let mut all = vec![(format!("{tier}, committed objects"), Vec::new())];
        let (mut fresh, mut is_built) = (Vec::new(), true);
        for (name, variable) in SHIPPED.into_iter().zip(VARIABLES) {
            let path = self.tree.fresh_object(name);
            match (fs::read(&path), fs::read(self.tree.committed_object(name))) {
                (Ok(new), Ok(old)) if new != old => fresh.push((variable, path)),
                (Ok(_), _) => {}
                (Err(_), _) => is_built = false,
            }
        }
        if !fresh.is_empty() {
            all.push((format!("{tier}, fresh objects"), fresh));
        } else if is_built {
            println!("tier {tier}: the fresh objects equal the committed ones, so one run shows both");
        } else {
            println!("tier {tier}: no object was built here, so only the committed ones run");
        }
        all
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        self.prepare(toolchain::cargo(), arguments)
    }

    fn prepare(&self, mut cargo: Command, arguments: &[&str]) -> Command {
        cargo.args(arguments).current_dir(&self.tree.root).env("PATH", &self.path);
        cargo
    }
}
