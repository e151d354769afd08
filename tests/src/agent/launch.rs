//! What is started as the agent, and how it learns what to follow.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{HEALTH, METRICS, owned, pin_dir};
use crate::process::{Process, binary, placed};
use crate::topology::Node;

/// What an agent follows.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The API server of a kubeconfig file.
    Api(PathBuf),
    /// The API server at a URL that asks nobody who they are.
    Url(String),
    /// Whatever its arguments, its variables and the files around it say, as in a pod.
    Surroundings,
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub(super) source: Source,
    /// Further arguments of the agent. Without `--devices` it serves no packets.
    pub(super) arguments: Vec<String>,
    /// Program and first arguments of what runs the agent; empty: nothing does.
    pub(super) wrapper: Vec<String>,
    /// Options of the test program that stands for the shipped one; empty: the shipped one.
    pub(super) variant: Vec<String>,
    /// The variables that it has, and no others; none: those of the test.
    pub(super) environment: Option<Vec<(String, String)>>,
}

impl Launch {
    /// With flags for the node, and for what is followed.
    pub(super) fn of(source: Source) -> Self {
        Self { source, arguments: Vec::new(), wrapper: Vec::new(), variant: Vec::new(), environment: None }
    }

    /// With these words after the program's name, the first being the command, and these variables: nothing else tells
    /// it anything, and the node's cgroup and pins are to be named by them too.
    pub fn plain(arguments: Vec<String>, environment: Vec<(String, String)>) -> Self {
        Self { arguments, environment: Some(environment), ..Self::of(Source::Surroundings) }
    }

    /// With flags for the node, following the API server at `url`, which asks nobody who they are.
    pub fn at(url: &str) -> Self {
        Self::of(Source::Url(url.to_owned()))
    }

    /// With flags for the node and further arguments, following manifests.
    pub fn following(manifests: &Path, arguments: &[&str]) -> Self {
        Self { arguments: owned(arguments), ..Self::of(Source::Manifests(manifests.into())) }
    }

    /// As the test program `variant` makes it with `options`.
    #[must_use]
    pub fn varied(self, options: &[&str]) -> Self {
        Self { variant: owned(options), ..self }
    }

    /// By another program: its words, to which the agent's are added.
    #[must_use]
    pub fn under(self, wrapper: Vec<String>) -> Self {
        Self { wrapper, ..self }
    }

    /// Starts it on `node`.
    pub(super) fn spawn(&self, node: &Node) -> Result<Process> {
        let Self { source, arguments, variant, .. } = self;
        let object = std::env::var_os("SHUNT_TEST_OBJECT");
        let packet_object = std::env::var_os("SHUNT_PACKET_OBJECT");
        // The shipped program has its objects inside; another one is loaded by the same agent in a test program.
        let is_shipped = variant.is_empty() && object.is_none() && packet_object.is_none();
        let mut command = self.command(node, if is_shipped { "shunt" } else { "variant" })?;
        if let Some(object) = object.filter(|_| !variant.iter().any(|option| option == "--object")) {
            command.arg("--object").arg(object);
        }
        if let Some(object) = packet_object {
            command.arg("--packet-object").arg(object);
        }
        command.args(variant);
        if !matches!(source, Source::Surroundings) {
            command.args(["agent", "--node-name", &node.name]);
            command.args(["--healthz-address", HEALTH, "--metrics-address", METRICS]);
            self.name_source(&mut command);
            command.arg("--cgroup").arg(node.cgroup.path());
            command.arg("--pin-dir").arg(pin_dir(node));
            // What a test shows of sockets is to be the sockets' doing: packets are served where a test says so.
            if !arguments.iter().any(|argument| argument == "--devices") {
                command.args(["--devices", "none"]);
            }
        }
        command.args(arguments);
        Process::spawn(&format!("agent of {}", node.name), command)
    }

    /// Another command of the shipped program in the same place, to which its arguments are to be added.
    pub(super) fn shunt(&self, node: &Node) -> Result<Command> {
        let mut command = self.command(node, "shunt")?;
        if self.environment.is_none() {
            command.env("SHUNT_PIN_DIR", pin_dir(node)).env("SHUNT_METRICS_ADDRESS", METRICS);
        }
        Ok(command)
    }

    fn command(&self, node: &Node, program: &str) -> Result<Command> {
        let (agent, program) = (node.agent(), binary(program)?);
        let mut command = match self.wrapper.split_first() {
            None => placed(&program, agent.netns, agent.cgroup),
            Some((first, words)) => {
                let mut command = placed(Path::new(first), agent.netns, agent.cgroup);
                command.args(words).arg(&program);
                command
            }
        };
        if let Some(variables) = &self.environment {
            let path = std::env::var_os("PATH").unwrap_or_default();
            command.env_clear().env("PATH", path).envs(variables.iter().cloned());
        }
        Ok(command)
    }

    /// Adds the flag of the source.
    pub(super) fn name_source(&self, command: &mut Command) {
        match &self.source {
            Source::Manifests(directory) => command.arg("--manifests").arg(directory),
            Source::Api(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
            Source::Url(url) => command.args(["--api-server", url]),
            Source::Surroundings => command,
        };
    }
}
