//! Files as people and kubeadm write them: what comes of them, and what is said.

use super::*;
use crate::kubeproxy::effective::{configz, effective};
use crate::kubeproxy::read::{self, Fault, of_text};

const KUBEADM: &str = include_str!("samples/kubeadm.yaml");
const DEFAULTS: &str = include_str!("samples/defaults.yaml");

/// Settings of a whole file, and all that is said of it.
fn read_whole(text: &str) -> (Settings, Vec<String>) {
    let (document, mut notices) = read::document(text.as_bytes()).unwrap();
    let (settings, more) = settings(&document).unwrap();
    notices.extend(more);
    (settings, notices.iter().map(ToString::to_string).collect())
}

fn served(text: &str) -> Settings {
    settings(&of_text(text)).unwrap_or_else(|faults| panic!("{text}: {faults:?}")).0
}

fn said(text: &str) -> Vec<String> {
    settings(&of_text(text)).unwrap().1.iter().map(ToString::to_string).collect()
}

fn faults(text: &str) -> Vec<String> {
    settings(&of_text(text)).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_of_kubeadm_is_read_without_a_warning() {
    let (settings, said) = read_whole(KUBEADM);
    assert_eq!(said, [""; 0]);
    assert_eq!(settings.kubeconfig.unwrap().to_str(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
    assert_eq!(settings.packet_path.cluster_cidrs, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(settings.nodeport_addresses, NodePortAddresses::All);
    assert_eq!(settings.pacing, Pacing::default());
    assert_eq!(settings.oom_score_adj, Some(-999));
}

#[test]
fn a_file_that_kube_proxy_wrote_is_read_without_a_warning() {
    let (settings, said) = read_whole(DEFAULTS);
    assert_eq!(said, [""; 0]);
    // It says so itself; a file that leaves it at 0 has none.
    assert_eq!(settings.pacing.min_sync_period, Duration::from_secs(1));
    let hours = |hours| Some(Duration::from_hours(hours));
    let idle = IdleTimes { tcp_established: hours(24), tcp_close_wait: hours(1), ..IdleTimes::default() };
    assert_eq!(settings.packet_path.idle, idle);
}

#[test]
fn json_is_read_like_yaml() {
    let json = r#"{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
                   "hostnameOverride": "node-a", "nodePortAddresses": ["192.0.2.0/24"]}"#;
    let (settings, said) = read_whole(json);
    assert_eq!((settings.node_name.as_deref(), said.len()), (Some("node-a"), 0));
}

#[test]
fn unknown_and_repeated_fields_are_named() {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (text, expected) in [
        ("clustercidr: 10.0.0.0/8", vec!["clustercidr: no such field; `clusterCIDR` is one; it is ignored"]),
        ("iptables: {minSync: 1s}", vec!["iptables.minSync: no such field; it is ignored"]),
        (
            "logging: {vmodule: [{file: x}]}\nbogus: null",
            vec![
                "bogus: no such field; it is ignored",
                "logging.vmodule[0].file: no such field; it is ignored",
            ],
        ),
        ("featureGates: {WinDSR: true}\nmetadata: {name: x}", vec!["metadata: no such field; it is ignored"]),
        ("iptables: null\nnodePortAddresses: null", vec![]),
    ] {
        let (_, notices) = read::document(format!("{head}{text}\n").as_bytes()).unwrap();
        let mut notices: Vec<_> = notices.iter().map(ToString::to_string).collect();
        notices.sort();
        assert_eq!(notices, expected, "{text}");
    }
    let twice = format!("{head}hostnameOverride: a\nhostnameOverride: b\n");
    let (document, notices) = read::document(twice.as_bytes()).unwrap();
    assert_eq!(document.hostname_override, "b");
    assert!(
        notices[0].problem.contains("hostnameOverride") && notices[0].problem.contains("last one counts")
    );
}

#[test]
fn what_is_no_document_is_refused() {
    let refused = |text: &str| match read::document(text.as_bytes()).unwrap_err() {
        Fault::Document(problem) => problem,
        Fault::Field(fault) => fault.to_string(),
    };
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (text, expected) in [
        ("", "not a KubeProxyConfiguration"),
        ("- a", "not a KubeProxyConfiguration"),
        ("kind: KubeProxyConfiguration", "apiVersion: must be `kubeproxy.config.k8s.io/v1alpha1`"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2",
            "apiVersion: `kubeproxy.config.k8s.io/v1alpha2` is not",
        ),
        ("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeletConfiguration", "kind: `KubeletConf"),
        (&format!("{head}iptables: {{syncPeriod: 30}}"), "iptables.syncPeriod: "),
        (&format!("{head}iptables: {{syncPeriod: 30x}}"), "iptables.syncPeriod: `30x` is not a duration"),
        (&format!("{head}nodePortAddresses: primary"), "nodePortAddresses: "),
        (&format!("{head}nodePortAddresses: [1]"), "nodePortAddresses[0]: "),
        (&format!("{head}oomScoreAdj: low"), "oomScoreAdj: "),
        (&format!("{head}hostnameOverride: 7"), "hostnameOverride: "),
        (&format!("{head}logging: {{flushFrequency: soon}}"), "logging.flushFrequency: "),
        (&format!("{head}a: [b"), ""),
    ] {
        assert!(refused(text).starts_with(expected), "{text}: {}", refused(text));
    }
}

#[test]
fn addresses_get_their_ports_and_family() {
    for (text, healthz, metrics) in [
        ("bindAddress: ''", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: '::'", "[::]:10256", "[::1]:10249"),
        ("bindAddress: '2001:db8::1'\nhealthzBindAddress: 192.0.2.1", "192.0.2.1:10256", "[::1]:10249"),
        ("healthzBindAddress: 192.0.2.1:8\nmetricsBindAddress: '[::]:9'", "192.0.2.1:8", "[::]:9"),
        ("metricsBindAddress: '::'\nhealthzBindAddress: 010.0.0.1", "10.0.0.1:10256", "[::]:10249"),
    ] {
        let settings = served(text);
        let addresses = (settings.healthz_address.to_string(), settings.metrics_address.to_string());
        assert_eq!(addresses, (healthz.to_owned(), metrics.to_owned()), "{text}");
    }
}

#[test]
fn nodeport_addresses_follow_the_mode_unless_given() {
    for (text, expected) in [
        ("mode: ''", "all"),
        ("mode: iptables", "all"),
        ("mode: ipvs\nnodePortAddresses: []", "all"),
        ("mode: nftables", "primary"),
        ("nodePortAddresses: [primary]", "primary"),
        (
            "mode: nftables\nnodePortAddresses: [localhost, 192.0.2.7/24, '2001:db8::/32']",
            "localhost 192.0.2.0/24 2001:db8::/32",
        ),
    ] {
        let entries = served(text).nodeport_addresses.entries();
        let entries: Vec<_> = entries.iter().map(ToString::to_string).collect();
        assert_eq!(entries.join(" "), expected, "{text}");
    }
}

#[test]
fn periods_are_those_of_the_mode_in_force() {
    let periods = "iptables: {syncPeriod: 1m0s, minSyncPeriod: 1s}\nipvs: {syncPeriod: 2m, minSyncPeriod: 2s}\n\
                   nftables: {syncPeriod: 3m, minSyncPeriod: 3s}\nconfigSyncPeriod: 1h\nmode: ";
    for (mode, times) in [("''", 1), ("iptables", 1), ("ipvs", 2), ("nftables", 3)] {
        let pacing = served(&format!("{periods}{mode}")).pacing;
        assert_eq!(pacing.sync_period, Duration::from_mins(times), "{mode}");
        assert_eq!(pacing.min_sync_period, Duration::from_secs(times), "{mode}");
        assert_eq!(pacing.config_sync_period, Duration::from_hours(1));
    }
    let said = said("mode: ipvs\nnftables: {minSyncPeriod: 3s}\niptables: {masqueradeAll: true}");
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0], "nftables.minSyncPeriod: ignored: by its mode this configuration's section is ipvs");
    assert!(said[1].starts_with("mode: is Shunt's own"));
}

#[test]
fn every_fault_names_its_field() {
    for (text, expected) in [
        ("mode: kernelspace", "mode: must be one of iptables, ipvs, nftables, or empty"),
        (
            "mode: nftables\nnftables: {minSyncPeriod: 31s}",
            "nftables.minSyncPeriod: 31s is more than nftables.syncPeriod, which is 30s",
        ),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: -1s is less than 0"),
        ("configSyncPeriod: -5m", "configSyncPeriod: -5m0s is less than 0"),
        ("bindAddress: eth0", "bindAddress: `eth0` is not an address"),
        ("healthzBindAddress: '0.0.0.0:0'", "healthzBindAddress: `0` is not a port"),
        (
            "metricsBindAddress: '[::1]'",
            "metricsBindAddress: `[::1]` is not an address with a port, as in 0.0.0.0:10249 or [::]:10249",
        ),
        (
            "healthzBindAddress: ':10256'",
            "healthzBindAddress: `:10256` is not an address with a port, as in 0.0.0.0:10256 or [::]:10256",
        ),
        ("healthzBindAddress: '0.0.0.0:65536'", "healthzBindAddress: `65536` is not a port"),
        ("clusterCIDR: 10.0.0.0/8,10.1.0.0/16", "clusterCIDR: `10.1.0.0/16` is a second range of its family"),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR: `10.0.0.0` is not a CIDR"),
        ("nodePortAddresses: [primary, primary]", "nodePortAddresses[1]: `primary` is given twice"),
        (
            "nodePortAddresses: [all, eth0]",
            "nodePortAddresses[1]: `eth0` is none of `all`, `primary` and `localhost`, nor a CIDR such as 192.0.2.0/24",
        ),
        ("oomScoreAdj: -1001", "oomScoreAdj: must be from -1000 to 1000"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit: must be from 0 to 31"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore: must be 0 or more"),
        ("conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout: -1s is less than 0"),
        ("ipvs: {excludeCIDRs: [x]}", "ipvs.excludeCIDRs[0]: `x` is not a CIDR"),
        (
            "detectLocalMode: Pods",
            "detectLocalMode: must be one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix, or empty",
        ),
        (
            "detectLocalMode: BridgeInterface",
            "detectLocal.bridgeInterface: must not be empty with BridgeInterface",
        ),
        ("logging: {format: xml}", "logging.format: `xml` is neither text nor json"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
    // All at once.
    assert_eq!(faults("mode: x\nbindAddress: z\noomScoreAdj: 2000").len(), 3);
    assert!(served("clusterCIDR: '10.0.0.0/8,2001:db8::/32'").packet_path.cluster_cidrs.len() == 2);
}

#[test]
fn what_comes_to_nothing_is_named_with_the_reason() {
    for (text, field) in [
        ("clientConnection: {qps: 50}", "clientConnection.qps"),
        ("clientConnection: {contentType: application/cbor}", "clientConnection.contentType"),
        ("enableProfiling: true", "enableProfiling"),
        ("iptables: {masqueradeBit: 3}", "iptables.masqueradeBit"),
        ("iptables: {localhostNodePorts: false}", "iptables.localhostNodePorts"),
        ("ipvs: {scheduler: lc}", "ipvs.scheduler"),
        ("ipvs: {excludeCIDRs: [10.0.0.0/8]}", "ipvs.excludeCIDRs"),
        ("winkernel: {enableDSR: true}", "winkernel.enableDSR"),
        ("portRange: 1-2", "portRange"),
        ("conntrack: {min: 7}", "conntrack.min"),
        ("conntrack: {tcpCloseWaitTimeout: 2h}", "conntrack.tcpCloseWaitTimeout"),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}",
            "detectLocal.bridgeInterface",
        ),
        ("detectLocalMode: ClusterCIDR\ndetectLocal: {bridgeInterface: br0}", "detectLocal.bridgeInterface"),
        ("bindAddress: 192.0.2.1", "bindAddress"),
        ("mode: nftables", "mode"),
        ("logging: {vmodule: [{filePattern: x, verbosity: 3}]}", "logging.vmodule"),
        ("featureGates: {Bogus: true}", "featureGates.Bogus"),
        ("featureGates: {AllowServiceExternalIPs: false}", "featureGates.AllowServiceExternalIPs"),
    ] {
        let said = said(text);
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with(&format!("{field}: ")), "{text}: {said:?}");
    }
    for silent in [
        "detectLocalMode: NodeCIDR",
        "iptables: {masqueradeAll: true}",
        "conntrack: {tcpEstablishedTimeout: 1h, udpTimeout: 20s, udpStreamTimeout: 2m}",
        "clusterCIDR: 10.244.0.0/16",
        "clientConnection: {contentType: application/json}",
        "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s}",
        "logging: {options: {json: {infoBufferSize: 0}}}",
        "featureGates: {WinDSR: true, AllowServiceExternalIPs: true}",
        "oomScoreAdj: 0\nbindAddressHardFail: true",
    ] {
        assert_eq!(said(silent), [""; 0], "{silent}");
    }
}

#[test]
fn verbosity_becomes_a_filter() {
    for (verbosity, filter) in [(0, "info"), (3, "info"), (4, "info,shunt=debug"), (9, "info,shunt=trace")] {
        assert_eq!(KubeProxyWords::log_filter(verbosity), filter);
    }
}

#[test]
fn what_is_in_force_reads_back_the_same_and_in_silence() {
    let all = "mode: ipvs\nhostnameOverride: node-a\nclientConnection: {kubeconfig: /k}\n\
               logging: {format: json, verbosity: 4}\nbindAddress: '::'\nbindAddressHardFail: true\n\
               nodePortAddresses: [primary, 192.0.2.0/24]\noomScoreAdj: -5\nconfigSyncPeriod: 1h30m0s\n\
               ipvs: {syncPeriod: 1m, minSyncPeriod: 2s}\niptables: {masqueradeAll: true}\n\
               detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}\n\
               conntrack: {tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 0s, udpTimeout: 10s}\n\
               featureGates: {WinDSR: true}\nenableProfiling: true\n";
    let before = served(all);
    let document = effective(&before);
    assert!(!document.enable_profiling);
    let text = serde_saphyr::to_string(&document).unwrap();
    let (again, notices) = read::document(text.as_bytes()).unwrap();
    assert_eq!((&again, notices), (&document, Vec::new()), "{text}");
    let (mut after, _) = settings(&again).unwrap();
    // A time that was not given is one of 0, which leaves the kernel's alone.
    after.packet_path.idle.udp_stream = None;
    assert_eq!(after, before);
    let plain = effective(&Settings::default());
    assert_eq!(settings(&plain).unwrap().1, Vec::new());
    let configz = configz(&document);
    let shown = &configz["kubeproxy.config.k8s.io"];
    assert_eq!(shown["ipvs"]["syncPeriod"], "1m0s");
    assert_eq!(shown["kind"], "KubeProxyConfiguration");
    assert_eq!(shown["nodePortAddresses"], serde_json::json!(["primary", "192.0.2.0/24"]));
}
