//! An agent under test: the shipped program on a node of the topology, and what it says of itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::run;
use crate::process::{Process, binary, placed};
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

/// What an agent follows.
#[derive(Clone, Debug)]
enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The API server of a kubeconfig file.
    Api(PathBuf),
    /// The API server at a URL that asks nobody who they are.
    Url(String),
}

/// What is started as the agent.
#[derive(Clone, Debug)]
struct Launch {
    source: Source,
    /// Further arguments of the agent.
    arguments: Vec<String>,
    /// Program and first arguments of what runs the agent; empty: nothing does.
    wrapper: Vec<String>,
    /// Options of the test program that stands for the shipped one; empty: the shipped one.
    variant: Vec<String>,
}

impl<'a> Agent<'a> {
    /// Starts an agent and waits until it is ready.
    pub fn start(node: &'a Node, manifests: &Path) -> Result<Self> {
        Self::start_variant(node, manifests, &[])
    }

    /// Starts the agent as the test program `variant` makes it with `options`; with none, the shipped program.
    pub fn start_variant(node: &'a Node, manifests: &Path, options: &[&str]) -> Result<Self> {
        Self::launch(
            node,
            Launch { variant: owned(options), ..Launch::of(Source::Manifests(manifests.into())) },
        )
    }

    /// Starts the agent by another program: its words, to which the agent's are added.
    pub fn start_under(node: &'a Node, manifests: &Path, wrapper: Vec<String>) -> Result<Self> {
        Self::launch(node, Launch { wrapper, ..Launch::of(Source::Manifests(manifests.into())) })
    }

    /// Starts an agent that follows the API server of a kubeconfig file, with further arguments, and waits until it is
    /// ready.
    pub fn follow(node: &'a Node, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let launch = Launch { arguments: owned(arguments), ..Launch::of(Source::Api(kubeconfig.into())) };
        Self::launch(node, launch)
    }

    /// Starts an agent that follows manifests, with further arguments, and waits until it is ready.
    pub fn start_with(node: &'a Node, manifests: &Path, arguments: &[&str]) -> Result<Self> {
        let source = Source::Manifests(manifests.into());
        Self::launch(node, Launch { arguments: owned(arguments), ..Launch::of(source) })
    }

    /// Starts an agent that follows the API server at `url`, and waits until it is ready.
    pub fn follow_at(node: &'a Node, url: &str) -> Result<Self> {
        Self::launch(node, Launch::of(Source::Url(url.to_owned())))
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
        add_source(&mut command, &self.launch.source);
        let output = command.output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// The same as [`Agent::follow`] without waiting.
    pub fn spawn(node: &'a Node, kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let launch = Launch { arguments: owned(arguments), ..Launch::of(Source::Api(kubeconfig.into())) };
        Ok(Self { process: spawn(node, &launch)?, node, launch })
    }

    fn launch(node: &'a Node, launch: Launch) -> Result<Self> {
        let mut agent = Self { process: spawn(node, &launch)?, node, launch };
        agent.wait_ready()?;
        Ok(agent)
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
        self.process = spawn(self.node, &self.launch)?;
        self.wait_ready()
    }

    /// The same with other options of the test program `variant`; with none, the shipped program.
    pub fn start_again_as(&mut self, options: &[&str]) -> Result<()> {
        self.launch.variant = owned(options);
        self.start_again()
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

    /// Status code and body of a GET from its metrics address, or from its health address.
    pub fn http(&self, is_health: bool, path: &str) -> Result<(u16, String)> {
        http_get(self.node, if is_health { HEALTH } else { METRICS }, path)
    }

    /// `/metrics` in the format that `accept` asks for.
    pub fn scrape(&self, accept: &str) -> Result<String> {
        let (code, body) = http_ask(self.node, METRICS, ("/metrics", accept))?;
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

impl Launch {
    fn of(source: Source) -> Self {
        Self { source, arguments: Vec::new(), wrapper: Vec::new(), variant: Vec::new() }
    }
}

/// Where the agent of `node` pins.
pub fn pin_dir(node: &Node) -> PathBuf {
    node.bpffs.path().join("shunt")
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

fn spawn(node: &Node, launch: &Launch) -> Result<Process> {
    let Launch { source, arguments, wrapper, variant } = launch;
    let object = std::env::var_os("SHUNT_TEST_OBJECT");
    // The shipped program has its object inside; another one is loaded by the same agent in a test program.
    let is_shipped = variant.is_empty() && object.is_none();
    let program = binary(if is_shipped { "shunt" } else { "variant" })?;
    let agent = node.agent();
    let mut command = match wrapper.split_first() {
        None => placed(&program, agent.netns, agent.cgroup),
        Some((first, words)) => {
            let mut command = placed(Path::new(first), agent.netns, agent.cgroup);
            command.args(words).arg(&program);
            command
        }
    };
    if let Some(object) = object.filter(|_| !variant.iter().any(|option| option == "--object")) {
        command.arg("--object").arg(object);
    }
    command.args(variant).args(["agent", "--node-name", &node.name]);
    command.args(["--healthz-address", HEALTH, "--metrics-address", METRICS]);
    add_source(&mut command, source);
    command.args(arguments);
    command.arg("--cgroup").arg(node.cgroup.path());
    command.arg("--pin-dir").arg(pin_dir(node));
    Process::spawn(&format!("agent of {}", node.name), command)
}

fn add_source(command: &mut Command, source: &Source) {
    match source {
        Source::Manifests(directory) => command.arg("--manifests").arg(directory),
        Source::Api(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
        Source::Url(url) => command.arg("--api-server").arg(url),
    };
}

/// Status code and body of a GET in the network of `node`, by a thread that no hook sees.
pub(crate) fn http_get(node: &Node, address: &str, path: &str) -> Result<(u16, String)> {
    http_ask(node, address, (path, "*/*"))
}

/// The same, with a header that says which media types are accepted.
fn http_ask(node: &Node, address: &str, (path, accept): (&str, &str)) -> Result<(u16, String)> {
    let address: SocketAddr = address.parse()?;
    node.netns.inside(|| {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
        let code =
            head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
        Ok((code, body.to_owned()))
    })?
}
