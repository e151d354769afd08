//! From a [`Document`] to [`Settings`]: defaults, checks and meaning, as kube-proxy has them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::document::Document;
use super::duration::GoDuration;
use super::settings::{
    DetectLocalMode, HEALTHZ_PORT, IdleTimes, KubeProxyWords, METRICS_PORT, Mode, Pacing, PacketPath,
    Settings,
};
use super::{Notice, refused};
use crate::cli::LogFormat;
use crate::plan::node::NodePortAddresses;
use crate::source::convert::{parse_ip, parse_net};

/// kube-proxy's own: the last that the kernel kills for memory, but for what must never be.
const OOM_SCORE_ADJ: i32 = -999;

/// What `document` means, and what it says in vain; or all that makes no sense in it.
pub(super) fn settings(document: &Document) -> Result<(Settings, Vec<Notice>), Vec<Notice>> {
    let mut faults = Faults::default();
    let mode: Mode = faults.unwrap("mode", document.mode.parse());
    faults.ranges(document);
    let bind_address = bind_address(document, &mut faults);
    let (healthz, metrics) = addresses(document, bind_address, &mut faults);
    let settings = Settings {
        node_name: text(&document.hostname_override),
        kubeconfig: text(&document.client_connection.kubeconfig).map(Into::into),
        nodeport_addresses: nodeport_addresses(document, mode, &mut faults),
        healthz_address: healthz,
        metrics_address: metrics,
        log_format: log_format(document, &mut faults),
        oom_score_adj: Some(document.oom_score_adj.unwrap_or(OOM_SCORE_ADJ)),
        bind_address_hard_fail: document.bind_address_hard_fail,
        pacing: pacing(document, mode, &mut faults),
        packet_path: packet_path(document, mode, &mut faults),
        words: KubeProxyWords {
            mode,
            feature_gates: document.feature_gates.clone(),
            verbosity: document.logging.verbosity,
        },
    };
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let mut notices = refused::notices(document, &settings);
    if !bind_address.is_unspecified() {
        let reason =
            "only decides the family of the default addresses: this node's own come from its Node object";
        notices.push(Notice::new("bindAddress", reason));
    }
    Ok((settings, notices))
}

/// What makes no sense, collected so that it can be put right in one go.
#[derive(Default)]
struct Faults(Vec<Notice>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Notice::new(field, problem));
    }

    /// The value, or none worth anything: nothing is made of it once there is a fault.
    fn unwrap<T: Default, E: ToString>(&mut self, field: &str, value: Result<T, E>) -> T {
        value.unwrap_or_else(|error| {
            self.add(field, error.to_string());
            T::default()
        })
    }

    /// Numbers and times with bounds, honoured or not: kube-proxy refuses them.
    fn ranges(&mut self, document: &Document) {
        let counts = [
            ("clientConnection.burst", Some(document.client_connection.burst), 0, i32::MAX),
            ("oomScoreAdj", document.oom_score_adj, -1000, 1000),
            ("iptables.masqueradeBit", document.iptables.masquerade_bit, 0, 31),
            ("nftables.masqueradeBit", document.nftables.masquerade_bit, 0, 31),
            ("conntrack.maxPerCore", document.conntrack.max_per_core, 0, i32::MAX),
            ("conntrack.min", document.conntrack.min, 0, i32::MAX),
        ];
        for (field, value, least, most) in counts {
            if value.is_some_and(|value| value < least || value > most) {
                let problem = match most {
                    i32::MAX => format!("must be {least} or more"),
                    _ => format!("must be from {least} to {most}"),
                };
                self.add(field, problem);
            }
        }
        for (field, value) in [
            ("ipvs.tcpTimeout", document.ipvs.tcp_timeout),
            ("ipvs.tcpFinTimeout", document.ipvs.tcp_fin_timeout),
            ("ipvs.udpTimeout", document.ipvs.udp_timeout),
        ] {
            self.span(field, value);
        }
        for (index, cidr) in document.ipvs.exclude_cidrs.iter().enumerate() {
            if parse_net(cidr).is_none() {
                self.add(format!("ipvs.excludeCIDRs[{index}]"), format!("`{cidr}` is not a CIDR"));
            }
        }
    }

    fn span(&mut self, field: &str, value: GoDuration) -> Duration {
        value.to_std().unwrap_or_else(|| {
            self.add(field, format!("{value} is less than 0"));
            Duration::ZERO
        })
    }
}

fn text(given: &str) -> Option<String> {
    let given = given.trim();
    (!given.is_empty()).then(|| given.to_owned())
}

fn bind_address(document: &Document, faults: &mut Faults) -> IpAddr {
    let given = match document.bind_address.as_str() {
        "" => "0.0.0.0",
        given => given,
    };
    parse_ip(given).unwrap_or_else(|| {
        faults.add("bindAddress", format!("`{given}` is not an address"));
        IpAddr::from([0; 4])
    })
}

/// Of the health and the metrics server; unless given, of the family of `bindAddress`.
fn addresses(document: &Document, bind_address: IpAddr, faults: &mut Faults) -> (SocketAddr, SocketAddr) {
    let (any, own) = if bind_address.is_ipv4() { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
    let mut address = |field, given: &str, default: &str, port| {
        let given = if given.is_empty() { default } else { given };
        socket_address(given, port).unwrap_or_else(|problem| {
            faults.add(field, problem);
            SocketAddr::new(bind_address, port)
        })
    };
    (
        address("healthzBindAddress", &document.healthz_bind_address, any, HEALTHZ_PORT),
        address("metricsBindAddress", &document.metrics_bind_address, own, METRICS_PORT),
    )
}

/// An address with a port, or without, and then with the usual one. An IPv6 address with a port is in brackets.
fn socket_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Some(ip) = parse_ip(text) {
        return Ok(SocketAddr::new(ip, port));
    }
    let malformed = || format!("`{text}` is not an address with a port, as in 0.0.0.0:{port} or [::]:{port}");
    let (host, port_text) = text.rsplit_once(':').ok_or_else(malformed)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err(malformed());
    }
    let ip = parse_ip(bare.unwrap_or(host)).ok_or_else(malformed)?;
    match port_text.parse() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!("`{port_text}` is not a port")),
    }
}

fn nodeport_addresses(document: &Document, mode: Mode, faults: &mut Faults) -> NodePortAddresses {
    let given = &document.node_port_addresses;
    if given.is_empty() {
        return match mode {
            Mode::Nftables => NodePortAddresses::Primary,
            Mode::Unset | Mode::Iptables | Mode::Ipvs => NodePortAddresses::All,
        };
    }
    // One by one first, so that the fault names the item.
    let mut entries: Vec<String> = Vec::new();
    for (index, entry) in given.iter().enumerate() {
        let field = format!("nodePortAddresses[{index}]");
        let entry = parse_net(entry).map_or_else(|| entry.clone(), |net| net.to_string());
        if let Err(error) = NodePortAddresses::from_entries([entry.as_str()]) {
            faults.add(field, error.to_string());
            continue;
        }
        entries.push(entry);
        if let Err(error) = NodePortAddresses::from_entries(entries.iter().map(String::as_str)) {
            faults.add(field, error.to_string());
            entries.pop();
        }
    }
    NodePortAddresses::from_entries(entries.iter().map(String::as_str)).unwrap_or_default()
}

fn log_format(document: &Document, faults: &mut Faults) -> LogFormat {
    match document.logging.format.as_str() {
        "" | "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            faults.add("logging.format", format!("`{other}` is neither text nor json"));
            LogFormat::Text
        }
    }
}

/// A period of zero is one that was not given.
fn pacing(document: &Document, mode: Mode, faults: &mut Faults) -> Pacing {
    let (sync, min_sync) = match mode {
        Mode::Unset | Mode::Iptables => (document.iptables.sync_period, document.iptables.min_sync_period),
        Mode::Ipvs => (document.ipvs.sync_period, document.ipvs.min_sync_period),
        Mode::Nftables => (document.nftables.sync_period, document.nftables.min_sync_period),
    };
    let [sync_field, min_sync_field] =
        ["syncPeriod", "minSyncPeriod"].map(|name| format!("{}.{name}", mode.section()));
    let usual = Pacing::default();
    let mut period = |field: &str, given: GoDuration, usual: Duration| match given {
        GoDuration::ZERO => usual,
        given => faults.span(field, given),
    };
    let pacing = Pacing {
        min_sync_period: period(&min_sync_field, min_sync, usual.min_sync_period),
        sync_period: period(&sync_field, sync, usual.sync_period),
        config_sync_period: period("configSyncPeriod", document.config_sync_period, usual.config_sync_period),
    };
    if faults.0.is_empty() && pacing.min_sync_period > pacing.sync_period {
        let [min_sync, sync] = [pacing.min_sync_period, pacing.sync_period].map(GoDuration::of_std);
        faults.add(min_sync_field, format!("{min_sync} is more than {sync_field}, which is {sync}"));
    }
    pacing
}

fn packet_path(document: &Document, mode: Mode, faults: &mut Faults) -> PacketPath {
    let detect_local = faults.unwrap("detectLocalMode", document.detect_local_mode.parse());
    let (field, interface) = match detect_local {
        DetectLocalMode::BridgeInterface => ("bridgeInterface", &document.detect_local.bridge_interface),
        DetectLocalMode::InterfaceNamePrefix => {
            ("interfaceNamePrefix", &document.detect_local.interface_name_prefix)
        }
        DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr => ("", &String::new()),
    };
    if interface.is_empty() && !field.is_empty() {
        faults.add(format!("detectLocal.{field}"), format!("must not be empty with {detect_local}"));
    }
    let conntrack = &document.conntrack;
    let optional = |span: GoDuration| (span != GoDuration::ZERO).then_some(span);
    let mut time = |field: &str, given: Option<GoDuration>| {
        given.map(|span| faults.span(&format!("conntrack.{field}"), span))
    };
    let idle = IdleTimes {
        tcp_established: time("tcpEstablishedTimeout", conntrack.tcp_established_timeout),
        tcp_close_wait: time("tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout),
        udp: time("udpTimeout", optional(conntrack.udp_timeout)),
        udp_stream: time("udpStreamTimeout", optional(conntrack.udp_stream_timeout)),
    };
    PacketPath {
        masquerade_all: match mode {
            Mode::Nftables => document.nftables.masquerade_all,
            Mode::Unset | Mode::Iptables | Mode::Ipvs => document.iptables.masquerade_all,
        },
        detect_local,
        cluster_cidrs: match detect_local {
            DetectLocalMode::ClusterCidr => cluster_cidrs(&document.cluster_cidr, faults),
            _ => Vec::new(),
        },
        interface: interface.clone(),
        idle,
    }
}

/// One range, or one of each family.
fn cluster_cidrs(given: &str, faults: &mut Faults) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = Vec::new();
    if given.is_empty() {
        return nets;
    }
    for text in given.split(',') {
        match parse_net(text) {
            None => faults.add("clusterCIDR", format!("`{text}` is not a CIDR")),
            Some(net) if nets.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) => {
                faults.add("clusterCIDR", format!("`{text}` is a second range of its family"));
            }
            Some(net) => nets.push(net),
        }
    }
    nets
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
