//! The agent touches no packet filter: seen from its system calls, and from the rules that were there before.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::agent::Agent;
use tests::netns::run;

use crate::scenario::{PORT, Scenario, WEB, ways};

/// Programs that write rules, by the start of their name.
const RULE_WRITERS: [&str; 6] = ["iptables", "ip6tables", "nft", "ipset", "ipvsadm", "ebtables"];

/// What traces a run.
fn strace(log: &Path) -> Vec<String> {
    // The tracer runs beside the program, which so keeps the process id and the exit code that it has without.
    let words = ["strace", "-D", "-f", "-qq", "-e", "trace=execve,execveat,socket", "-o"];
    words.into_iter().map(str::to_owned).chain([log.display().to_string()]).collect()
}

/// Lines of a trace that touch netfilter: its netlink, the raw sockets of older tools, and those tools.
fn offences(trace: &str) -> Vec<&str> {
    let touches = |line: &str| {
        let is_socket = line.contains("NETLINK_NETFILTER") || line.contains("IPPROTO_RAW");
        let program =
            line.split_once("execve").and_then(|(_, rest)| rest.split('"').nth(1)).unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        is_socket || RULE_WRITERS.iter().any(|writer| name.starts_with(writer))
    };
    trace.lines().filter(|line| touches(line)).collect()
}

#[test]
fn a_whole_run_opens_no_netfilter_socket_and_changes_no_rule() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let rules = "table inet before { chain input { type filter hook input priority 0; policy accept; \
                 ip saddr 192.0.2.7 drop; }; set names { type ipv4_addr; elements = { 192.0.2.8 }; }; }";
    node.netns.run("nft", &[rules]).unwrap();
    let ruleset = || node.netns.run("nft", &["list", "ruleset"]).unwrap();
    let before = ruleset();
    assert!(before.contains("192.0.2.7") && before.contains("192.0.2.8"), "{before}");

    let dir = tests::sweep::scratch_dir("strace").unwrap();
    let log = dir.join("trace");
    let mut agent = Agent::start_under(node, scenario.manifests.path(), strace(&log)).unwrap();
    let [(target, options), ..] = ways(WEB, PORT);
    assert!(node.host().get(target, options).unwrap().error.is_none());
    scenario.list(&[2]);
    scenario.list(&[]);
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.host().get(target, options).unwrap().error.as_deref() != Some("ECONNREFUSED") {
        assert!(Instant::now() < deadline, "the change did not come through");
    }
    agent.terminate().unwrap();
    while !fs::read_to_string(node.agent().cgroup.path().join("cgroup.procs")).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the tracer does not end");
    }

    let trace = fs::read_to_string(&log).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    // The trace has seen the run: its start, and the sockets of its HTTP server and of its netlink routes.
    assert!(trace.contains("execve(") && trace.contains("AF_INET"), "{trace}");
    assert_eq!(offences(&trace), Vec::<&str>::new());
    assert_eq!(ruleset(), before);
}

/// The control: such a trace of a program that does use netfilter is told from that of one that does not.
#[test]
fn a_trace_of_a_rule_writer_is_noticed() {
    let scratch = tests::netns::Netns::create("trace").unwrap();
    let traced = |program: &[&str]| {
        let mut command: Command = scratch.command("strace");
        command.args(["-f", "-qq", "-e", "trace=execve,execveat,socket", "-o", "/dev/stdout"]).args(program);
        run(&mut command).unwrap()
    };
    let trace = traced(&["sh", "-c", "nft list ruleset"]);
    let found = offences(&trace);
    assert!(found.iter().any(|line| line.contains("NETLINK_NETFILTER")), "{trace}");
    assert!(found.iter().any(|line| line.contains("execve")), "{trace}");
    assert_eq!(offences(&traced(&["ip", "route", "show"])), Vec::<&str>::new());
}
