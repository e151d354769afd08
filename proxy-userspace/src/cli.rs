//! The command line as clap reads it: names, environment variables, defaults and help, no more. What the values
//! mean together is judged by `config`; nothing here touches the system.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::ServiceFilter;

/// Shunt: Kubernetes Services by eBPF at the socket, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "shunt", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow Services and EndpointSlices and keep the datapath of this node right
    Agent(AgentArgs),
    /// Show what runs: hooks as the kernel reports them, map fill, and what the agent says of itself
    Status(StatusArgs),
    /// List what the maps hold
    Dump(DumpArgs),
    /// Detach and unpin everything of a pin directory; leaves no trace
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Where pinned maps and links are; the same for every command.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Directory on a bpffs for maps (under v<schema>) and links (under links)
    #[arg(long, env = "SHUNT_PIN_DIR", value_name = "DIR", default_value = "/sys/fs/bpf/shunt")]
    pub pin_dir: PathBuf,
}

/// Where the agent answers for itself.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// Address of /proxyMode, /status and /healthz, for this node only
    #[arg(long, env = "SHUNT_METRICS_ADDRESS", value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_address: SocketAddr,
}

/// `shunt agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Name of this node's Node object [default: $NODE_NAME, else the host name; trimmed, in lower case]
    #[arg(long, env = "SHUNT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Directory of Service, EndpointSlice, Node and ServiceCIDR manifests (*.yaml, *.yml, *.json), followed as they
    /// change
    #[arg(long, env = "SHUNT_MANIFESTS", value_name = "DIR")]
    pub manifests: PathBuf,
    /// Cgroup v2 directory whose processes are served [default: the true root, recognised by inode 1]
    #[arg(long, env = "SHUNT_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Node addresses that serve NodePorts: primary, all, localhost and CIDRs, separated by commas
    #[arg(long, env = "SHUNT_NODEPORT_ADDRESSES", value_name = "LIST", default_value = "primary")]
    pub nodeport_addresses: String,
    /// Address of /healthz, /livez and /readyz
    #[arg(long, env = "SHUNT_HEALTHZ_ADDRESS", value_name = "IP:PORT", default_value = "0.0.0.0:10256")]
    pub healthz_address: SocketAddr,
    /// Where the agent answers for itself.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Form of the log on standard error; SHUNT_LOG filters it, e.g. `info,shunt::source=debug`
    #[arg(long, env = "SHUNT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What the eBPF programs log of single connections; costs nothing while off
    #[arg(long, env = "SHUNT_BPF_LOG_LEVEL", value_name = "LEVEL", default_value = "off")]
    pub bpf_log_level: BpfLogLevel,
}

/// `shunt status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Where the agent answers for itself.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `shunt dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// What to list
    pub table: DumpTable,
    /// Only this Service, or only this port of it
    #[arg(long, env = "SHUNT_SERVICE", value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<ServiceFilter>,
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Where the agent tells the names of service ports.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `shunt cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// Where maps and links are pinned.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// `shunt completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// How a command prints what it found.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long, env = "SHUNT_OUTPUT", value_name = "FORM", default_value = "table")]
    pub output: OutputForm,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// Columns for people; may change from version to version.
    Table,
    /// JSON for programs; fields are only ever added.
    Json,
    /// The same fields as YAML.
    Yaml,
}

/// What `shunt dump` can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpTable {
    /// Addresses that clients use.
    Frontends,
    /// Service ports and what each view of them does.
    Services,
    /// Endpoints in the maps.
    Backends,
    /// What was picked and what was refused, and why.
    Counters,
}

/// Form of the agent's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much the eBPF programs log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BpfLogLevel {
    /// Nothing; the log calls are not even in the loaded programs.
    Off,
    /// Defects.
    Error,
    /// Connections that could not be served.
    Warn,
    /// Connections refused on purpose.
    Info,
    /// Every translated connection.
    Debug,
    /// Every connection that was looked at.
    Trace,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    /// One command's arguments by themselves.
    #[derive(Debug, Parser)]
    struct Alone<A: Args> {
        #[command(flatten)]
        args: A,
    }

    fn agent(words: &[&str]) -> Result<AgentArgs, clap::Error> {
        Alone::try_parse_from([&["agent"], words].concat()).map(|alone| alone.args)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        Alone::<AgentArgs>::command().debug_assert();
        Alone::<DumpArgs>::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        let mut seen = BTreeSet::new();
        for command in [
            Alone::<AgentArgs>::command(),
            Alone::<StatusArgs>::command(),
            Alone::<DumpArgs>::command(),
            Alone::<CleanupArgs>::command(),
        ] {
            for flag in command.get_arguments().filter(|flag| !flag.is_positional()) {
                let long = flag.get_long().expect("every flag has a long name");
                let expected = format!("SHUNT_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(&*expected), "--{long}");
                seen.insert(long.to_owned());
            }
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = agent(&["--manifests", "/m"]).unwrap();
        assert_eq!(args.pin.pin_dir, PathBuf::from("/sys/fs/bpf/shunt"));
        assert_eq!(args.healthz_address.to_string(), "0.0.0.0:10256");
        assert_eq!(args.metrics.metrics_address.to_string(), "127.0.0.1:10249");
        assert_eq!((args.node_name, args.cgroup), (None, None));
        assert_eq!((args.log_format, args.bpf_log_level), (LogFormat::Text, BpfLogLevel::Off));
        assert_eq!(args.nodeport_addresses, "primary");
    }

    #[test]
    fn errors_name_the_flag() {
        for (words, flag) in [
            (&[][..], "--manifests"),
            (&["--manifests", "/m", "--healthz-address", "10256"], "--healthz-address"),
            (&["--manifests", "/m", "--log-format", "xml"], "--log-format"),
            (&["--manifests", "/m", "--bpf-log-level", "5"], "--bpf-log-level"),
            (&["--manifests", "/m", "--kubeconfig", "/k"], "--kubeconfig"),
        ] {
            let error = agent(words).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn dump_takes_a_table_and_a_service() {
        let parse = |words: &[&str]| Alone::<DumpArgs>::try_parse_from([&["dump"], words].concat());
        let args = parse(&["backends", "--service", "default/web:http", "-o", "yaml"]).unwrap().args;
        assert_eq!((args.table, args.output.output), (DumpTable::Backends, OutputForm::Yaml));
        assert!(args.service.is_some_and(|filter| filter.matches("default/web:http/tcp")));
        assert!(parse(&["backends", "--service", "web"]).unwrap_err().to_string().contains("--service"));
        assert_eq!(parse(&["flows"]).unwrap_err().exit_code(), 2);
    }

    /// Set for the child process in which [`flags_win_over_the_environment`] parses: the environment of a test
    /// process belongs to all its threads.
    const CHILD: &str = "SHUNT_TEST_PARSE_ARGUMENTS";

    #[test]
    fn flags_win_over_the_environment() {
        if let Ok(words) = std::env::var(CHILD) {
            let args = agent(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
            println!("node={:?} healthz={}", args.node_name, args.healthz_address);
            return;
        }
        let parse_in_child = |words: &str| {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cli::tests::flags_win_over_the_environment", "--nocapture"])
                .env(CHILD, words)
                .env("SHUNT_MANIFESTS", "/m")
                .env("SHUNT_NODE_NAME", "from-env")
                .env("SHUNT_HEALTHZ_ADDRESS", "127.0.0.1:1")
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let from_env = parse_in_child("");
        assert!(from_env.contains(r#"node=Some("from-env") healthz=127.0.0.1:1"#), "{from_env}");
        let from_flag = parse_in_child("--node-name from-flag --healthz-address 127.0.0.1:2");
        assert!(from_flag.contains(r#"node=Some("from-flag") healthz=127.0.0.1:2"#), "{from_flag}");
    }
}
