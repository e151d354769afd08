//! Connects while endpoints are replaced two hundred times a second: none may fail.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_common::names::SCHEMA;
use tests::agent::{Agent, pin_dir};
use tests::churn::{Candidate, Churn, Pace};
use tests::contents::head_sequence;
use tests::load::Servers;
use tests::manifests::{ManifestDir, Service};
use tests::report::ConnectsReport;
use tests::topology::Cluster;

/// The Service under churn.
pub(crate) const SERVICE: &str = "busy";
/// Its VIP.
pub(crate) const VIP: &str = "10.96.0.40:80";

/// Two of eight backends are replaced every 5 ms, and each stays away for 120 ms.
const FAST: Pace = Pace {
    listed: 8,
    replaced: 2,
    step: Duration::from_millis(5),
    ahead: 4,
    grace: Duration::from_millis(50),
};

/// One node, a pod of many backends, and the Service.
pub(crate) struct Busy {
    pub(crate) servers: [Servers; 1],
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) cluster: Cluster,
    pub(crate) manifests: ManifestDir,
}

impl Busy {
    pub(crate) fn new(backends: u8) -> Self {
        let cluster = Cluster::new(1, 2).unwrap();
        let manifests = ManifestDir::create().unwrap();
        manifests.write_cluster(&cluster).unwrap();
        let vip: SocketAddr = VIP.parse().unwrap();
        let service = Service { name: SERVICE, cluster_ips: &[vip.ip()], port: vip.port(), protocol: "TCP" };
        manifests.write_service(&service).unwrap();
        let node = cluster.node(1);
        let candidates = node
            .add_addresses(2, backends)
            .unwrap()
            .into_iter()
            .map(|[v4, _]| Candidate {
                address: SocketAddr::new(v4, 8080),
                name: v4.to_string(),
                node: node.name.clone(),
                process: 0,
            })
            .collect();
        let servers = [cluster.pod(1, 2).place().serve([]).unwrap()];
        Self { servers, candidates, cluster, manifests }
    }
}

/// Runs of the control at most.
const CONTROL_RUNS: u32 = 12;

/// How many connects a run makes; Show 3 asks for a million.
fn connects() -> String {
    std::env::var("SHUNT_CHURN_CONNECTS").unwrap_or_else(|_| "200000".to_owned())
}

/// What a run under churn saw.
struct Outcome {
    report: ConnectsReport,
    steps: usize,
    /// By how much the head of the Service's cell moved on.
    sequence: u32,
    /// Candidates that accepted no connection.
    idle: usize,
}

fn run(variant: &[&str], count: &str) -> Outcome {
    let mut busy = Busy::new(56);
    let (manifests, candidates) = (&busy.manifests, &busy.candidates);
    let mut churn =
        Churn { manifests, service: SERVICE, servers: &mut busy.servers, candidates, pace: FAST, first: 0 };
    churn.start().unwrap();
    let mut agent = Agent::start(busy.cluster.node(1), manifests.path()).unwrap();
    if !variant.is_empty() {
        // The first fill makes the maps grow, which no order but the right one survives.
        agent.terminate().unwrap();
        agent.start_again_as(variant).unwrap();
    }
    let vip: SocketAddr = VIP.parse().unwrap();
    let root = pin_dir(busy.cluster.node(1));
    let sequence = || head_sequence(&root, SCHEMA, vip).unwrap();
    let before = sequence();
    let client = busy.cluster.pod(1, 1).place();
    let options = ["--count", count, "--threads", "2", "--read-every", "64"];
    let mut load = client.connects(vip, &options).unwrap();
    let mut steps = 0;
    while load.is_running() {
        steps += churn.run(Duration::from_millis(500)).unwrap();
    }
    let report = load.wait(Duration::from_secs(5)).unwrap();
    let sequence = sequence().wrapping_sub(before);
    let accepted = busy.servers[0].accepted().unwrap();
    let idle = candidates.iter().filter(|candidate| accepted[&candidate.name] == 0).count();
    println!("{steps} steps, head moved by {sequence}, {:.0} connects/s, {report:?}", report.rate());
    Outcome { report, steps, sequence, idle }
}

#[test]
fn no_connect_fails_while_endpoints_are_replaced() {
    let count = connects();
    let Outcome { report, steps, sequence, idle } = run(&[], &count);
    assert_eq!(report.attempts.to_string(), count);
    assert_eq!((report.failures(), report.wrong_peer, idle), (0, 0, 0), "{report:?}");
    assert!(report.unanswered.is_empty(), "{report:?}");
    #[expect(clippy::cast_precision_loss, reason = "rates to look at")]
    let (changes, moves) = (steps as f64 / report.seconds, f64::from(sequence) / report.seconds);
    assert!(changes > 150.0, "{changes:.0} changes a second");
    assert!(moves >= 100.0, "the head moved {moves:.0} times a second");
}

/// The control: with the head switched before what it points at is written, some connects meet a backend that
/// has gone. If this passes without a failure, the test above proves nothing.
///
/// The window is a few microseconds wide: on a machine with nothing else to do about two connects in a hundred thousand
/// meet it, so the control goes on until one has.
#[test]
fn connects_fail_if_stores_are_made_in_reverse_order() {
    let mut failures = 0_u64;
    for _ in 0..CONTROL_RUNS {
        failures += run(&["--reversed"], "100000").report.failures();
        if failures > 0 {
            return;
        }
    }
    panic!("no connect failed in {CONTROL_RUNS} runs");
}
