//! An agent under test: the shipped program on a node of the topology, and what it says of itself.

pub mod ask;
mod launch;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt::model::Listing;
use shunt::source::kube::Connection;
use shunt::status::{AgentStatus, listing_name};

pub(crate) use self::ask::http_get;
use self::ask::{Answer, http_ask};
pub use self::launch::Launch;
use self::launch::Source;
use crate::netns::run;
use crate::process::Process;
use crate::topology::Node;

/// Limit of a start.
const START: Duration = Duration::from_mins(1);
/// Where the agent says whether it is ready.
const HEALTH: &str = "127.0.0.1:10256";
/// Where it says what it does.
const METRICS: &str = "127.0.0.1:10249";

/// An agent on a node; killed on drop, as its maps and hooks are with the node's pins and cgroup.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a Node,
    launch: Launch,
    process: Process,
}

impl<'a> Agent<'a> {
    /// Starts an agent and waits until it is ready.
    pub fn start(node: &'a Node, manifests: &Path) -> Result<Self> {
        Self::start_variant(node, manifests, &[])
    }

    /// Starts the agent as the test program `variant` makes it with `options`; with none, the shipped program.
    pub fn start_variant(node: &'a Node, manifests: &Path, options: &[&str]) -> Result<Self> {
        Self::start_as(
            node,
            Launch { variant: owned(options), ..Launch::of(Source::Manifests(manifests.into())) },
        )
    }

    /// Starts the agent by another program: its words, to which the agent's are added.
    pub fn start_under(node: &'a Node, manifests: &Path, wrapper: Vec<String>) -> Result<Self> {
        Self::start_as(node, Launch { wrapper, ..Launch::of(Source::Manifests(manifests.into())) })
    }

    /// Starts an agent that follows the API server of a kubeconfig file, with further arguments, and waits until it is
    /// ready.
    pub fn follow(node: &'a Node, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let launch = Launch { arguments: owned(arguments), ..Launch::of(Source::Api(kubeconfig.into())) };
        Self::start_as(node, launch)
    }

    /// Starts an agent that follows manifests, with further arguments, and waits until it is ready.
    pub fn start_with(node: &'a Node, manifests: &Path, arguments: &[&str]) -> Result<Self> {
        let source = Source::Manifests(manifests.into());
        Self::start_as(node, Launch { arguments: owned(arguments), ..Launch::of(source) })
    }

    /// Starts an agent that follows the API server at `url`, and waits until it is ready.
    pub fn follow_at(node: &'a Node, url: &str) -> Result<Self> {
        Self::start_as(node, Launch::at(url))
    }

    /// Ends it and takes away its hooks, maps and pins.
    pub fn clean_up(mut self) -> Result<()> {
        self.terminate()?;
        self.shunt(&["cleanup"]).map(drop)
    }

    /// What `shunt verify` says of it.
    pub fn shunt_verify(&self) -> Result<String> {
        let mut command = self.node.agent().command("shunt")?;
        command.args(["verify", "--node-name", &self.node.name]).env("SHUNT_PIN_DIR", pin_dir(self.node));
        self.launch.name_source(&mut command);
        let output = command.args(&self.launch.arguments).output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// The same as [`Agent::follow`] without waiting.
    pub fn spawn(node: &'a Node, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let launch = Launch { arguments: owned(arguments), ..Launch::of(Source::Api(kubeconfig.into())) };
        Self::spawn_as(node, launch)
    }

    /// Starts an agent as `launch` says, and waits until it is ready.
    pub fn start_as(node: &'a Node, launch: Launch) -> Result<Self> {
        let mut agent = Self::spawn_as(node, launch)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The same without waiting.
    pub fn spawn_as(node: &'a Node, launch: Launch) -> Result<Self> {
        Ok(Self { process: launch.spawn(node)?, node, launch })
    }

    /// Kills it at once (SIGKILL); its programs and maps stay in force.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to end (SIGTERM) and waits for that; its programs and maps stay in force.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.process.terminate(START)?;
        ensure!(status.success(), "the agent of {} ended with {status}:\n{}", self.node.name, self.log());
        Ok(())
    }

    /// Starts it anew after its end, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = self.launch.spawn(self.node)?;
        self.wait_ready()
    }

    /// The same with other options of the test program `variant`; with none, the shipped program.
    pub fn start_again_as(&mut self, options: &[&str]) -> Result<()> {
        self.launch.variant = owned(options);
        self.start_again()
    }

    /// The same by another program.
    pub fn start_again_under(&mut self, wrapper: Vec<String>) -> Result<()> {
        self.launch.wrapper = wrapper;
        self.start_again()
    }

    /// Waits for its end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// The node that it runs on.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All that it has logged since it was last started.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `/status`, decoded.
    pub fn status(&self) -> Result<Value> {
        let (code, body) = http_get(self.node, METRICS, "/status")?;
        ensure!(code == 200, "/status answered {code}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/status said {body:?}"))
    }

    /// What a `shunt` command with `arguments` prints for this agent's node.
    pub fn shunt(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.node.agent().command("shunt")?;
        command.env("SHUNT_PIN_DIR", pin_dir(self.node)).env("SHUNT_METRICS_ADDRESS", METRICS);
        run(command.args(arguments))
    }

    /// `/status`, as the agent's own types have it.
    pub fn progress(&self) -> Result<AgentStatus> {
        serde_json::from_value(self.status()?).context("/status is not what its types say")
    }

    /// How the watch of `listing` stands.
    pub fn watch(&self, listing: Listing) -> Result<Connection> {
        let sources = self.progress()?.sources;
        let source = sources.into_iter().find(|source| source.name == listing_name(listing));
        source.and_then(|source| source.connection).with_context(|| format!("{listing:?} is not watched"))
    }

    /// Runs `shunt` with these arguments as the agent itself runs: with its files, variables and rights.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.launch.shunt(self.node)?.args(arguments).output()?)
    }

    /// Status code and body of a GET from its metrics address, or from its health address.
    pub fn http(&self, is_health: bool, path: &str) -> Result<(u16, String)> {
        http_get(self.node, if is_health { HEALTH } else { METRICS }, path)
    }

    /// `/metrics` in the format that `accept` asks for.
    pub fn scrape(&self, accept: &str) -> Result<String> {
        let Answer { code, body, .. } = http_ask(self.node, METRICS, ("/metrics", accept))?;
        ensure!(code == 200, "/metrics answered {code}: {body}");
        Ok(body)
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let answer = http_get(self.node, HEALTH, "/readyz");
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            let log = self.process.log();
            ensure!(self.process.is_running(), "the agent of {} ended:\n{log}", self.node.name);
            ensure!(
                Instant::now() < deadline,
                "the agent of {} is not ready: {answer:?}\n{log}",
                self.node.name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where the agent of `node` pins.
pub fn pin_dir(node: &Node) -> PathBuf {
    node.bpffs.path().join("shunt")
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}
