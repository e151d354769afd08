//! How flags, variables, files and what the host says come together.

use super::*;
use crate::cli::{BpfLogLevel, DeviceArgs, LogFormat, PinArgs, Shortcuts, SocketLb};
use crate::plan::node::NodePortAddresses;

fn surroundings(node_name: Option<&str>) -> Surroundings {
    Surroundings {
        node_name: node_name.map(str::to_owned),
        host_name: " Host-1.Example\n".to_owned(),
        service: None,
        service_account: "/absent".into(),
        log_filter: None,
    }
}

fn args(manifests: &std::path::Path) -> AgentArgs {
    AgentArgs {
        node_name: None,
        kubeconfig: None,
        api_server: Vec::new(),
        manifests: Some(manifests.to_owned()),
        cgroup: None,
        pin: PinArgs { pin_dir: "pins".into() },
        config: None,
        nodeport_addresses: None,
        devices: DeviceArgs::default(),
        shortcuts: Shortcuts::Auto,
        cluster_cidr: Vec::new(),
        healthz_address: None,
        metrics_address: None,
        log_format: None,
        health_check_node_ports: true,
        serve_local_vips: false,
        socket_lb: SocketLb::All,
        move_udp: true,
        metrics_services: 1000,
        bpf_log_level: BpfLogLevel::Off,
    }
}

const ORIGINS: Origins = Origins { kubeconfig: "--kubeconfig", api_server: "--api-server" };

fn name(given: [Option<&str>; 3]) -> Result<String, String> {
    let [flag, variable, file] = given;
    let names = [("--node-name", flag), ("NODE_NAME", variable), ("hostnameOverride of --config", file)];
    node_name(names, " Host-1.Example\n").map_err(|error| error.to_string())
}

#[test]
fn the_node_name_is_the_first_that_says_anything() {
    assert_eq!(name([Some(" Node-A "), Some("node-b"), Some("c")]).unwrap(), "node-a");
    assert_eq!(name([None, Some("NODE-B"), Some("c")]).unwrap(), "node-b");
    assert_eq!(name([None, None, Some("C ")]).unwrap(), "c");
    assert_eq!(name([Some("  "), Some(""), None]).unwrap(), "host-1.example");
}

#[test]
fn a_name_that_no_node_can_have_is_refused() {
    for bad in ["node_1", "a/b", "nöde", &"n".repeat(254)] {
        let error = name([Some(bad), None, None]).unwrap_err();
        assert!(error.starts_with("--node-name: "), "{error}");
    }
    assert!(name([None, None, Some("a b")]).unwrap_err().starts_with("hostnameOverride of --config: `a b`"));
}

#[test]
fn arguments_are_completed() {
    let scratch = tempfile::tempdir().unwrap();
    let config = AgentConfig::resolve(args(scratch.path()), &surroundings(None)).unwrap().config;
    assert!(config.pin_dir.is_absolute() && config.pin_dir.ends_with("pins"));
    assert_eq!(config.node_name, "host-1.example");
    assert_eq!(config.nodeport_addresses, NodePortAddresses::Primary);
    assert_eq!(config.healthz_address.to_string(), "0.0.0.0:10256");
    assert_eq!(config.metrics_address.to_string(), "127.0.0.1:10249");
    assert_eq!((config.log_format, config.log_filter.as_str()), (LogFormat::Text, "info"));
    assert_eq!((config.oom_score_adj, config.pacing), (None, kubeproxy::Pacing::default()));
}

#[test]
fn errors_name_the_flag() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut AgentArgs)| {
        let mut changed = args(scratch.path());
        change(&mut changed);
        AgentConfig::resolve(changed, &surroundings(None)).unwrap_err().to_string()
    };
    let absent = refused(&|args| args.manifests = Some("/absent/manifests".into()));
    assert!(absent.starts_with("--manifests: /absent/manifests: "), "{absent}");
    let twice = refused(&|args| args.metrics_address = Some("0.0.0.0:10256".parse().unwrap()));
    assert!(twice.starts_with("--healthz-address and --metrics-address: "), "{twice}");
    let empty = refused(&|args| args.pin.pin_dir = "".into());
    assert!(empty.starts_with("--pin-dir: "), "{empty}");
}

#[test]
fn the_first_address_counts() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("kubeconfig");
    let text = "clusters: [{name: c, cluster: {server: 'http://192.0.2.2:2'}}]\n\
                contexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n";
    std::fs::write(&path, text).unwrap();
    let service = Some(("fd00::1".to_owned(), "443".to_owned()));
    let around = Surroundings { service, ..surroundings(None) };
    let resolved = |servers: &[&str], kubeconfig: Option<&PathBuf>| {
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        match api(servers, kubeconfig.cloned(), (ORIGINS, &around)).unwrap() {
            SourceConfig::Api { access, patience } => (access.servers().join(","), patience),
            SourceConfig::Manifests(_) => panic!("not asked for"),
        }
    };
    let given = ["http://192.0.2.1:1", "http://192.0.2.3:3"];
    assert_eq!(resolved(&given, Some(&path)), ("http://192.0.2.1:1,http://192.0.2.3:3".into(), None));
    assert_eq!(resolved(&[], Some(&path)), ("http://192.0.2.2:2/".into(), None));
    // Without a service account's certificate the system's roots are asked, which a bare host may lack.
    let (host, port) = around.service.as_ref().unwrap();
    assert_eq!(service_url(host, port), "https://[fd00::1]:443");
    assert_eq!(service_url("192.0.2.1", ""), "https://192.0.2.1:443");
}

#[test]
fn errors_of_the_source_say_who_named_it() {
    let refused = |servers: &[&str], kubeconfig: Option<&str>| {
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        api(servers, kubeconfig.map(PathBuf::from), (ORIGINS, &surroundings(None))).unwrap_err().to_string()
    };
    assert!(refused(&[], None).starts_with("--kubeconfig, --api-server or --manifests: "));
    assert!(refused(&["192.0.2.1"], None).starts_with("--api-server: `192.0.2.1`"));
    let absent = refused(&[], Some("/absent/kubeconfig"));
    assert!(absent.starts_with("--kubeconfig: /absent/kubeconfig: "), "{absent}");
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

#[test]
fn flags_and_variables_win_over_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.yaml");
    let text = "hostnameOverride: of-file\nhealthzBindAddress: 192.0.2.1:1\nmetricsBindAddress: 192.0.2.1\n\
                nodePortAddresses: [localhost]\nlogging: {format: json, verbosity: 5}\nbogus: 1\n";
    std::fs::write(&file, format!("{HEAD}{text}")).unwrap();
    let around = Surroundings { log_filter: Some("warn".to_owned()), ..surroundings(Some("of-variable")) };
    let with_file = AgentArgs { config: Some(file), ..args(scratch.path()) };
    let plain = Surroundings { log_filter: None, node_name: None, ..around.clone() };
    let of_file = AgentConfig::resolve(with_file.clone(), &plain).unwrap();
    assert_eq!(of_file.notices.len(), 1, "{:?}", of_file.notices);
    let config = of_file.config;
    assert_eq!((config.node_name.as_str(), config.log_filter.as_str()), ("of-file", "info,shunt=debug"));
    assert_eq!(config.metrics_address.to_string(), "192.0.2.1:10249");
    assert_eq!((config.log_format, config.oom_score_adj), (LogFormat::Json, Some(-999)));
    assert_eq!(config.configuration.hostname_override, "of-file");
    let over = AgentArgs {
        healthz_address: Some("192.0.2.9:9".parse().unwrap()),
        nodeport_addresses: Some(NodePortAddresses::Primary),
        log_format: Some(LogFormat::Text),
        ..with_file
    };
    let config = AgentConfig::resolve(over, &around).unwrap().config;
    assert_eq!((config.node_name.as_str(), config.log_filter.as_str()), ("of-variable", "warn"));
    assert_eq!(config.configuration.healthz_bind_address, "192.0.2.9:9");
    assert_eq!((config.log_format, config.nodeport_addresses), (LogFormat::Text, NodePortAddresses::Primary));
}

#[test]
fn a_file_that_makes_no_sense_is_named_with_the_field() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.yaml");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let args = AgentArgs { config: Some(file.clone()), ..args(scratch.path()) };
        AgentConfig::resolve(args, &surroundings(None)).unwrap_err().to_string()
    };
    let path = file.display();
    assert_eq!(
        refused(&format!("{HEAD}mode: x")),
        format!("--config: {path}: mode: must be one of iptables, ipvs, nftables, or empty")
    );
    assert!(refused("kind: x").starts_with(&format!("--config: {path}: apiVersion: ")));
}

#[test]
fn the_kubeconfig_of_the_file_is_the_last() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.yaml");
    std::fs::write(&file, format!("{HEAD}clientConnection: {{kubeconfig: /absent/of-file}}")).unwrap();
    let refused = |change: &dyn Fn(&mut AgentArgs)| {
        let mut args = AgentArgs { config: Some(file.clone()), manifests: None, ..args(scratch.path()) };
        change(&mut args);
        AgentConfig::resolve(args, &surroundings(None)).unwrap_err().to_string()
    };
    let of_file = refused(&|_| {});
    assert!(of_file.starts_with("clientConnection.kubeconfig of --config: /absent/of-file: "), "{of_file}");
    let of_flag = refused(&|args| args.kubeconfig = Some("/absent/of-flag".into()));
    assert!(of_flag.starts_with("--kubeconfig: /absent/of-flag: "), "{of_flag}");
}

#[test]
fn flags_of_kube_proxy_win_over_variables_and_beside_a_file_only_some() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.yaml");
    std::fs::write(&file, format!("{HEAD}mode: nftables\nhealthzBindAddress: 192.0.2.1:1")).unwrap();
    let merged = |words: &[&str], args: AgentArgs| {
        let words = ["kube-proxy"].iter().chain(words).map(std::ffi::OsString::from);
        let flags = Flags::parse(words).unwrap();
        let around =
            Surroundings { log_filter: Some("warn".to_owned()), ..surroundings(Some("of-variable")) };
        Merged::of_kube_proxy(&flags, args, &around).unwrap()
    };
    let of_variables =
        AgentArgs { healthz_address: Some("192.0.2.8:8".parse().unwrap()), ..args(scratch.path()) };
    let words =
        ["--hostname-override=Of-Flag", "--healthz-bind-address=192.0.2.9:9", "--v=4", "--kubeconfig=/k"];
    let alone = merged(&words, of_variables.clone());
    assert_eq!(alone.log_filter, "info,shunt=debug");
    assert_eq!(alone.args.manifests, None);
    let document = alone.configuration();
    assert_eq!((document.hostname_override.as_str(), document.logging.verbosity), ("of-flag", 4));
    assert_eq!(document.healthz_bind_address, "192.0.2.9:9");
    assert_eq!(document.node_port_addresses, ["all"]);
    let config = format!("--config={}", file.display());
    let beside =
        merged(&[&words[..], &[&config]].concat(), AgentArgs { healthz_address: None, ..of_variables });
    let document = beside.configuration();
    assert_eq!((document.hostname_override.as_str(), document.logging.verbosity), ("of-flag", 4));
    assert_eq!(document.healthz_bind_address, "192.0.2.1:1");
    assert_eq!(document.node_port_addresses, ["primary"]);
    let ignored: Vec<_> = beside.notices.iter().map(|notice| notice.field.as_str()).collect();
    assert_eq!(ignored, ["--kubeconfig", "--healthz-bind-address", "mode"]);
    let error =
        merged(&["--master=192.0.2.1"], args(scratch.path())).complete(&surroundings(None)).unwrap_err();
    assert!(error.to_string().starts_with("--master: `192.0.2.1`"), "{error}");
}

#[test]
fn devices_come_from_flags_and_pods_devices_also_from_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("kube-proxy.yaml");
    let resolved = |text: &str, change: &dyn Fn(&mut AgentArgs)| {
        std::fs::write(
            &file,
            format!("apiVersion: {}\nkind: {}\n{text}", kubeproxy::API_VERSION, kubeproxy::KIND),
        )
        .unwrap();
        let mut args = AgentArgs { config: Some(file.clone()), ..args(scratch.path()) };
        change(&mut args);
        AgentConfig::resolve(args, &surroundings(None))
    };
    let as_given = |_: &mut AgentArgs| {};
    let plain = resolved("", &as_given).unwrap().config;
    assert_eq!((plain.devices, plain.packet_path.cluster_cidrs), (Choice::default(), Vec::new()));

    let named = |args: &mut AgentArgs| {
        args.devices = DeviceArgs { devices: "eth0".parse().unwrap(), pod_devices: "none".parse().unwrap() };
    };
    let text = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}";
    let devices = resolved(text, &named).unwrap().config.devices;
    let more_pods = Some("cali*".parse().unwrap());
    let wanted = Choice { devices: "eth0".parse().unwrap(), pod_devices: "none".parse().unwrap(), more_pods };
    assert_eq!(devices, wanted);
    let text = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}";
    assert_eq!(resolved(text, &as_given).unwrap().config.devices.more_pods, Some("cni0".parse().unwrap()));
    let text = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: a/b}";
    let error = resolved(text, &as_given).unwrap_err().to_string();
    assert!(error.starts_with("detectLocal of --config: `a/b` cannot be the name of a device"), "{error}");
}

#[test]
fn the_flag_for_ranges_of_pods_wins_over_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("kube-proxy.yaml");
    let ranges = |text: &str, flag: &[&str]| {
        std::fs::write(
            &file,
            format!("apiVersion: {}\nkind: {}\n{text}", kubeproxy::API_VERSION, kubeproxy::KIND),
        )
        .unwrap();
        let cluster_cidr = flag.iter().map(|text| text.parse().unwrap()).collect();
        let args = AgentArgs { config: Some(file.clone()), cluster_cidr, ..args(scratch.path()) };
        let ranges =
            AgentConfig::resolve(args, &surroundings(None)).unwrap().config.packet_path.cluster_cidrs;
        ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ranges("clusterCIDR: 10.244.0.0/16", &[]), ["10.244.0.0/16"]);
    assert_eq!(
        ranges("clusterCIDR: 10.244.0.0/16", &["10.9.0.0/16", "10.8.0.0/16"]),
        ["10.9.0.0/16", "10.8.0.0/16"]
    );
    assert_eq!(ranges("clusterCIDR: 10.244.0.0/16\ndetectLocalMode: NodeCIDR", &[]), [""; 0]);
    assert_eq!(ranges("detectLocalMode: NodeCIDR", &["10.9.0.0/16"]), ["10.9.0.0/16"]);
}

#[test]
fn kube_proxys_flag_for_ranges_wins_over_the_variable() {
    let scratch = tempfile::tempdir().unwrap();
    let ranges = |words: &[&str]| {
        let words = std::iter::once("kube-proxy").chain(words.iter().copied()).map(Into::into);
        let of_environment =
            AgentArgs { cluster_cidr: vec!["10.9.0.0/16".parse().unwrap()], ..args(scratch.path()) };
        let merged =
            Merged::of_kube_proxy(&Flags::parse(words).unwrap(), of_environment, &surroundings(None))
                .unwrap();
        merged.settings.packet_path.cluster_cidrs
    };
    assert_eq!(ranges(&[]), ["10.9.0.0/16".parse().unwrap()]);
    assert_eq!(ranges(&["--cluster-cidr=10.244.0.0/16"]), ["10.244.0.0/16".parse().unwrap()]);
}
