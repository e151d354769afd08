//! The flags that kube-proxy 1.37 has: their types, and what they set.

use serde_json::{Map, Number, Value, json};

use super::duration::GoDuration;
use super::settings::Mode;

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) role: Role,
}

/// Type of a flag's value, written as pflag reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Integer,
    Float,
    Duration,
    /// More than no time.
    Period,
    /// Separated by commas.
    List,
    /// `Name=true,Other=false`.
    Gates,
    /// `pattern=N,other=N`.
    Patterns,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// This field.
    Field(&'static str),
    /// This field of the section that the mode has in force.
    Section(&'static str),
    /// This field of that section, unless it is of IPVS.
    UnlessIpvs(&'static str),
    /// This field of that section, if it is of IPVS.
    OfIpvs(&'static str),
    /// No field: the program looks at it, also beside a configuration file. What it means.
    Program(&'static str),
    /// A port for an address that has none; not beside a configuration file.
    Port(&'static str),
    /// Nothing, for this reason.
    Ignored(&'static str),
}

const fn flag(name: &'static str, kind: Kind, role: Role) -> Flag {
    Flag { name, kind, role }
}

/// All of them.
pub(super) const FLAGS: [Flag; 56] = [
    flag("config", Kind::Text, Role::Program("Read the configuration from this file")),
    flag("write-config-to", Kind::Text, Role::Program("Write the configuration to this file, and end")),
    flag("cleanup", Kind::Bool, Role::Program("Do what `shunt cleanup` does, and end")),
    flag(
        "init-only",
        Kind::Bool,
        Role::Program("Check the configuration, and end: nothing else needs to be set up"),
    ),
    flag("master", Kind::Text, Role::Program("Address of the API server, whatever the kubeconfig says")),
    flag("hostname-override", Kind::Text, Role::Program("Name of this node's Node object")),
    flag("feature-gates", Kind::Gates, Role::Field("featureGates")),
    flag("kubeconfig", Kind::Text, Role::Field("clientConnection.kubeconfig")),
    flag("kube-api-content-type", Kind::Text, Role::Field("clientConnection.contentType")),
    flag("kube-api-burst", Kind::Integer, Role::Field("clientConnection.burst")),
    flag("kube-api-qps", Kind::Float, Role::Field("clientConnection.qps")),
    flag("bind-address", Kind::Text, Role::Field("bindAddress")),
    flag("healthz-bind-address", Kind::Text, Role::Field("healthzBindAddress")),
    flag("metrics-bind-address", Kind::Text, Role::Field("metricsBindAddress")),
    flag(
        "healthz-port",
        Kind::Integer,
        Role::Port("Deprecated: port of --healthz-bind-address if it has none"),
    ),
    flag(
        "metrics-port",
        Kind::Integer,
        Role::Port("Deprecated: port of --metrics-bind-address if it has none"),
    ),
    flag("bind-address-hard-fail", Kind::Bool, Role::Field("bindAddressHardFail")),
    flag("profiling", Kind::Bool, Role::Field("enableProfiling")),
    flag("show-hidden-metrics-for-version", Kind::Text, Role::Field("showHiddenMetricsForVersion")),
    flag("proxy-mode", Kind::Text, Role::Field("mode")),
    flag("masquerade-all", Kind::Bool, Role::Section("masqueradeAll")),
    flag("iptables-masquerade-bit", Kind::Integer, Role::Field("iptables.masqueradeBit")),
    flag("iptables-localhost-nodeports", Kind::Bool, Role::Field("iptables.localhostNodePorts")),
    flag("iptables-sync-period", Kind::Period, Role::UnlessIpvs("syncPeriod")),
    flag("iptables-min-sync-period", Kind::Duration, Role::UnlessIpvs("minSyncPeriod")),
    flag("ipvs-sync-period", Kind::Period, Role::OfIpvs("syncPeriod")),
    flag("ipvs-min-sync-period", Kind::Duration, Role::OfIpvs("minSyncPeriod")),
    flag("ipvs-scheduler", Kind::Text, Role::Field("ipvs.scheduler")),
    flag("ipvs-exclude-cidrs", Kind::List, Role::Field("ipvs.excludeCIDRs")),
    flag("ipvs-strict-arp", Kind::Bool, Role::Field("ipvs.strictARP")),
    flag("ipvs-tcp-timeout", Kind::Duration, Role::Field("ipvs.tcpTimeout")),
    flag("ipvs-tcpfin-timeout", Kind::Duration, Role::Field("ipvs.tcpFinTimeout")),
    flag("ipvs-udp-timeout", Kind::Duration, Role::Field("ipvs.udpTimeout")),
    flag("detect-local-mode", Kind::Text, Role::Field("detectLocalMode")),
    flag("pod-bridge-interface", Kind::Text, Role::Field("detectLocal.bridgeInterface")),
    flag("pod-interface-name-prefix", Kind::Text, Role::Field("detectLocal.interfaceNamePrefix")),
    flag("cluster-cidr", Kind::Text, Role::Field("clusterCIDR")),
    flag("nodeport-addresses", Kind::List, Role::Field("nodePortAddresses")),
    flag("oom-score-adj", Kind::Integer, Role::Field("oomScoreAdj")),
    flag("conntrack-max-per-core", Kind::Integer, Role::Field("conntrack.maxPerCore")),
    flag("conntrack-min", Kind::Integer, Role::Field("conntrack.min")),
    flag("conntrack-tcp-timeout-established", Kind::Duration, Role::Field("conntrack.tcpEstablishedTimeout")),
    flag("conntrack-tcp-timeout-close-wait", Kind::Duration, Role::Field("conntrack.tcpCloseWaitTimeout")),
    flag("conntrack-tcp-be-liberal", Kind::Bool, Role::Field("conntrack.tcpBeLiberal")),
    flag("conntrack-udp-timeout", Kind::Duration, Role::Field("conntrack.udpTimeout")),
    flag("conntrack-udp-timeout-stream", Kind::Duration, Role::Field("conntrack.udpStreamTimeout")),
    flag("config-sync-period", Kind::Period, Role::Field("configSyncPeriod")),
    flag("logging-format", Kind::Text, Role::Field("logging.format")),
    flag("v", Kind::Integer, Role::Field("logging.verbosity")),
    flag("vmodule", Kind::Patterns, Role::Field("logging.vmodule")),
    flag("log-flush-frequency", Kind::Duration, Role::Field("logging.flushFrequency")),
    flag("log-text-split-stream", Kind::Bool, Role::Field("logging.options.text.splitStream")),
    flag("log-text-info-buffer-size", Kind::Text, Role::Field("logging.options.text.infoBufferSize")),
    flag("log-json-split-stream", Kind::Bool, Role::Field("logging.options.json.splitStream")),
    flag("log-json-info-buffer-size", Kind::Text, Role::Field("logging.options.json.infoBufferSize")),
    flag("boot-id-file", Kind::Text, Role::Ignored("ignored: kube-proxy itself has no use for it")),
];

impl Flag {
    /// Whether it counts beside a configuration file, as with kube-proxy: what the program itself looks at, and the log.
    pub(super) fn is_kept(&self) -> bool {
        match self.role {
            Role::Program(_) | Role::Ignored(_) => true,
            Role::Field(path) => path.starts_with("logging."),
            Role::Section(_) | Role::UnlessIpvs(_) | Role::OfIpvs(_) | Role::Port(_) => false,
        }
    }

    /// What `--help` says of it.
    pub(super) fn help(&self) -> String {
        match self.role {
            Role::Field(path) => format!("As the field {path}"),
            Role::Section(name) | Role::UnlessIpvs(name) => format!("As the field iptables.{name}"),
            Role::OfIpvs(name) => format!("As the field ipvs.{name}"),
            Role::Program(help) | Role::Port(help) => help.to_owned(),
            Role::Ignored(reason) => reason.to_owned(),
        }
    }
}

impl Role {
    /// Path of the field that is set, if the flag sets one in this mode.
    pub(super) fn path(self, mode: Mode) -> Option<String> {
        let section = mode.section();
        match self {
            Self::Field(path) => Some(path.to_owned()),
            // kube-proxy has it in no section of IPVS.
            Self::Section(name) if mode == Mode::Ipvs => Some(format!("iptables.{name}")),
            Self::Section(name) => Some(format!("{section}.{name}")),
            Self::UnlessIpvs(name) if mode != Mode::Ipvs => Some(format!("{section}.{name}")),
            Self::OfIpvs(name) if mode == Mode::Ipvs => Some(format!("{section}.{name}")),
            _ => None,
        }
    }

    /// Whether it is a period of one mode only.
    pub(super) const fn is_period(self) -> bool {
        matches!(self, Self::UnlessIpvs(_) | Self::OfIpvs(_))
    }
}

impl Kind {
    /// What `--help` calls a value of it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Bool => "true|false",
            Self::Integer => "N",
            Self::Float => "NUMBER",
            Self::Duration | Self::Period => "DURATION",
            Self::List => "LIST",
            Self::Gates => "GATE=true|false,...",
            Self::Patterns => "PATTERN=N,...",
        }
    }

    /// The value of a field that `text` stands for.
    pub(super) fn read(self, text: &str) -> Result<Value, String> {
        let not = |what: &str| format!("not {what}");
        match self {
            Self::Text => Ok(Value::String(text.to_owned())),
            Self::Bool => to_bool(text).map(Value::Bool),
            Self::Integer => text.parse::<i64>().map(Value::from).map_err(|_| not("a whole number")),
            Self::Float => {
                let number = text.parse().ok().and_then(Number::from_f64);
                number.map(Value::Number).ok_or_else(|| not("a number"))
            }
            Self::Duration | Self::Period => {
                let duration: GoDuration = text.parse().map_err(|error| format!("{error}"))?;
                if self == Self::Period && duration <= GoDuration::ZERO {
                    return Err("must be more than 0".to_owned());
                }
                Ok(Value::String(text.to_owned()))
            }
            Self::List => Ok(items(text).map(|item| Value::String(item.to_owned())).collect()),
            Self::Gates => {
                let mut gates = Map::new();
                for item in items(text) {
                    let (name, value) = item.split_once('=').ok_or_else(|| not("GATE=true|false"))?;
                    gates.insert(name.trim().to_owned(), Value::Bool(to_bool(value.trim())?));
                }
                Ok(Value::Object(gates))
            }
            Self::Patterns => items(text)
                .map(|item| {
                    let (pattern, level) = item.split_once('=').ok_or_else(|| not("PATTERN=N"))?;
                    let level: u32 = level.parse().map_err(|_| not("PATTERN=N"))?;
                    Ok(json!({ "filePattern": pattern, "verbosity": level }))
                })
                .collect(),
        }
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|item| !item.trim().is_empty())
}

/// The spellings that Go has.
fn to_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}
