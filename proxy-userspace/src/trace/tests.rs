use super::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use proxy_common::addr::{Port, Proto};
use proxy_common::affinity::AffinityKey;
use proxy_common::backend::{BackendState, ROW_WORDS, join};
use proxy_common::filter;
use proxy_common::lb::Tuple;
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::owned;
use proxy_common::registry::{Namespace, stand_in};
use proxy_common::service::{Half, OWNER_WORD};
use proxy_common::source::SourceKey;

use crate::maps::memory;
use crate::maps::{Hashes, WordTable};
use crate::plan::ops::{block_word, cell_word, row_word};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;
/// The service port of most tests, with an affinity timeout where a test says so.
const WEB: u32 = 1;
/// A service port without endpoints.
const IDLE: u32 = 2;

/// Tables written by hand.
struct Tables {
    memory: memory::Memory,
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

impl Tables {
    /// `web` at a cluster IP over TCP and UDP, a load balancer's IP bound by source ranges, and a NodePort; `idle` at a
    /// cluster IP. The node is 172.30.0.1 with NodePorts and 172.31.0.1 without.
    fn new() -> Self {
        let mut memory = memory::Memory::new(64);
        memory.ignore_breaches();
        for table in WordTable::CHUNKED {
            memory.grow(table).unwrap();
        }
        let mut tables = Self { memory };
        let lb = FrontendValue::new(WEB, FrontendKind::LoadBalancer, FrontendValue::CHECK_SOURCE);
        let cluster_ip = |service| FrontendValue::new(service, FrontendKind::ClusterIp, 0);
        for (at, proto, value) in [
            ("10.96.0.10:80", Proto::TCP, cluster_ip(WEB)),
            ("10.96.0.10:80", Proto::UDP, cluster_ip(WEB)),
            ("10.96.0.30:80", Proto::TCP, cluster_ip(IDLE)),
            ("10.96.0.30:53", Proto::UDP, cluster_ip(IDLE)),
            ("198.51.100.1:80", Proto::TCP, lb),
            ("0.0.0.0:30080", Proto::TCP, FrontendValue::new(WEB, FrontendKind::NodePort, 0)),
        ] {
            let at: SocketAddr = at.parse().unwrap();
            let key = FrontendKey::new(at.ip().into(), Port::new(at.port()), proto);
            tables.memory.insert_frontends(&[(key, value)]).unwrap();
            tables.set_filter(filter::bits_of_address(key.addr));
        }
        tables.own("10.96.0.10");
        tables.own("10.96.0.30");
        tables.memory.insert_cidr(CidrKey { prefix_len: 96 + 16, addr: addr("10.96.0.0") }).unwrap();
        for (text, flags) in [
            ("172.30.0.1", NodeAddrFlags::LOCAL.union(NodeAddrFlags::NODE_PORT)),
            ("172.31.0.1", NodeAddrFlags::LOCAL),
        ] {
            tables.memory.insert_node_addr(addr(text), flags).unwrap();
            tables.set_filter(filter::bits_of_address(addr(text)));
        }
        tables.write_services();
        tables
    }

    /// The internal view has rows 1 and 2, the cluster view row 3 too, the external view drops.
    fn write_services(&mut self) {
        let (all, internal) = ([View::Internal, View::Cluster], [View::Cluster]);
        for (id, views) in [(1, &all[..]), (2, &all), (3, &internal)] {
            let state = views.iter().fold(BackendState::SERVING, |state, view| state.with_view(*view));
            self.write_row(id, WEB, state);
        }
        self.put(WordTable::Slots, 0, join(1, 2));
        self.put(WordTable::Slots, 1, join(1, 2));
        self.put(WordTable::Slots, 2, join(3, 0));
        self.write_cell(WEB, 0, [ViewWord::random(0, 2), ViewWord::random(2, 3), ViewWord::DROP]);
        self.write_cell(IDLE, 0, [ViewWord::REJECT; 3]);
    }

    fn put(&mut self, table: WordTable, word: u64, value: u64) {
        self.memory.store(table, word, value).unwrap();
    }

    fn write_cell(&mut self, service: u32, affinity: u32, views: [ViewWord; 3]) {
        self.put(WordTable::Services, cell_word(service, 0), Head::new(Half::B, affinity, 7).0);
        for (view, word) in View::ALL.into_iter().zip(views) {
            self.put(WordTable::Services, cell_word(service, Half::B.word(view)), word.0);
        }
        self.put(WordTable::Services, cell_word(service, OWNER_WORD), u64::from(service) * 11);
    }

    fn write_row(&mut self, id: u32, service: u32, state: BackendState) {
        let (addr, port) = (addr(&format!("10.1.0.{id}")), Port::new(8080));
        let row = Backend { addr, state: state.0, generation: 5, service, port, pad: 0 };
        let words: [u64; ROW_WORDS] = row.to_words();
        for (index, word) in words.into_iter().enumerate() {
            self.put(WordTable::Backends, row_word(id, index), word);
        }
    }

    fn own(&mut self, text: &str) {
        const BLOCK: u32 = 4;
        let (word, mask) = owned::position(addr(text));
        let before = self.memory.load(WordTable::Owned, block_word(BLOCK, word)).unwrap();
        self.put(WordTable::Owned, block_word(BLOCK, word), before | mask);
        let value = FrontendValue::new(BLOCK, FrontendKind::OwnedVip, 0);
        self.memory.insert_frontends(&[(FrontendKey::owned_block(addr(text)), value)]).unwrap();
        self.set_filter(filter::bits_of_prefix(addr(text)));
    }

    fn set_filter(&mut self, bits: [u32; 2]) {
        for bit in bits {
            let (word, mask) = filter::position(bit);
            let before = self.memory.load(WordTable::Filter, u64::from(word)).unwrap();
            self.put(WordTable::Filter, u64::from(word), before | mask);
        }
    }

    fn ask(&self, from: &str, to: &str) -> Trace {
        self.ask_as(from, to, &Beside::default())
    }

    /// Traces from SRC to `address:port/protocol`.
    fn ask_as(&self, from: &str, to: &str, beside: &Beside) -> Trace {
        let (to, proto) = to.split_once('/').unwrap_or((to, "tcp"));
        let to: SocketAddr = to.parse().unwrap();
        let proto = match proto {
            "udp" => Proto::UDP,
            "sctp" => Proto::SCTP,
            _ => Proto::TCP,
        };
        let known = Namespace { v4: addr("10.244.1.11"), v6: addr("::"), state: Namespace::KNOWN };
        let node_addrs = self.memory.node_addrs().unwrap();
        let facts = Facts { namespaces: &[(40, known)], node_addrs: &node_addrs, own: 1, inside: &[] };
        let client = Client::judge(from.parse().unwrap(), &facts);
        let tuple = Tuple { addr: to.ip().into(), port: Port::new(to.port()), proto };
        let live = Live::new(&self.memory);
        let memories = |key: AffinityKey| {
            beside.asked.set(beside.asked.get() + 1);
            beside.memories.get(&(key.service, key.client.to_string())).copied()
        };
        let question = Question {
            packet: Packet { tuple, origin: client.origin },
            client: &client,
            memories: &memories,
            label: &|tag| format!("default/s{}", tag.0),
            now: NOW,
            is_guarded: beside.is_guarded,
            is_host_only: beside.is_host_only,
            has_packet_path: beside.has_packet_path,
            masquerades: beside.masquerades,
            hooks: &beside.hooks,
        };
        let trace = trace(&live, &question);
        live.check().unwrap();
        trace
    }
}

/// What is not in the tables.
struct Beside {
    memories: BTreeMap<(u32, String), Memory>,
    asked: Cell<u32>,
    is_guarded: bool,
    is_host_only: Option<bool>,
    has_packet_path: bool,
    masquerades: bool,
    hooks: BTreeSet<&'static str>,
}

impl Default for Beside {
    fn default() -> Self {
        let hooks = ["connect4", "connect6", "sendmsg4", "sendmsg6"].into();
        Self {
            memories: BTreeMap::new(),
            asked: Cell::new(0),
            is_guarded: true,
            is_host_only: Some(false),
            has_packet_path: false,
            masquerades: false,
            hooks,
        }
    }
}

fn remembering(client: &str, memory: Memory) -> Beside {
    Beside { memories: [((WEB, client.to_owned()), memory)].into(), ..Beside::default() }
}

#[test]
fn every_kind_of_verdict_is_told_with_its_reason() {
    let tables = Tables::new();
    for (from, to, action, words) in [
        ("pod", "10.96.0.10:80", "forward", "forwarded to one of 2 candidates at random"),
        ("host", "172.30.0.1:30080", "forward", "forwarded to one of 3 candidates at random"),
        ("host", "127.0.0.1:30080", "forward", "forwarded to one of 3 candidates at random"),
        (
            "pod",
            "10.96.0.10:81",
            "refuse",
            "the address is the cluster IP of a Service that does not serve this port",
        ),
        ("pod", "10.96.0.30:80", "refuse", "no usable endpoint anywhere"),
        ("203.0.113.9", "172.30.0.1:30080", "time-out", "times out: the policy is Local"),
        (
            "pod",
            "10.96.0.99:80",
            "time-out",
            "times out: a ServiceCIDR covers the address, and no Service has it",
        ),
        ("pod", "10.96.0.99:80/udp", "time-out", "dropped, whoever sends sees EPERM: a ServiceCIDR"),
        ("pod", "127.0.0.1:30080", "leave-alone", "the client's own loopback"),
        ("host", "127.0.0.1:30081", "leave-alone", "the host's loopback, and no NodePort"),
        ("pod", "172.30.0.1:22", "leave-alone", "no NodePort has that number"),
        ("pod", "172.31.0.1:30080", "leave-alone", "NodePorts are not served on it"),
        ("pod", "203.0.113.1:80", "leave-alone", "nothing of a Service and nothing of this node"),
    ] {
        let found = tables.ask(from, to).verdict;
        assert!(found.action == action && found.text.contains(words), "{from} to {to}: {found:?}");
    }
}

#[test]
fn the_steps_are_the_looks_of_the_decision() {
    let words = |trace: Trace| -> Vec<String> {
        let steps = trace.steps.iter();
        steps.map(|step| format!("{} {}: {}", step.table, step.key, step.found)).collect()
    };
    let tables = Tables::new();
    assert_eq!(
        words(tables.ask("pod", "10.96.0.10:80")),
        [
            "filter 10.96.0.10: may be owned",
            "frontend 10.96.0.10:80/tcp: cluster-ip of default/s11",
            "head cell 1: half b, sequence 7, no affinity",
            "view internal: pick one of 2",
            "slot any of the view: one of the candidates at random",
        ]
    );
    assert_eq!(
        words(tables.ask("host", "172.30.0.1:30080"))[1..4],
        [
            "frontend 172.30.0.1:30080/tcp: none",
            "node address 172.30.0.1: this node's, and NodePorts are served on it",
            "NodePort 30080/tcp: node-port of default/s11",
        ]
    );
    assert_eq!(
        words(tables.ask("pod", "10.96.0.99:80"))[2..],
        [
            "node address 10.96.0.99: not this node's",
            "owned VIPs block of 10.96.0.0: there is one",
            "owned VIP 10.96.0.99: no Service's cluster IP",
            "ServiceCIDR 10.96.0.99: a range covers it",
        ]
    );
    assert_eq!(words(tables.ask("pod", "203.0.113.1:80")), ["filter 203.0.113.1: certainly nobody's"]);
    assert_eq!(words(tables.ask("pod", "127.0.0.1:80")), [""; 0]);
}

#[test]
fn view_and_candidates_follow_from_where_the_client_is() {
    let tables = Tables::new();
    let seen = |from, to| {
        let trace = tables.ask(from, to);
        let candidates: Vec<u32> =
            trace.backends.iter().filter(|backend| backend.candidate).map(|backend| backend.row).collect();
        (trace.view.unwrap().view, candidates)
    };
    assert_eq!(seen("pod", "10.96.0.10:80"), ("internal", vec![1, 2]));
    assert_eq!(seen("203.0.113.9", "10.96.0.10:80"), ("internal", vec![1, 2]));
    assert_eq!(seen("10.244.1.11", "172.30.0.1:30080"), ("cluster", vec![1, 2, 3]));
    assert_eq!(seen("203.0.113.9", "172.30.0.1:30080"), ("external", vec![]));
    let trace = tables.ask("pod", "10.96.0.10:80");
    let others: Vec<&BackendFound> = trace.backends.iter().filter(|backend| !backend.candidate).collect();
    assert_eq!((others.len(), &*others[0].backend, others[0].serving), (1, "10.1.0.3:8080", true));
    assert_eq!(others[0].views, ["cluster"]);
    let frontend = trace.frontend.unwrap();
    assert_eq!((&*frontend.service, frontend.kind, frontend.cell), ("default/s11", "cluster-ip", WEB));
}

#[test]
fn affinity_tells_what_it_remembers_and_whether_that_decides() {
    let mut tables = Tables::new();
    tables.write_cell(WEB, 60, [ViewWord::random(0, 2), ViewWord::random(2, 3), ViewWord::DROP]);
    let ask = |from, to, row, age| {
        let memory = Memory::new(row, 5, NOW - age * SECOND);
        let trace = tables.ask_as(from, to, &remembering("10.244.1.11", memory));
        let affinity = trace.affinity.unwrap();
        let remembered = affinity.remembered.map(|found| (found.age_seconds, found.standing, found.decides));
        (trace.verdict.backend, remembered)
    };
    let web = "10.96.0.10:80";
    assert_eq!(ask("10.244.1.11", web, 2, 12), (Some("10.1.0.2:8080".to_owned()), Some((12, "fresh", true))));
    assert_eq!(ask("10.244.1.11", web, 2, 61), (None, Some((61, "timed-out", false))));
    assert_eq!(ask("10.244.1.11", web, 3, 12), (None, Some((12, "fresh", false))), "not in the view");
    assert_eq!(ask("10.244.1.11", web, 9, 12), (None, Some((12, "replaced", false))));
    assert_eq!(ask("host", web, 2, 12), (None, None), "another client");
    // Which pod is not said, so nothing is looked up.
    let beside = remembering("10.244.1.11", Memory::new(2, 5, NOW));
    let trace = tables.ask_as("pod", web, &beside);
    assert_eq!(beside.asked.get(), 0);
    assert!(trace.notes.iter().any(|note| note.contains("was not looked up")), "{:?}", trace.notes);
    // A namespace that was not known yet stands for its address.
    let trace =
        tables.ask_as("10.244.1.11", web, &remembering(&stand_in(40).to_string(), Memory::new(1, 5, NOW)));
    assert_eq!(trace.verdict.backend.as_deref(), Some("10.1.0.1:8080"));
    assert_eq!(trace.affinity.unwrap().remembered.unwrap().client, "namespace 40");
}

#[test]
fn source_ranges_allow_block_or_depend_on_what_was_not_said() {
    let mut tables = Tables::new();
    let lb = "198.51.100.1:80";
    let ask = |tables: &Tables, from| {
        let trace = tables.ask(from, lb);
        let named = trace.source_ranges.map(|found| found.admission);
        (named, trace.verdict.action, trace.verdict.reason)
    };
    assert_eq!(ask(&tables, "10.244.1.11"), (Some("blocked"), "time-out", Some("source-not-allowed")));
    assert_eq!(ask(&tables, "host"), (Some("blocked"), "time-out", Some("source-not-allowed")));
    assert_eq!(ask(&tables, "pod"), (Some("unknown"), "forward", None));
    for client in ["10.244.1.11", "172.30.0.1"] {
        tables.memory.insert_source(SourceKey::client(WEB, addr(client))).unwrap();
    }
    assert_eq!(ask(&tables, "10.244.1.11"), (Some("allowed"), "forward", None));
    assert_eq!(ask(&tables, "host"), (Some("depends"), "forward", None));
    assert_eq!(ask(&tables, "172.30.0.1"), (Some("allowed"), "forward", None));
    assert_eq!(ask(&tables, "172.31.0.1"), (Some("blocked"), "time-out", Some("source-not-allowed")));
    // Nothing else is bound.
    assert_eq!(tables.ask("172.31.0.1", "10.96.0.10:80").source_ranges, None);
    // The ranges are told where they do not come into play either.
    let trace = tables.ask("203.0.113.9", lb);
    assert_eq!(trace.verdict.reason, Some("no-local-endpoints"));
    assert_eq!(trace.source_ranges.unwrap().admission, "blocked");
    let guardless = tables.ask_as("172.30.0.1", lb, &Beside { is_guarded: false, ..Beside::default() });
    assert!(guardless.notes.iter().any(|note| note.contains("egress guard")), "{:?}", guardless.notes);
}

#[test]
fn sockets_of_udp_that_are_open_keep_move_or_wait() {
    let tables = Tables::new();
    let open = |to| tables.ask("pod", to).open_sockets;
    let web = open("10.96.0.10:80/udp").unwrap();
    assert!(
        web.contains("(3 do) keeps it") && web.contains("gets a candidate: at once if connected"),
        "{web}"
    );
    let idle = open("10.96.0.30:53/udp").unwrap();
    assert!(idle.contains("(0 do)") && idle.contains("gets none: if connected, it waits"), "{idle}");
    assert_eq!(open("10.96.0.10:80"), None, "TCP connections are never moved");
    assert_eq!(open("10.96.0.99:80/udp"), None);
}

#[test]
fn what_no_hook_carries_out_is_said() {
    let tables = Tables::new();
    let carried = |from, to, beside: &Beside| {
        let trace = tables.ask_as(from, to, beside);
        (trace.verdict.carried_out, trace.notes.into_iter().next().unwrap_or_default())
    };
    let all = Beside::default();
    assert_eq!(carried("pod", "10.96.0.10:80", &all), (true, String::new()));
    let (carried_out, note) = carried("203.0.113.9", "10.96.0.10:80", &all);
    assert!(!carried_out && note.contains("packets from outside (--devices)"), "{note}");
    let devices = Beside { has_packet_path: true, ..Beside::default() };
    assert_eq!(carried("203.0.113.9", "10.96.0.10:80", &devices), (true, String::new()));
    let (carried_out, note) = carried("pod", "10.96.0.10:80/sctp", &all);
    assert!(!carried_out && note.contains("serves sctp"), "{note}");
    assert!(carried("pod", "10.96.0.10:80/sctp", &devices).0);
    let some = Beside { hooks: ["connect4"].into(), ..Beside::default() };
    assert_eq!(carried("pod", "10.96.0.10:80", &some), (true, String::new()));
    let (carried_out, note) = carried("pod", "10.96.0.10:80/udp", &some);
    assert!(!carried_out && note.ends_with("not attached: sendmsg4"), "{note}");
    let (_, note) = carried("pod", "[fd00::1]:80", &some);
    assert!(note.ends_with("not attached: connect6"), "{note}");
    let host_only = |is_host_only| Beside { is_host_only, ..Beside::default() };
    let (carried_out, note) = carried("pod", "10.96.0.10:80", &host_only(Some(true)));
    assert!(!carried_out && note.contains("--socket-lb host"), "{note}");
    assert_eq!(carried("host", "10.96.0.10:80", &host_only(Some(true))), (true, String::new()));
    let (carried_out, note) = carried("pod", "10.96.0.10:80", &host_only(None));
    assert!(carried_out && note.contains("no agent said"), "{note}");
    let hint = tables.ask("pod", "10.96.0.30:53").notes;
    assert_eq!(hint, ["port 53 is served over udp"]);
    let guardless = Beside { is_guarded: false, ..Beside::default() };
    let text = tables.ask_as("pod", "10.96.0.99:80", &guardless).verdict.text;
    assert!(text.contains("at once by ETIMEDOUT"), "{text}");
}

#[test]
fn whom_a_backend_sees_is_said_where_it_may_be_the_node() {
    let mut tables = Tables::new();
    let plain = Beside { has_packet_path: true, ..Beside::default() };
    let masquerading = Beside { masquerades: true, has_packet_path: true, ..Beside::default() };
    let (outside, pod, node_port) = ("203.0.113.9", "10.244.1.11", "172.30.0.1:30080");
    let seen = |tables: &Tables, from, to, beside: &Beside| {
        tables.ask_as(from, to, beside).seen_as.unwrap_or_default()
    };
    let words =
        |tables: &Tables, from, to| [&plain, &masquerading].map(|beside| seen(tables, from, to, beside));
    let [one, other] = words(&tables, outside, "10.96.0.10:80");
    assert!(one.starts_with("the client by a backend of this node, and this node"), "{one}");
    assert!(other.starts_with("this node: "), "{other}");
    let [one, other] = words(&tables, pod, "10.96.0.10:80");
    assert!(one.is_empty() && other.starts_with("the client where a hook"), "{one} {other}");
    // Nobody is sent anywhere, or sockets alone are served.
    assert_eq!(words(&tables, outside, "10.96.0.30:80"), ["", ""]);
    assert_eq!(seen(&tables, outside, "10.96.0.10:80", &Beside::default()), "");
    assert_eq!(words(&tables, outside, node_port), ["", ""], "the external view drops");
    let local = ViewWord(ViewWord::random(0, 2).0 | ViewWord::KEEPS_SOURCE);
    tables.write_cell(WEB, 0, [ViewWord::random(0, 2), ViewWord::random(2, 3), local]);
    for seen in words(&tables, outside, node_port) {
        assert!(seen.starts_with("the client: externalTrafficPolicy Local"), "{seen}");
    }
    let [_, inside] = words(&tables, pod, node_port);
    assert!(inside.starts_with("the client where a hook"), "{inside}");
}

#[test]
fn slots_that_lead_nowhere_are_a_defect() {
    let mut tables = Tables::new();
    tables.write_row(2, IDLE, BackendState::SERVING);
    let trace = tables.ask("pod", "10.96.0.10:80");
    assert_eq!(trace.notes, ["1 slots of the view lead nowhere, which is a defect"]);
    tables.write_row(1, IDLE, BackendState::SERVING);
    let verdict = tables.ask("pod", "10.96.0.10:80").verdict;
    assert_eq!((verdict.action, verdict.reason), ("refuse", Some("inconsistent")));
}
