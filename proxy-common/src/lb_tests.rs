use super::*;
use crate::backend::BackendState;
use crate::filter;
use core::net::IpAddr;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

/// Tables written by hand, one service per test line.
#[derive(Default)]
struct Tables {
    frontends: HashMap<FrontendKey, FrontendValue>,
    nodes: HashMap<Addr, NodeAddrFlags>,
    cidr: Option<Addr>,
    heads: HashMap<u32, Head>,
    views: HashMap<(u32, Half, View), ViewWord>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend>,
    filter: HashSet<u32>,
    owned: HashMap<(u32, usize), u64>,
    sources: HashSet<(u32, Addr)>,
}

impl filter::Bits for Tables {
    fn is_set(&self, bit: u32) -> bool {
        self.filter.contains(&bit)
    }
}

impl Lookup for Tables {
    fn may_own(&self, addr: Addr) -> bool {
        filter::may_own(self, addr)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontends.get(key).copied()
    }
    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        self.nodes.get(&addr).copied()
    }
    fn in_service_cidr(&self, addr: Addr) -> bool {
        self.cidr == Some(addr)
    }
    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        self.sources.contains(&(service, addr))
    }
    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        self.owned.get(&(block, word)).copied()
    }
    fn head(&self, service: u32) -> Option<Head> {
        self.heads.get(&service).copied()
    }
    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        self.views.get(&(service, half, view)).copied()
    }
    fn slot(&self, slot: u32) -> Option<u32> {
        self.slots.get(&slot).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(&id).copied()
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

const SERVICE: u32 = 7;

impl Tables {
    fn frontend_at(mut self, key: FrontendKey, kind: FrontendKind) -> Self {
        self.filter.extend(filter::bits_of_address(key.addr));
        self.frontends.insert(key, FrontendValue::new(SERVICE, kind, 0));
        self
    }

    fn owning(mut self, text: &str) -> Self {
        const BLOCK: u32 = 3;
        let (word, mask) = owned::position(addr(text));
        self.filter.extend(filter::bits_of_prefix(addr(text)));
        let value = FrontendValue::new(BLOCK, FrontendKind::OwnedVip, 0);
        self.frontends.insert(FrontendKey::owned_block(addr(text)), value);
        for index in 0..owned::BLOCK_WORDS {
            let bits = self.owned.entry((BLOCK, index)).or_insert(0);
            *bits |= if index == word { mask } else { 0 };
        }
        self
    }

    fn node_at(mut self, text: &str, flags: NodeAddrFlags) -> Self {
        self.filter.extend(filter::bits_of_address(addr(text)));
        self.nodes.insert(addr(text), flags);
        self
    }

    /// One backend each in the internal and external views; the cluster view has both.
    fn with_service(mut self) -> Self {
        self.heads.insert(SERVICE, Head::new(Half::B, 0, 3));
        let views = [
            (View::Internal, ViewWord::random(10, 1)),
            (View::Cluster, ViewWord::random(10, 2)),
            (View::External, ViewWord::random(11, 1)),
        ];
        for (view, word) in views {
            self.views.insert((SERVICE, Half::B, view), word);
            self.views.insert((SERVICE, Half::A, view), ViewWord::DROP);
        }
        for (slot, id, ip) in [(10, 100, "10.1.0.1"), (11, 101, "10.1.0.2")] {
            self.slots.insert(slot, id);
            let (state, port) = (BackendState::SERVING.0, Port::new(8080));
            let row = Backend { addr: addr(ip), state, generation: 5, service: SERVICE, port, pad: 0 };
            self.backends.insert(id, row);
        }
        self
    }

    fn set_all_views(mut self, word: ViewWord) -> Self {
        for view in View::ALL {
            self.views.insert((SERVICE, Half::B, view), word);
        }
        self
    }

    fn ask(&self, dst: &str, port: u16, origin: Origin, entropy: u32) -> Verdict {
        let tuple = Tuple { addr: addr(dst), port: Port::new(port), proto: Proto::TCP };
        translate(self, &Packet { tuple, origin }, &Stranger(entropy))
    }
}

fn vip(text: &str, port: u16) -> FrontendKey {
    FrontendKey::new(addr(text), Port::new(port), Proto::TCP)
}

fn cluster_ip() -> Tables {
    Tables::default().with_service().frontend_at(vip("10.96.0.1", 80), FrontendKind::ClusterIp)
}

fn target(verdict: Verdict) -> Option<Addr> {
    match verdict {
        Verdict::Forward(pick) => Some(pick.addr),
        _ => None,
    }
}

#[test]
fn a_cluster_ip_forwards_through_the_internal_view() {
    for origin in [Origin::Host, Origin::Pod, Origin::External] {
        let Verdict::Forward(pick) = cluster_ip().ask("10.96.0.1", 80, origin, u32::MAX) else {
            panic!("not forwarded from {origin:?}");
        };
        assert_eq!((pick.view, pick.addr, pick.port.get()), (View::Internal, addr("10.1.0.1"), 8080));
        assert_eq!((pick.backend, pick.generation), (100, 5));
    }
}

#[test]
fn an_external_frontend_is_short_circuited_from_inside_only() {
    let tables =
        Tables::default().with_service().frontend_at(vip("192.0.2.1", 80), FrontendKind::LoadBalancer);
    for (entropy, ip) in [(0, "10.1.0.1"), (u32::MAX, "10.1.0.2")] {
        assert_eq!(target(tables.ask("192.0.2.1", 80, Origin::Pod, entropy)), Some(addr(ip)));
        assert_eq!(target(tables.ask("192.0.2.1", 80, Origin::External, entropy)), Some(addr("10.1.0.2")));
    }
}

#[test]
fn an_address_outside_the_filter_passes() {
    assert_eq!(cluster_ip().ask("198.51.100.1", 80, Origin::Pod, 0), Verdict::Pass);
    assert_eq!(cluster_ip().ask("10.96.0.2", 80, Origin::Pod, 0), Verdict::Pass);
}

#[test]
fn an_unknown_port_of_an_owned_vip_is_rejected() {
    let tables = cluster_ip().owning("10.96.0.1");
    let rejected = Verdict::Reject(0, DropReason::UnknownPort);
    assert_eq!(tables.ask("10.96.0.1", 81, Origin::Pod, 0), rejected);
    assert_eq!(tables.ask("10.96.0.2", 80, Origin::Pod, 0), Verdict::Pass, "a neighbour in the block");
    let own = tables.node_at("10.96.0.1", NodeAddrFlags::LOCAL);
    assert_eq!(own.ask("10.96.0.1", 81, Origin::Pod, 0), Verdict::Pass);
}

#[test]
fn an_unassigned_address_of_a_service_cidr_times_out() {
    let mut tables = cluster_ip();
    tables.cidr = Some(addr("10.96.0.9"));
    tables.filter.extend(filter::bits_of_prefix(addr("10.96.0.9")));
    let dropped = Verdict::Drop(0, DropReason::UnassignedAddress);
    assert_eq!(tables.ask("10.96.0.9", 80, Origin::Host, 0), dropped);
}

fn node_port(any: Addr) -> FrontendKey {
    FrontendKey::node_port(any, Port::new(30080), Proto::TCP)
}

#[test]
fn a_node_port_needs_a_selected_address() {
    let tables = Tables::default()
        .with_service()
        .frontend_at(node_port(Addr::UNSPECIFIED_V4), FrontendKind::NodePort)
        .node_at("192.0.2.10", NodeAddrFlags::NODE_PORT.union(NodeAddrFlags::LOCAL))
        .node_at("198.51.100.10", NodeAddrFlags::LOCAL);
    assert!(target(tables.ask("192.0.2.10", 30080, Origin::Pod, 0)).is_some());
    assert_eq!(tables.ask("198.51.100.10", 30080, Origin::Pod, 0), Verdict::Pass);
    assert_eq!(tables.ask("192.0.2.10", 30081, Origin::Pod, 0), Verdict::Pass);
}

#[test]
fn a_node_port_is_served_on_the_hosts_loopback_only() {
    let tables = Tables::default()
        .with_service()
        .frontend_at(node_port(Addr::UNSPECIFIED_V4), FrontendKind::NodePort)
        .frontend_at(node_port(Addr::UNSPECIFIED), FrontendKind::NodePort);
    for loopback in ["127.0.0.1", "::1", "0.0.0.0", "::"] {
        assert!(target(tables.ask(loopback, 30080, Origin::Host, 0)).is_some(), "{loopback} from the host");
        assert_eq!(tables.ask(loopback, 30080, Origin::Pod, 0), Verdict::Pass, "{loopback} from a pod");
    }
}

#[test]
fn a_node_port_of_one_family_leaves_the_other_alone() {
    for (any, served, other) in [
        (Addr::UNSPECIFIED_V4, ["192.0.2.10", "127.0.0.1"], ["2001:db8::10", "::1"]),
        (Addr::UNSPECIFIED, ["2001:db8::10", "::1"], ["192.0.2.10", "127.0.0.1"]),
    ] {
        let tables = Tables::default()
            .with_service()
            .frontend_at(node_port(any), FrontendKind::NodePort)
            .node_at("192.0.2.10", NodeAddrFlags::NODE_PORT)
            .node_at("2001:db8::10", NodeAddrFlags::NODE_PORT);
        for dst in served {
            assert!(target(tables.ask(dst, 30080, Origin::Host, 0)).is_some(), "{dst}");
        }
        for dst in other {
            assert_eq!(tables.ask(dst, 30080, Origin::Host, 0), Verdict::Pass, "{dst}");
        }
    }
}

#[test]
fn a_view_word_decides_between_pass_reject_and_drop() {
    let ask = |word| cluster_ip().set_all_views(word).ask("10.96.0.1", 80, Origin::Pod, 0);
    assert_eq!(ask(ViewWord::PASS), Verdict::Pass);
    assert_eq!(ask(ViewWord::REJECT), Verdict::Reject(SERVICE, DropReason::NoEndpoints));
    assert_eq!(ask(ViewWord::DROP), Verdict::Drop(SERVICE, DropReason::NoLocalEndpoints));
}

#[test]
fn tables_that_contradict_each_other_reject_and_say_so() {
    let inconsistent = Verdict::Reject(SERVICE, DropReason::Inconsistent);
    let mut foreign = cluster_ip();
    foreign.backends.get_mut(&100).unwrap().service = SERVICE + 1;
    assert_eq!(foreign.ask("10.96.0.1", 80, Origin::Pod, 0), inconsistent);
    let mut empty_slot = cluster_ip();
    empty_slot.slots.insert(10, 0);
    assert_eq!(empty_slot.ask("10.96.0.1", 80, Origin::Pod, 0), inconsistent);
    let mut headless = cluster_ip();
    headless.heads.clear();
    assert_eq!(headless.ask("10.96.0.1", 80, Origin::Pod, 0), inconsistent);
}

#[test]
fn every_slot_is_picked_equally_often() {
    let tables = cluster_ip().set_all_views(ViewWord::random(10, 2));
    let mut hits = HashMap::new();
    for step in 0..1000_u32 {
        let verdict = tables.ask("10.96.0.1", 80, Origin::Pod, step * (u32::MAX / 1000));
        *hits.entry(target(verdict).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(hits.len(), 2);
    assert!(hits.values().all(|count| (499..=501).contains(count)));
}

/// Somebody on another node, and how often it was asked for more.
struct Far {
    is_inside: bool,
    asked: Cell<u32>,
}

impl Sender for Far {
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }
    fn remembered(&self, _: u32, _: bool, _: u32) -> Option<Memory> {
        None
    }
    fn draw(&self) -> u32 {
        0
    }
    fn is_inside(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.is_inside
    }
}

#[test]
fn whether_a_sender_elsewhere_is_a_pod_is_asked_where_that_matters() {
    let of = |tables: &Tables, dst: &str, is_inside| {
        let tuple = Tuple { addr: addr(dst), port: Port::new(80), proto: Proto::TCP };
        let sender = Far { is_inside, asked: Cell::new(0) };
        let verdict = translate(tables, &Packet { tuple, origin: Origin::External }, &sender);
        let Verdict::Forward(pick) = verdict else { panic!("{verdict:?}") };
        (pick.view, pick.addr, sender.asked.get())
    };
    let tables = cluster_ip().frontend_at(vip("192.0.2.1", 80), FrontendKind::LoadBalancer);
    assert_eq!(of(&tables, "192.0.2.1", true), (View::Cluster, addr("10.1.0.1"), 1));
    assert_eq!(of(&tables, "192.0.2.1", false), (View::External, addr("10.1.0.2"), 1));
    assert_eq!(of(&tables, "10.96.0.1", true), (View::Internal, addr("10.1.0.1"), 0), "one view for all");
    let alike = tables.set_all_views(ViewWord::random(10, 2));
    for is_inside in [true, false] {
        assert_eq!(of(&alike, "192.0.2.1", is_inside), (View::External, addr("10.1.0.1"), 0));
    }
}

/// A client that was given rows before.
struct Known {
    held: Option<Held>,
    memory: Option<Memory>,
}

impl Sender for Known {
    fn held(&self, _: &Tuple) -> Option<Held> {
        self.held
    }
    fn remembered(&self, service: u32, _: bool, seconds: u32) -> Option<Memory> {
        self.memory.filter(|memory| service == SERVICE && memory.is_fresh(100 * SECOND, seconds))
    }
    fn draw(&self) -> u32 {
        0
    }
}

const SECOND: u64 = 1_000_000_000;

/// What a client gets from a service port with an affinity timeout of ten seconds, 100 s after the boot.
fn ask_again(tables: &Tables, dst: &str, memory: Memory) -> Pick {
    let tuple = Tuple { addr: addr(dst), port: Port::new(80), proto: Proto::TCP };
    let sender = Known { held: None, memory: Some(memory) };
    match translate(tables, &Packet { tuple, origin: Origin::Pod }, &sender) {
        Verdict::Forward(pick) => pick,
        other => panic!("{other:?}"),
    }
}

fn sticky() -> Tables {
    let mut tables = Tables::default()
        .with_service()
        .frontend_at(vip("10.96.0.1", 80), FrontendKind::ClusterIp)
        .frontend_at(vip("192.0.2.1", 80), FrontendKind::LoadBalancer);
    tables.heads.insert(SERVICE, Head::new(Half::B, 10, 3));
    let cluster = BackendState::SERVING.with_view(View::Cluster);
    tables.backends.get_mut(&100).unwrap().state = cluster.with_view(View::Internal).0;
    tables.backends.get_mut(&101).unwrap().state = cluster.0;
    tables
}

#[test]
fn a_client_is_sent_where_it_was_sent_before() {
    let tables = sticky();
    let memory = |id, generation, second| Memory::new(id, generation, second * SECOND);
    let id = |memory| ask_again(&tables, "192.0.2.1", memory).backend;
    assert_eq!(id(memory(101, 5, 95)), 101, "remembered");
    assert_eq!(id(memory(101, 5, 90)), 101, "just fresh");
    assert_eq!(id(memory(101, 5, 89)), 100, "too old: picked anew");
    assert_eq!(id(memory(101, 4, 95)), 100, "the row was another endpoint's");
    assert_eq!(id(memory(102, 5, 95)), 100, "no such row");
    assert!(ask_again(&tables, "192.0.2.1", memory(101, 5, 95)).is_sticky());
}

#[test]
fn affinity_never_overrides_a_policy() {
    // Row 101 is a slot of the cluster view and not of the internal one.
    let pick = ask_again(&sticky(), "10.96.0.1", Memory::new(101, 5, 95 * SECOND));
    assert_eq!((pick.view, pick.backend), (View::Internal, 100));
}

#[test]
fn without_a_timeout_nothing_is_remembered() {
    let mut tables = sticky();
    tables.heads.insert(SERVICE, Head::new(Half::B, 0, 3));
    let pick = ask_again(&tables, "192.0.2.1", Memory::new(101, 5, 100 * SECOND));
    assert_eq!((pick.backend, pick.is_sticky()), (100, false));
}

#[test]
fn source_ranges_bind_the_frontends_that_say_so() {
    let mut tables = sticky();
    let bound = FrontendValue::new(SERVICE, FrontendKind::LoadBalancer, FrontendValue::CHECK_SOURCE);
    tables.frontends.insert(vip("192.0.2.1", 80), bound);
    tables.sources.insert((SERVICE, addr("10.0.0.7")));
    let nothing = Memory::new(0, 0, 0);
    let pick = ask_again(&tables, "192.0.2.1", nothing);
    assert!(admits(&tables, &pick, addr("10.0.0.7")) && !admits(&tables, &pick, addr("10.0.0.8")));
    assert!(pick_again(&tables, &pick, 0).unwrap().must_check_source());
    let free = ask_again(&tables, "10.96.0.1", nothing);
    assert!(admits(&tables, &free, addr("10.0.0.8")));
}

#[test]
fn a_connected_socket_stays_moves_or_waits() {
    let mut tables = sticky();
    let packet = Packet {
        tuple: Tuple { addr: addr("192.0.2.1"), port: Port::new(80), proto: Proto::TCP },
        origin: Origin::Pod,
    };
    let held = Held { service: SERVICE, backend: 101, generation: 5 };
    assert_eq!(fate(&tables, &packet, Some(&held)), Fate::Stays);
    assert_eq!(fate(&tables, &packet, None), Fate::Moves, "a backend has come for one that waits");
    // Out of every view and still serving: the flow stays.
    tables.backends.get_mut(&101).unwrap().state = BackendState::SERVING.0;
    assert_eq!(fate(&tables, &packet, Some(&held)), Fate::Stays);
    tables.backends.get_mut(&101).unwrap().state = 0;
    assert_eq!(fate(&tables, &packet, Some(&held)), Fate::Moves);
    let empty = tables.set_all_views(ViewWord::REJECT);
    assert_eq!(fate(&empty, &packet, Some(&held)), Fate::Waits);
    assert_eq!(fate(&empty, &packet, None), Fate::Stays);
    let tuple = Tuple { port: Port::new(81), ..packet.tuple };
    assert_eq!(fate(&empty, &Packet { tuple, ..packet }, Some(&held)), Fate::Waits, "the port has gone");
    let other = Held { service: SERVICE + 1, ..held };
    assert_eq!(fate(&sticky(), &packet, Some(&other)), Fate::Moves, "the address is another service's");
    let mut own = sticky().node_at("192.0.2.1", NodeAddrFlags::LOCAL);
    own.frontends.remove(&vip("192.0.2.1", 80));
    assert_eq!(fate(&own, &packet, Some(&held)), Fate::Stays, "the address is the node's own by now");
    own.backends.get_mut(&held.backend).unwrap().state = 0;
    assert_eq!(fate(&own, &packet, Some(&held)), Fate::Waits, "and its backend is gone");
}
