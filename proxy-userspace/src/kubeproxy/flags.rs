//! The flags of kube-proxy, for a process that was started under its name. Most are fields of the configuration under
//! another name: they are read into a document, and judged like one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use super::settings::{HEALTHZ_PORT, METRICS_PORT, Mode, Settings};
use super::table::{FLAGS, Flag, Kind, Role};
use super::{KubeProxyError, Notice, apply, read};

/// What kube-proxy is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run.
    Agent,
    /// `--cleanup`: take everything out of the kernel.
    Cleanup,
    /// `--init-only`: do what needs privileges, and end.
    InitOnly,
    /// `--write-config-to`: write the configuration to this file, and end.
    WriteConfig(PathBuf),
}

/// A command line of kube-proxy.
#[derive(Clone, Debug)]
pub struct Flags {
    given: Vec<(&'static Flag, Value)>,
}

impl Flags {
    /// Reads a command line, its first word being the name of the program. The error may be a request for help.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(words.into_iter().map(with_dashes))?;
        if matches.get_one::<Value>("version").is_some_and(|wanted| *wanted != Value::Bool(false)) {
            version().try_get_matches_from(["shunt", "--version"])?;
        }
        let given = FLAGS.iter().filter_map(|flag| value_of(flag, &matches).map(|value| (flag, value)));
        Ok(Self { given: given.collect() })
    }

    /// What to do. As with kube-proxy, writing the configuration goes before cleaning up.
    pub fn action(&self) -> Action {
        let is_set = |name| self.value(name) == Some(&Value::Bool(true));
        if let Some(path) = self.text("write-config-to") {
            Action::WriteConfig(path.into())
        } else if is_set("cleanup") {
            Action::Cleanup
        } else if is_set("init-only") {
            Action::InitOnly
        } else {
            Action::Agent
        }
    }

    /// Whether `--name` was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The text of `--name`, unless it is empty.
    pub fn text(&self, name: &str) -> Option<String> {
        self.value(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// What the flags mean, and what they say in vain. Beside a configuration file only those of the log count, as
    /// with kube-proxy.
    pub fn settings(&self, is_beside_file: bool) -> Result<(Settings, Vec<Notice>), KubeProxyError> {
        let mut notices = self.plain_notices();
        let mut tree = Value::Object(Map::new());
        let mode = self.text("proxy-mode").and_then(|mode| mode.parse().ok()).unwrap_or_default();
        for (flag, value) in &self.given {
            if is_beside_file && !flag.is_kept() {
                let reason = "ignored, as by kube-proxy: --config is given";
                notices.push(Notice::new(format!("--{}", flag.name), reason));
                continue;
            }
            match flag.role.path(mode) {
                Some(path) => put(&mut tree, &path, value.clone()),
                None if flag.role.is_period() => {
                    let reason = format!("ignored: --proxy-mode is {}", mode.section());
                    notices.push(Notice::new(format!("--{}", flag.name), reason));
                }
                None => {}
            }
        }
        if !is_beside_file {
            self.put_addresses(&mut tree, &mut notices);
        }
        let refused = |faults: Vec<Notice>| KubeProxyError::Flags { faults: self.renamed(faults, mode) };
        let document = read::decode(tree).map_err(|fault| {
            refused(match fault {
                read::Fault::Field(fault) => vec![fault],
                read::Fault::Document(problem) => vec![Notice::new("flags", problem)],
            })
        })?;
        let (settings, others) = apply::settings(&document).map_err(refused)?;
        notices.extend(self.renamed(others, mode));
        Ok((settings, notices))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.given.iter().find(|(flag, _)| flag.name == name).map(|(_, value)| value)
    }

    /// Flags that are ignored whatever else is said.
    fn plain_notices(&self) -> Vec<Notice> {
        let ignored = self.given.iter().filter_map(|(flag, _)| match flag.role {
            Role::Ignored(reason) => Some(Notice::new(format!("--{}", flag.name), reason)),
            _ => None,
        });
        ignored.collect()
    }

    /// As with kube-proxy, the deprecated flags for ports count where an address has none; and unlike in a file, the
    /// default addresses do not follow `--bind-address`.
    fn put_addresses(&self, tree: &mut Value, notices: &mut Vec<Notice>) {
        let usual = Settings::default();
        for (name, port_name, (field, address), port) in [
            ("healthz", "healthz-port", ("healthzBindAddress", usual.healthz_address), HEALTHZ_PORT),
            ("metrics", "metrics-port", ("metricsBindAddress", usual.metrics_address), METRICS_PORT),
        ] {
            let given = self.text(&format!("{name}-bind-address"));
            let is_bare =
                given.as_deref().is_some_and(|given| crate::source::convert::parse_ip(given).is_some());
            let ported = |port: u16, given: &str| match given.parse() {
                Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
                Err(_) => given.to_owned(),
            };
            let mut text = given.unwrap_or_else(|| address.to_string());
            match self.value(port_name).and_then(Value::as_i64) {
                Some(0) => {
                    let reason = format!("refused: the server is not switched off; it is at {text}");
                    notices.push(Notice::new(format!("--{port_name}"), reason));
                }
                Some(wanted) if is_bare => {
                    text = ported(u16::try_from(wanted).unwrap_or(port), &text);
                }
                Some(_) => {
                    let reason = format!("ignored, as by kube-proxy: {text} has a port");
                    notices.push(Notice::new(format!("--{port_name}"), reason));
                }
                None => {}
            }
            put(tree, field, Value::String(text));
        }
    }

    /// The same, with fields of the document called by the flags that set them.
    fn renamed(&self, notices: Vec<Notice>, mode: Mode) -> Vec<Notice> {
        let rename = |mut notice: Notice| {
            let is_meant = |flag: &Flag| {
                let path = flag.role.path(mode).unwrap_or_default();
                notice
                    .field
                    .strip_prefix(&path)
                    .is_some_and(|rest| !path.is_empty() && (rest.is_empty() || rest.starts_with(['.', '['])))
            };
            if let Some((flag, _)) = self.given.iter().find(|(flag, _)| is_meant(flag)) {
                let path = flag.role.path(mode).unwrap_or_default();
                notice.field = format!("--{}{}", flag.name, &notice.field[path.len()..]);
            }
            notice
        };
        notices.into_iter().map(rename).collect()
    }
}

/// Sets the value at a path such as `iptables.syncPeriod`.
fn put(tree: &mut Value, path: &str, value: Value) {
    let mut place = tree;
    for name in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
}

/// kube-proxy takes underscores in the names of flags for dashes.
fn with_dashes(word: OsString) -> OsString {
    let Some(text) = word.to_str().filter(|text| text.starts_with("--")) else { return word };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    (name.replace('_', "-") + value).into()
}

/// What `--version` answers.
fn version() -> Command {
    Command::new("shunt").version(env!("CARGO_PKG_VERSION"))
}

fn command() -> Command {
    // kube-proxy takes a word with it, for a form of the answer.
    let version = Arg::new("version")
        .long("version")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_name("true|raw")
        .value_parser(|word: &str| match word {
            "raw" => Ok(Value::Bool(true)),
            word => Kind::Bool.read(word),
        })
        .help("Print the version");
    let about = "Shunt in the place of kube-proxy: the agent, with kube-proxy's flags. Every SHUNT_ variable of `shunt \
                 agent` counts too, where no flag says otherwise.";
    Command::new("kube-proxy")
        .about(about)
        .args_override_self(true)
        .arg(version)
        .args(FLAGS.iter().map(argument))
}

fn argument(flag: &'static Flag) -> Arg {
    let kind = flag.kind;
    let mut argument = Arg::new(flag.name)
        .long(flag.name)
        .help(flag.help())
        .value_name(kind.name())
        .action(ArgAction::Append)
        .allow_hyphen_values(true)
        .value_parser(move |text: &str| kind.read(text));
    if flag.name == "v" {
        argument = argument.short('v');
    }
    if kind == Kind::Bool {
        argument = argument.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    argument
}

/// The last value given; lists and maps are put together from all of them.
fn value_of(flag: &Flag, matches: &ArgMatches) -> Option<Value> {
    let all = matches.get_many::<Value>(flag.name)?.cloned();
    all.reduce(|before, next| match (before, next) {
        (Value::Array(mut items), Value::Array(more)) => {
            items.extend(more);
            Value::Array(items)
        }
        (Value::Object(mut fields), Value::Object(more)) => {
            fields.extend(more);
            Value::Object(fields)
        }
        (_, next) => next,
    })
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
