//! What the command line takes, and what it says of what it does not.

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
        Alone::<VerifyArgs>::command(),
        Alone::<DumpArgs>::command(),
        Alone::<TraceArgs>::command(),
        Alone::<CheckArgs>::command(),
        Alone::<CleanupArgs>::command(),
    ] {
        for flag in command.get_arguments().filter(|flag| !flag.is_positional()) {
            let long = flag.get_long().expect("every flag has a long name");
            let expected = format!("SHUNT_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env().and_then(|env| env.to_str()), Some(&*expected), "--{long}");
            seen.insert(long.to_owned());
        }
    }
    assert_eq!(seen.len(), 25, "{seen:?}");
}

#[test]
fn defaults_are_those_of_the_contract() {
    let args = agent(&["--manifests", "/m"]).unwrap();
    assert_eq!(args.pin.pin_dir, PathBuf::from("/sys/fs/bpf/shunt"));
    // The rest of the defaults depends on what a configuration file says.
    assert_eq!((args.healthz_address, args.metrics_address, args.log_format), (None, None, None));
    assert_eq!((args.node_name, args.cgroup, args.nodeport_addresses), (None, None, None));
    assert_eq!((args.bpf_log_level, args.metrics_services), (BpfLogLevel::Off, 1000));
    assert_eq!((args.devices, args.cluster_cidr), (DeviceArgs::default(), Vec::new()));
    assert_eq!((args.shortcuts, args.socket_lb), (Shortcuts::Auto, SocketLb::All));
    let check = Alone::<CheckArgs>::try_parse_from(["check"]).unwrap().args;
    assert_eq!((check.cgroup, check.healthz_address.to_string()), (None, "0.0.0.0:10256".to_owned()));
    let status = Alone::<StatusArgs>::try_parse_from(["status"]).unwrap().args;
    assert_eq!(status.metrics.metrics_address.to_string(), "127.0.0.1:10249");
}

#[test]
fn errors_name_the_flag() {
    for (words, flag) in [
        (&["--manifests", "/m", "--api-server", "https://192.0.2.1"][..], "--api-server"),
        (&["--manifests", "/m", "--healthz-address", "10256"], "--healthz-address"),
        (&["--manifests", "/m", "--log-format", "xml"], "--log-format"),
        (&["--manifests", "/m", "--nodeport-addresses", "primary,eth0"], "--nodeport-addresses"),
        (&["--manifests", "/m", "--devices", "eth0,auto"], "--devices"),
        (&["--manifests", "/m", "--devices", "eth0/1"], "--devices"),
        (&["--manifests", "/m", "--pod-devices", ""], "--pod-devices"),
        (&["--manifests", "/m", "--cluster-cidr", "10.0.0.0/8,10.1.0.0"], "--cluster-cidr"),
        (&["--manifests", "/m", "--bpf-log-level", "5"], "--bpf-log-level"),
        (&["--manifests", "/m", "--kubeconfig", "/k"], "--kubeconfig"),
    ] {
        let error = agent(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(flag), "{error}");
    }
}

#[test]
fn devices_and_ranges_are_lists() {
    let words = ["--manifests", "/m", "--devices", "eth*,bond0", "--pod-devices", "none"];
    let args = agent(&[&words[..], &["--cluster-cidr", "10.244.0.7/16,2001:db8::/32"]].concat()).unwrap();
    assert_eq!(args.devices.devices, "eth*,bond0".parse().unwrap());
    assert_eq!(args.devices.pod_devices, Selection::None);
    let ranges: Vec<String> = args.cluster_cidr.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.244.0.0/16", "2001:db8::/32"]);
}

#[test]
fn dump_takes_a_table_and_a_service() {
    let parse = |words: &[&str]| Alone::<DumpArgs>::try_parse_from([&["dump"], words].concat());
    let args = parse(&["backends", "--service", "default/web:http", "-o", "yaml"]).unwrap().args;
    assert_eq!((args.table, args.output.output), (DumpTable::Backends, OutputForm::Yaml));
    assert!(args.service.is_some_and(|filter| filter.matches("default/web:http/tcp")));
    assert!(parse(&["backends", "--service", "web"]).unwrap_err().to_string().contains("--service"));
    assert_eq!(parse(&["flows"]).unwrap().args.table, DumpTable::Flows);
    assert_eq!(parse(&["routes"]).unwrap_err().exit_code(), 2);
}

#[test]
fn trace_takes_a_client_and_a_destination() {
    let parse = |words: &[&str]| Alone::<TraceArgs>::try_parse_from([&["trace"], words].concat());
    let args = parse(&["pod", "10.96.0.10:53", "--proto", "udp"]).unwrap().args;
    assert_eq!((args.source, args.proto), (Asked::Pod, Some(TraceProto::Udp)));
    assert_eq!(args.destination.port, Some(53));
    for (words, named) in [
        (&["somebody", "10.96.0.10"][..], "<SRC>"),
        (&["host", "web.default:80"], "<DST>"),
        (&["host", "10.96.0.10:0"], "port 0"),
        (&["host", "10.96.0.10", "--proto", "icmp"], "--proto"),
        (&["host"], "<DST>"),
    ] {
        let error = parse(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// Set for the child process in which [`flags_win_over_the_environment`] parses: the environment of a test
/// process belongs to all its threads.
const CHILD: &str = "SHUNT_TEST_PARSE_ARGUMENTS";

#[test]
fn flags_win_over_the_environment() {
    if let Ok(words) = std::env::var(CHILD) {
        let args = agent(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        println!("node={:?} healthz={:?}", args.node_name, args.healthz_address);
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
    assert!(from_env.contains(r#"node=Some("from-env") healthz=Some(127.0.0.1:1)"#), "{from_env}");
    let from_flag = parse_in_child("--node-name from-flag --healthz-address 127.0.0.1:2");
    assert!(from_flag.contains(r#"node=Some("from-flag") healthz=Some(127.0.0.1:2)"#), "{from_flag}");
}
