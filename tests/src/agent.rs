//! An agent under test: the shipped program on a node of the topology, and what it says of itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::run;
use crate::process::{Process, binary, placed};
use crate::topology::Node;

/// Limit of a start.
const START: Duration = Duration::from_secs(20);
/// Where the agent says whether it is ready.
const HEALTH: &str = "127.0.0.1:10256";
/// Where it says what it does.
const METRICS: &str = "127.0.0.1:10249";

/// An agent on a node; killed on drop, as its maps and hooks are with the node's pins and cgroup.
#[derive(Debug)]
pub struct Agent<'a> {
    node: &'a Node,
    manifests: PathBuf,
    launch: Launch,
    process: Process,
}

/// What is started as the agent.
#[derive(Clone, Debug, Default)]
struct Launch {
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
        Self::launch(node, manifests, Launch { variant: owned(options), ..Launch::default() })
    }

    /// Starts the agent by another program: its words, to which the agent's are added.
    pub fn start_under(node: &'a Node, manifests: &Path, wrapper: Vec<String>) -> Result<Self> {
        Self::launch(node, manifests, Launch { wrapper, ..Launch::default() })
    }

    fn launch(node: &'a Node, manifests: &Path, launch: Launch) -> Result<Self> {
        let process = spawn(node, manifests, &launch)?;
        let mut agent = Self { node, manifests: manifests.to_path_buf(), launch, process };
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
        self.process = spawn(self.node, &self.manifests, &self.launch)?;
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

    fn wait_ready(&mut self) -> Result<()> {
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

fn spawn(node: &Node, manifests: &Path, launch: &Launch) -> Result<Process> {
    let Launch { wrapper, variant } = launch;
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
    command.arg("--manifests").arg(manifests);
    command.arg("--cgroup").arg(node.cgroup.path());
    command.arg("--pin-dir").arg(pin_dir(node));
    Process::spawn(&format!("agent of {}", node.name), command)
}

/// Status code and body of a GET in the network of `node`, by a thread that no hook sees.
fn http_get(node: &Node, address: &str, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = address.parse()?;
    node.netns.inside(|| {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
        let code =
            head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
        Ok((code, body.to_owned()))
    })?
}
