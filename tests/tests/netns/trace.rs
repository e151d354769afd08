//! `shunt trace` and `shunt dump affinity` beside what connections really meet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use proxy_common::names::SCHEMA;
use serde_json::{Value, json};
use tests::agent::{Agent, pin_dir};
use tests::contents::Contents;
use tests::load::{Place, Servers};
use tests::netns::Netns;
use tests::rights;
use tests::topology::{Node, Pod};
use tests::wait;

use crate::scenario::{BACKEND_PORT, DNS, IDLE, PORT, Scenario, WEB};
use crate::shop::{
    CLUSTER_IPS, EXTERNAL_IPS, KINDS, LB_IPS, NODE_PORT, ask, at, frontends, ingress, list, loopback,
    on_node, settles, write,
};

/// Limit of what takes a moment.
const SOON: Duration = Duration::from_secs(5);
/// Often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;

fn shop(spec: Value, nodes: &[usize]) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, spec, &ingress());
    list(&scenario, nodes);
    scenario
}

fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

/// A process that lives in a pod, so that the pod is one to the registry, and a wait until it is known.
pub(crate) fn inhabit(agent: &Agent<'_>, pod: &Pod) -> Servers {
    let servers = pod.place().serve([(SocketAddr::new(pod.v4, 9), "resident")]).unwrap();
    // Its first datagram to a service is what makes it known.
    let known = || {
        ask(pod.place(), at(DNS, PORT)[0], &["--udp"]);
        let origin = &trace(agent, &[&pod.v4.to_string(), WEB[0]])[0]["origin"];
        Ok((origin == "pod").then_some(()))
    };
    wait::until(SOON, "the registry to know a pod", known).unwrap();
    servers
}

/// What `shunt trace` says for programs: one answer for each port.
fn trace(agent: &Agent<'_>, words: &[&str]) -> Vec<Value> {
    let said = agent.shunt(&[&["trace"], words, &["-o", "json"]].concat()).unwrap();
    let traces: Value = serde_json::from_str(&said).unwrap();
    traces.as_array().unwrap().clone()
}

/// The answer for one port.
fn trace_one(agent: &Agent<'_>, from: &str, (to, kind): (SocketAddr, &[&str])) -> Value {
    let proto = if kind.is_empty() { "tcp" } else { "udp" };
    let mut traces = trace(agent, &[from, &to.to_string(), "--proto", proto]);
    assert_eq!(traces.len(), 1);
    traces.remove(0)
}

/// The names that connections may meet by the word of a trace: of backends or of an error.
fn foretold(scenario: &Scenario, trace: &Value, kind: &[&str]) -> BTreeSet<String> {
    assert_eq!(trace["verdict"]["carried_out"], true, "{trace}");
    let name_of = |backend: &Value| {
        let at: SocketAddr = backend.as_str().unwrap().parse().unwrap();
        let pods = scenario.cluster.nodes.iter().flat_map(|node| &node.pods);
        let mut pods = pods.filter(|pod| [pod.v4, pod.v6].contains(&at.ip()));
        pods.next().unwrap().name.clone()
    };
    match trace["verdict"]["action"].as_str().unwrap() {
        "forward" if !trace["verdict"]["backend"].is_null() => [name_of(&trace["verdict"]["backend"])].into(),
        "forward" => {
            let backends = trace["backends"].as_array().unwrap().iter();
            let candidates = backends.filter(|backend| backend["candidate"] == true);
            candidates.map(|backend| name_of(&backend["backend"])).collect()
        }
        "refuse" => ["ECONNREFUSED".to_owned()].into(),
        "time-out" => [if kind.is_empty() { "timeout" } else { "EPERM" }.to_owned()].into(),
        other => panic!("{other}: {trace}"),
    }
}

/// What connections really meet.
fn met(client: Place<'_>, (target, kind): (SocketAddr, &[&str]), wanted: usize) -> BTreeSet<String> {
    let mut met = BTreeSet::new();
    for _ in 0..TRIES {
        let report = ask(client, target, kind);
        met.insert(report.name.or(report.error).unwrap());
        if met.len() == wanted {
            break;
        }
    }
    // One more, which shows what is met beside what was foretold.
    let report = ask(client, target, kind);
    met.insert(report.name.or(report.error).unwrap());
    met
}

/// A client, and the words that name it.
type Asker<'a> = (Place<'a>, Vec<String>);

fn askers(scenario: &Scenario) -> [Asker<'_>; 2] {
    let (pod, node) = (scenario.cluster.pod(1, 1), scenario.cluster.node(1));
    [
        (pod.place(), vec!["pod".to_owned(), pod.v4.to_string(), pod.v6.to_string()]),
        (node.host(), vec!["host".to_owned(), node.addresses()[0].to_string()]),
    ]
}

/// Compares what is foretold with what is met, for each client and every way to ask; returns the verdicts.
#[track_caller]
fn agrees(scenario: &Scenario, agent: &Agent<'_>, targets: &[SocketAddr]) -> BTreeSet<String> {
    let mut verdicts = BTreeSet::new();
    for (client, words) in askers(scenario) {
        for target in targets {
            for kind in KINDS {
                let mut all = BTreeSet::new();
                for from in &words {
                    let trace = trace_one(agent, from, (*target, kind));
                    all.insert(foretold(scenario, &trace, kind));
                    verdicts.insert(trace["verdict"]["reason"].as_str().unwrap_or("forward").to_owned());
                }
                assert_eq!(all.len(), 1, "{target} {kind:?}: one client by several names");
                let foretold = all.first().unwrap();
                assert_eq!(met(client, (*target, kind), foretold.len()), *foretold, "{target} {kind:?}");
            }
        }
    }
    verdicts
}

#[test]
fn every_frontend_is_foretold_as_it_is_served() {
    let scenario = shop(json!({}), &[1, 2]);
    let agent = agent(&scenario);
    let _resident = inhabit(&agent, scenario.cluster.pod(1, 1));
    let all: Vec<SocketAddr> = frontends(&scenario).into_iter().map(|(target, _)| target).collect();
    assert_eq!(agrees(&scenario, &agent, &all), ["forward".to_owned()].into());
    for (target, view, kind) in [
        (at(CLUSTER_IPS, PORT)[0], "internal", "cluster-ip"),
        (at(LB_IPS, PORT)[1], "cluster", "load-balancer"),
        (at(EXTERNAL_IPS, PORT)[0], "cluster", "external-ip"),
        (on_node(&scenario, 1)[1], "cluster", "node-port"),
    ] {
        let trace = trace_one(&agent, "pod", (target, &[]));
        assert_eq!((&trace["view"]["view"], &trace["frontend"]["kind"]), (&json!(view), &json!(kind)));
        let family = if target.is_ipv4() { "" } else { "6" };
        assert_eq!(trace["frontend"]["service"], format!("default/shop:tcp/tcp{family}"));
    }
}

#[test]
fn refusals_and_time_outs_are_foretold_with_their_reasons() {
    let scenario = shop(json!({ "internalTrafficPolicy": "Local" }), &[2]);
    let agent = agent(&scenario);
    let node = scenario.cluster.node(1);
    for line in ["route add 10.96.0.0/16 dev eth0", "route add fd00:10:96::/112 dev eth0"] {
        node.netns.ip(line).unwrap();
    }
    let _resident = inhabit(&agent, scenario.cluster.pod(1, 1));
    // The guard is in force once something times out.
    for target in at(CLUSTER_IPS, PORT) {
        settles(node.host(), (target, &[]), "timeout");
    }
    let groups = [
        at(CLUSTER_IPS, PORT),
        at(CLUSTER_IPS, PORT + 1),
        at(IDLE, PORT),
        at(["10.96.0.250", "fd00:10:96::250"], PORT),
        at(LB_IPS, PORT),
    ];
    let verdicts = agrees(&scenario, &agent, &groups.concat());
    let reasons = ["forward", "no-endpoints", "no-local-endpoints", "unassigned-address", "unknown-port"];
    assert_eq!(verdicts, reasons.map(str::to_owned).into());
}

#[test]
fn what_is_left_alone_is_foretold_as_well() {
    let scenario = shop(json!({}), &[1, 2]);
    let pod = scenario.cluster.pod(2, 2);
    let targets = [
        SocketAddr::new(pod.v4, BACKEND_PORT),
        SocketAddr::new(pod.v6, BACKEND_PORT),
        SocketAddr::new(scenario.cluster.node(1).addresses()[0], 22),
        SocketAddr::new(scenario.cluster.node(2).addresses()[1], NODE_PORT),
        SocketAddr::new("192.0.2.99".parse().unwrap(), PORT),
        loopback(PORT)[0],
    ];
    let look = || -> Vec<_> {
        let [pod, host] = askers(&scenario).map(|(place, _)| place);
        let all = [pod, host].into_iter().flat_map(|client| targets.map(|target| ask(client, target, &[])));
        all.map(|report| (report.name, report.error)).collect()
    };
    let before = look();
    let agent = agent(&scenario);
    assert_eq!(look(), before);
    for from in ["pod", "host"] {
        for target in targets {
            let trace = trace_one(&agent, from, (target, &[]));
            assert_eq!(trace["verdict"]["action"], "leave-alone", "{trace}");
        }
    }
    // A pod's own loopback is nobody else's, and the host's serves NodePorts.
    let node_port = loopback(NODE_PORT)[0];
    assert_eq!(trace_one(&agent, "pod", (node_port, &[]))["verdict"]["action"], "leave-alone");
    let host = trace_one(&agent, "host", (node_port, &[]));
    assert_eq!(foretold(&scenario, &host, &[]), met(scenario.cluster.node(1).host(), (node_port, &[]), 2));
}

#[test]
fn source_ranges_are_judged_by_the_client_that_is_named() {
    let scenario = Scenario::new();
    let (listed, other) = (scenario.cluster.pod(1, 1), scenario.cluster.pod(1, 2));
    let only = |ip: IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let ranges = [listed.v4, listed.v6].map(only);
    write(&scenario, json!({ "loadBalancerSourceRanges": ranges }), &ingress());
    list(&scenario, &[1, 2]);
    let agent = agent(&scenario);
    let _resident = inhabit(&agent, listed);
    let host = scenario.cluster.node(1).host();
    for (target, is_v4) in at(LB_IPS, PORT).into_iter().zip([true, false]) {
        for kind in KINDS {
            for (client, pod) in [(listed.place(), Some(listed)), (other.place(), Some(other)), (host, None)]
            {
                let from =
                    pod.map_or("host".to_owned(), |pod| if is_v4 { pod.v4 } else { pod.v6 }.to_string());
                let trace = trace_one(&agent, &from, (target, kind));
                let foretold = foretold(&scenario, &trace, kind);
                assert_eq!(met(client, (target, kind), foretold.len()), foretold, "{from} {target} {kind:?}");
                let is_listed = pod.is_some_and(|pod| pod.name == listed.name);
                let admission = if is_listed { "allowed" } else { "blocked" };
                assert_eq!(trace["source_ranges"]["admission"], admission, "{trace}");
            }
        }
    }
    // Which pod was not said.
    let trace = trace_one(&agent, "pod", (at(LB_IPS, PORT)[0], &[]));
    assert_eq!(trace["source_ranges"]["admission"], "unknown");
}

#[test]
fn a_client_from_outside_is_told_that_no_hook_sees_it() {
    let scenario = shop(json!({ "externalTrafficPolicy": "Local" }), &[2]);
    let agent = agent(&scenario);
    let outside = Netns::create("outside").unwrap();
    let [v4, v6] = scenario.cluster.plug(&outside, 9).unwrap();
    for (target, from) in on_node(&scenario, 1).into_iter().zip([v4, v6]) {
        let trace = trace_one(&agent, &from.to_string(), (target, &[]));
        assert_eq!(trace["origin"], "outside", "{trace}");
        let verdict = &trace["verdict"];
        assert_eq!(
            (&verdict["carried_out"], &verdict["reason"]),
            (&json!(false), &json!("no-local-endpoints"))
        );
        assert!(trace["notes"][0].as_str().unwrap().contains("packets from outside (--devices)"), "{trace}");
        let real =
            outside.inside(|| TcpStream::connect_timeout(&target, Duration::from_millis(500))).unwrap();
        assert!(real.is_err(), "nobody serves it, and nobody drops it either");
    }
}

fn sticky(seconds: u32) -> Value {
    json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } } })
}

/// Rows of `shunt dump affinity` about the port of TCP.
fn memories(agent: &Agent<'_>) -> Vec<Value> {
    let words = ["dump", "affinity", "--service", "default/shop:tcp", "-o", "json"];
    let rows: Value = serde_json::from_str(&agent.shunt(&words).unwrap()).unwrap();
    let is_v4 = |row: &&Value| row["service"] == "default/shop:tcp/tcp";
    rows.as_array().unwrap().iter().filter(is_v4).cloned().collect()
}

/// Waits until what the pod is remembered by stands like this.
#[track_caller]
fn wait_standing(agent: &Agent<'_>, pod: &Pod, wanted: &str) -> Value {
    let mut last = Vec::new();
    let found = wait::until(SOON, "a standing", || {
        last = memories(agent);
        let row = last.iter().find(|row| row["client"] == pod.v4.to_string());
        Ok(row.filter(|row| row["standing"] == wanted).cloned())
    });
    found.unwrap_or_else(|error| panic!("{wanted}: {error}: {last:?}"))
}

#[test]
fn what_is_remembered_is_listed_and_decides() {
    let scenario = shop(sticky(600), &[1, 2]);
    let agent = agent(&scenario);
    let pod = scenario.cluster.pod(1, 1);
    let target = at(CLUSTER_IPS, PORT)[0];
    assert_eq!(memories(&agent), [Value::Null; 0]);
    let _resident = inhabit(&agent, pod);
    let from = pod.v4.to_string();
    assert!(trace_one(&agent, &from, (target, &[]))["affinity"]["remembered"].is_null());

    let first = ask(pod.place(), target, &[]).name.unwrap();
    let row = wait_standing(&agent, pod, "fresh");
    let is_first = |backend: &Value| {
        let at: SocketAddr = backend.as_str().unwrap().parse().unwrap();
        let pods = [1, 2].map(|node| scenario.cluster.pod(node, 2));
        pods.iter().any(|pod| pod.name == first && pod.v4 == at.ip())
    };
    assert!(is_first(&row["backend"]), "{row}");
    let (age, left) = (row["age_seconds"].as_u64().unwrap(), row["left_seconds"].as_u64().unwrap());
    assert!(age < 60 && left + age == 600, "{row}");
    let trace = trace_one(&agent, &from, (at(LB_IPS, PORT)[0], &[]));
    assert_eq!(trace["affinity"]["remembered"]["decides"], true, "{trace}");
    assert!(is_first(&trace["verdict"]["backend"]), "{trace}");
    // Another client is not bound by it.
    assert!(trace_one(&agent, "host", (target, &[]))["verdict"]["backend"].is_null());

    let (gone, stays) = if first == "pod-1-2" { (1, 2) } else { (2, 1) };
    list(&scenario, &[stays]);
    let row = wait_standing(&agent, pod, "gone");
    assert_eq!(row["left_seconds"], 0, "{row}");
    list(&scenario, &[stays, gone]);
    ask(pod.place(), target, &[]);
    wait_standing(&agent, pod, "fresh");
    write(&scenario, sticky(1), &ingress());
    wait_standing(&agent, pod, "timed-out");
    write(&scenario, json!({}), &ingress());
    wait_standing(&agent, pod, "off");
    assert!(trace_one(&agent, &from, (target, &[]))["affinity"].is_null());
}

#[test]
fn without_an_agent_all_is_told_but_the_names_and_nothing_is_written() {
    let scenario = shop(sticky(600), &[1, 2]);
    let mut agent = agent(&scenario);
    let pod = scenario.cluster.pod(1, 1);
    let _resident = inhabit(&agent, pod);
    for target in [at(CLUSTER_IPS, PORT), at(LB_IPS, PORT)].concat() {
        assert!(ask(pod.place(), target, &[]).name.is_some());
    }
    agent.kill().unwrap();
    let root = pin_dir(agent.node());
    let before = Contents::read_all(&root, SCHEMA).unwrap();
    for from in ["host", "pod", &pod.v4.to_string(), "192.0.2.77"] {
        for to in [CLUSTER_IPS[0], LB_IPS[1], DNS[0], IDLE[1], "10.96.0.250", "127.0.0.1", "192.0.2.1"] {
            trace(&agent, &[from, to]);
            let to = SocketAddr::new(to.parse().unwrap(), PORT);
            for kind in KINDS {
                trace_one(&agent, from, (to, kind));
            }
        }
    }
    let rows = agent.shunt(&["dump", "affinity"]).unwrap();
    assert!(rows.contains(&pod.v4.to_string()) && rows.contains("fresh"), "{rows}");
    let after = Contents::read_all(&root, SCHEMA).unwrap();
    assert_eq!(after.differences(&before), [""; 0]);
    assert_eq!(after.fingerprint(), before.fingerprint());

    let trace = trace_one(&agent, &pod.v4.to_string(), (at(CLUSTER_IPS, PORT)[0], &[]));
    assert_eq!(trace["verdict"]["action"], "forward", "{trace}");
    let service = trace["frontend"]["service"].as_str().unwrap();
    assert!(service.len() == 16 && service.bytes().all(|byte| byte.is_ascii_hexdigit()), "{service}");
    // The control: a connection does change something.
    assert!(ask(pod.place(), at(CLUSTER_IPS, PORT)[0], &[]).name.is_some());
    let differences = Contents::read_all(&root, SCHEMA).unwrap();
    assert!(!differences.differences(&before).is_empty());
}

/// Exit code and output of a command that is run by `wrapper` on the node.
fn code(node: &Node, wrapper: &[String], words: &[&str]) -> (Option<i32>, String) {
    let binary = tests::process::binary("shunt").unwrap();
    let mut all: Vec<String> = wrapper.to_vec();
    all.push(binary.display().to_string());
    let mut command = node.netns.command(&all[0]);
    command.args(&all[1..]).args(words).env("SHUNT_METRICS_ADDRESS", "127.0.0.1:10249");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn ports_are_listed_and_exit_codes_tell_how_it_went() {
    let scenario = shop(json!({}), &[1, 2]);
    let agent = agent(&scenario);
    let listed = agent.shunt(&["trace", "pod", CLUSTER_IPS[0]]).unwrap();
    let ports: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.contains('/'))
        .collect();
    assert_eq!(ports, ["10.96.0.70:80/tcp", "10.96.0.70:80/udp"], "{listed}");
    let node_ports = agent.shunt(&["trace", "host", "127.0.0.1", "--proto", "udp"]).unwrap();
    assert!(node_ports.contains("127.0.0.1:30080/udp") && !node_ports.contains("/tcp"), "{node_ports}");
    let at_length = agent.shunt(&["trace", "pod", &format!("{}:{PORT}", DNS[0]), "--proto", "udp"]).unwrap();
    for words in
        ["verdict       forwarded to one of 2 candidates", "default/dns:80/udp", "open sockets", "BACKEND"]
    {
        assert!(at_length.contains(words), "{words}: {at_length}");
    }

    let node = scenario.cluster.node(1);
    let pins = pin_dir(node).display().to_string();
    let of = |wrapper: &[String], words: &[&str]| code(node, wrapper, words);
    let asked = ["trace", "pod", CLUSTER_IPS[0], "--pin-dir"];
    assert_eq!(of(&[], &[&asked[..], &[&pins]].concat()).0, Some(0));
    assert_eq!(of(&[], &["trace", "nobody", CLUSTER_IPS[0]]).0, Some(2));
    let (found, said) = of(&[], &[&asked[..], &["/nowhere"]].concat());
    assert!(found == Some(1) && said.contains("no maps of this version in /nowhere"), "{said}");
    let (unfit, said) = of(&rights::only(&["DAC_OVERRIDE"]), &[&asked[..], &[&pins]].concat());
    assert!(unfit == Some(3) && said.contains("CAP_SYS_ADMIN"), "{said}");
}
