//! What a configuration of kube-proxy can say that Shunt does not do, with the reason. A field that says what kube-proxy
//! has anyway, or what Shunt does, is passed over: files are mostly written whole.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Notice;
use super::document::Document;
use super::read::{field, tree};
use super::settings::{DetectLocalMode, Mode, Settings};

const OWN_API_CLIENT: &str =
    "ignored: Shunt follows a few watches in JSON, and has no limit of requests to set";
const NO_BUFFER: &str = "ignored: each line of the log goes to standard error at once";
const NO_MARK: &str = "ignored: Shunt marks no packet";
const NO_IPVS: &str = "ignored: Shunt uses no IPVS; it picks backends by itself";
const NOT_WINDOWS: &str = "ignored: it is for Windows";
const NO_SYSCTL: &str = "ignored: Shunt does not use the kernel's conntrack and changes no sysctl";
const NO_RESYNC: &str =
    "ignored: changes come by the watches, and the maps are read and compared with all of it once an hour";
const CLOSE_WAIT: &str =
    "ignored: what one side has finished is remembered for net.netfilter.nf_conntrack_tcp_timeout_time_wait";
const BY_ADDRESS: &str = "honoured for which devices lead to pods; whether a packet is a pod's is told by its source address instead, which \
     must be in the Node's podCIDRs or in --cluster-cidr";

/// Fields and why they come to nothing.
const FIELDS: [(&str, &str); 35] = [
    ("clientConnection.acceptContentTypes", OWN_API_CLIENT),
    ("clientConnection.contentType", OWN_API_CLIENT),
    ("clientConnection.qps", OWN_API_CLIENT),
    ("clientConnection.burst", OWN_API_CLIENT),
    ("configSyncPeriod", NO_RESYNC),
    ("logging.flushFrequency", NO_BUFFER),
    ("logging.vmodule", "ignored: SHUNT_LOG filters by module, as in info,shunt::source=debug"),
    ("logging.options.text.splitStream", NO_BUFFER),
    ("logging.options.text.infoBufferSize", NO_BUFFER),
    ("logging.options.json.splitStream", NO_BUFFER),
    ("logging.options.json.infoBufferSize", NO_BUFFER),
    ("enableProfiling", "refused: Shunt has no profiles to serve"),
    ("showHiddenMetricsForVersion", "ignored: Shunt hides no metrics"),
    ("iptables.masqueradeBit", NO_MARK),
    ("nftables.masqueradeBit", NO_MARK),
    (
        "iptables.localhostNodePorts",
        "ignored: it opens or closes 127.0.0.1 by iptables; at the socket nothing but this host itself can reach it",
    ),
    ("ipvs.scheduler", NO_IPVS),
    ("ipvs.excludeCIDRs", NO_IPVS),
    ("ipvs.strictARP", NO_IPVS),
    ("ipvs.tcpTimeout", NO_IPVS),
    ("ipvs.tcpFinTimeout", NO_IPVS),
    ("ipvs.udpTimeout", NO_IPVS),
    ("winkernel.networkName", NOT_WINDOWS),
    ("winkernel.sourceVip", NOT_WINDOWS),
    ("winkernel.enableDSR", NOT_WINDOWS),
    ("winkernel.rootHnsEndpointName", NOT_WINDOWS),
    ("winkernel.forwardHealthCheckVip", NOT_WINDOWS),
    ("windowsRunAsService", NOT_WINDOWS),
    ("portRange", "ignored: kube-proxy itself has no use for it any more"),
    ("conntrack.maxPerCore", NO_SYSCTL),
    ("conntrack.min", NO_SYSCTL),
    ("conntrack.tcpBeLiberal", NO_SYSCTL),
    ("conntrack.tcpCloseWaitTimeout", CLOSE_WAIT),
    ("detectLocal.bridgeInterface", BY_ADDRESS),
    ("detectLocal.interfaceNamePrefix", BY_ADDRESS),
];

/// Fields that count in the section of one mode only.
const BY_MODE: [&str; 3] = ["masqueradeAll", "syncPeriod", "minSyncPeriod"];

/// Gates that kube-proxy 1.37 asks for, and what is said of those whose other setting would be noticed.
const GATES: [(&str, Option<(bool, &str)>); 17] = [
    ("AllAlpha", None),
    ("AllBeta", None),
    (
        "AllowServiceExternalIPs",
        Some((false, "not honoured: DenyServiceExternalIPs at the API server keeps external IPs out")),
    ),
    ("ComponentFlagz", None),
    ("ComponentStatusz", None),
    ("ContextualLogging", None),
    ("KubeProxyIPVS", None),
    (
        "KubeProxyNFTablesLocalhostNodePorts",
        Some((true, "ignored: at the socket this host's loopback needs no listener")),
    ),
    ("LoggingAlphaOptions", None),
    ("LoggingBetaOptions", None),
    ("MultiCIDRServiceAllocator", None),
    ("NFTablesNetlink", None),
    ("NFTablesProxyMode", None),
    ("NativeHistograms", None),
    (
        "PreferSameTrafficDistribution",
        Some((false, "not honoured: kube-proxy cannot switch it off either since 1.35")),
    ),
    ("WinDSR", None),
    ("WinOverlay", None),
];

/// Names what `document` says in vain.
pub(super) fn notices(document: &Document, settings: &Settings) -> Vec<Notice> {
    let mode = settings.words.mode;
    let [given, zero, theirs, ours] =
        [document, &Document::default(), &Document::kube_proxy(), &Document::shunt()].map(tree);
    let is_wish =
        |path: &str| [&zero, &theirs, &ours].iter().all(|tree| field(&given, path) != field(tree, path));
    let mut notices = idle_sections(&is_wish, mode);
    notices.extend(idle_detection(&is_wish, settings.packet_path.detect_local));
    for (path, reason) in FIELDS {
        let is_known = notices.iter().any(|notice| notice.field == path);
        if is_wish(path) && !is_known && !is_empty(field(&given, path)) {
            notices.push(Notice::new(path, reason));
        }
    }
    notices.extend(gates(&document.feature_gates));
    if let Mode::Ipvs | Mode::Nftables = mode {
        let reason = "is Shunt's own whatever is said here; this only decides which section holds the periods and what \
                      no nodePortAddresses means";
        notices.push(Notice::new("mode", reason));
    }
    notices
}

/// A size of no bytes can be written in many ways.
fn is_empty(value: &Value) -> bool {
    value.as_u64() == Some(0)
}

/// Wishes in the sections of other modes, which kube-proxy does not look at either.
fn idle_sections(is_wish: &dyn Fn(&str) -> bool, mode: Mode) -> Vec<Notice> {
    let in_force = mode.section();
    let mut notices = Vec::new();
    for section in ["iptables", "ipvs", "nftables"].into_iter().filter(|section| *section != in_force) {
        for name in BY_MODE {
            // With IPVS, kube-proxy takes this one from the section of iptables.
            let is_shared = (in_force, section, name) == ("ipvs", "iptables", "masqueradeAll");
            let path = format!("{section}.{name}");
            if is_wish(&path) && !is_shared {
                let reason = format!("ignored: by its mode this configuration's section is {in_force}");
                notices.push(Notice::new(path, reason));
            }
        }
    }
    notices
}

/// Ranges and names that the way in which pods are told does not ask for.
fn idle_detection(is_wish: &dyn Fn(&str) -> bool, mode: DetectLocalMode) -> Vec<Notice> {
    [
        ("clusterCIDR", DetectLocalMode::ClusterCidr),
        ("detectLocal.bridgeInterface", DetectLocalMode::BridgeInterface),
        ("detectLocal.interfaceNamePrefix", DetectLocalMode::InterfaceNamePrefix),
    ]
    .into_iter()
    .filter(|(path, asking)| *asking != mode && is_wish(path))
    .map(|(path, asking)| Notice::new(path, format!("ignored: only detectLocalMode {asking} asks for it")))
    .collect()
}

fn gates(given: &BTreeMap<String, bool>) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, value) in given {
        let field = format!("featureGates.{name}");
        match GATES.iter().find(|(known, _)| known == name) {
            None => notices.push(Notice::new(field, "ignored: kube-proxy 1.37 asks for no such gate")),
            Some((_, Some((setting, reason)))) if value == setting => {
                notices.push(Notice::new(field, *reason));
            }
            Some(_) => {}
        }
    }
    notices
}
