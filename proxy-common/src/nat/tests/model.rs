//! A node of nothing but tables and records, as the packets that pass it find it.

use crate::addr::{Port, Proto};
use crate::affinity::Memory;
use crate::backend::{Backend, BackendState};
use crate::flow::NO_MAC;
use crate::frontend::{FrontendKey, FrontendKind, FrontendValue};
use crate::lb::{Lookup, Pick};
use crate::mark;
use crate::nat::*;
use crate::node::NodeAddrFlags;
use crate::service::{Half, Head, View, ViewWord};
use crate::shortcut::TICK;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const PORTS: Ports = Ports { first: 61_000, count: 4_000 };
pub(super) const SERVICE: u32 = 9;

pub(super) fn end(a: u8, b: u8, port: u16) -> End {
    End::new(Ipv4Addr::new(10, a, b, 1).into(), Port::new(port))
}

/// The two frontends of the one service; it has as many backends as its view word says.
pub(super) fn vip(index: u8) -> End {
    end(96, index, 80)
}

/// Backends with an even index are on this node.
pub(super) fn backend(index: u8) -> End {
    end(1, index, 8080)
}

pub(super) fn node_addr() -> Addr {
    end(0, 0, 0).addr
}

pub(super) struct Tables {
    pub(super) backends: u8,
    pub(super) gone: RefCell<Vec<u8>>,
    pub(super) word: Option<ViewWord>,
    pub(super) affinity: u32,
    /// Whether the filter has bits for all addresses.
    pub(super) is_blurred: bool,
}

impl Lookup for Tables {
    fn may_own(&self, addr: Addr) -> bool {
        self.is_blurred || addr == node_addr() || (0..2).any(|index| addr == vip(index).addr)
    }
    fn may_serve(&self, port: Port, _: Proto) -> bool {
        (0..2).any(|index| port == vip(index).port)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        let is_vip = (0..2).any(|index| (key.addr, key.port) == (vip(index).addr, vip(index).port));
        is_vip.then(|| FrontendValue::new(SERVICE, FrontendKind::LoadBalancer, 0))
    }
    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        (addr == node_addr()).then_some(NodeAddrFlags::LOCAL)
    }
    fn in_service_cidr(&self, _: Addr) -> bool {
        false
    }
    fn is_allowed_source(&self, _: u32, _: Addr) -> bool {
        true
    }
    fn owned_word(&self, _: u32, _: usize) -> Option<u64> {
        None
    }
    fn head(&self, service: u32) -> Option<Head> {
        (service == SERVICE).then(|| Head::new(Half::A, self.affinity, 1))
    }
    fn view(&self, _: u32, _: Half, _: View) -> Option<ViewWord> {
        Some(self.word.unwrap_or(ViewWord::random(0, u32::from(self.backends))))
    }
    fn slot(&self, slot: u32) -> Option<u32> {
        Some(slot + 1)
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        let index = u8::try_from(id.checked_sub(1)?).ok()?;
        let is_gone = self.gone.borrow().contains(&index);
        let serving = View::ALL.into_iter().fold(BackendState::SERVING, BackendState::with_view);
        let state = if is_gone { BackendState::FREE } else { serving };
        let End { addr, port, .. } = backend(index);
        Some(Backend { addr, state: state.0, generation: 3, service: SERVICE, port, pad: 0 })
    }
}

/// Records in two tables of a limited size.
pub(super) struct Records {
    pub(super) main: RefCell<HashMap<FlowKey, Flow>>,
    pub(super) apart: RefCell<HashMap<FlowKey, Flow>>,
    pub(super) capacity: usize,
    /// Flows that may be opening in the main table, and those that are.
    pub(super) open_at_once: Cell<i32>,
    pub(super) opening: Cell<i32>,
    pub(super) random: Cell<u64>,
    pub(super) memories: RefCell<HashMap<Addr, Memory>>,
    pub(super) is_flooded: Cell<bool>,
    pub(super) leads_to_pods: Cell<bool>,
    pub(super) has_direct: Cell<bool>,
    /// Whether what begins is masqueraded, and whether something was.
    pub(super) masquerades: Cell<bool>,
    pub(super) has_masqueraded: Cell<bool>,
    pub(super) ports: Cell<Ports>,
    now: Cell<u64>,
    /// Places of pairs that have had a record of replies.
    pub(super) marks: RefCell<HashSet<u32>>,
    /// How many records were used anew where they lay.
    pub(super) renewed: Cell<u32>,
}

impl Records {
    /// As an agent says so that wishes for it or not.
    pub(super) fn masquerade(&self, is_wished: bool) {
        self.masquerades.set(is_wished);
        self.has_masqueraded.set(is_wished || self.has_masqueraded.get());
    }

    pub(super) fn new(capacity: usize) -> Self {
        Self {
            main: RefCell::default(),
            apart: RefCell::default(),
            capacity,
            open_at_once: Cell::new(1_000),
            opening: Cell::new(0),
            random: Cell::new(1),
            memories: RefCell::default(),
            is_flooded: Cell::new(false),
            leads_to_pods: Cell::new(false),
            has_direct: Cell::new(false),
            masquerades: Cell::new(false),
            has_masqueraded: Cell::new(false),
            ports: Cell::new(PORTS),
            now: Cell::new(0),
            marks: RefCell::default(),
            renewed: Cell::new(0),
        }
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<Flow> {
        self.main.borrow().get(key).or(self.apart.borrow().get(key)).copied()
    }

    /// All records, in the order of their keys.
    fn all(&self) -> Vec<(FlowKey, Flow)> {
        self.keys().into_iter().filter_map(|key| self.get(&key).map(|flow| (key, flow))).collect()
    }

    pub(super) fn keys(&self) -> Vec<FlowKey> {
        let mut keys: Vec<FlowKey> =
            self.main.borrow().keys().chain(self.apart.borrow().keys()).copied().collect();
        keys.sort();
        keys
    }
}

impl Flows for Records {
    type Place = FlowKey;
    fn may_know(&self, one: &End, other: &End) -> bool {
        self.marks.borrow().contains(&mark::place(one, other))
    }
    fn find(&self, key: &FlowKey, flow: &mut Flow) -> Option<FlowKey> {
        self.get(key).map(|found| {
            *flow = found;
            *key
        })
    }
    fn glance(&self, key: &FlowKey) -> Option<(FlowKey, Glance)> {
        let Flow { becomes, port, flags, used, mac, .. } = *self.main.borrow().get(key)?;
        // As with a timer of 250 Hz, about.
        let idle = self.now.get() / TICK - used / TICK;
        let idle = u32::try_from(idle).unwrap();
        Some((*key, Glance { becomes, port, flags, idle, mac }))
    }
    fn note(&self, _: &FlowKey, place: FlowKey, old: u16, flow: &Flow) {
        let (mut main, mut apart) = (self.main.borrow_mut(), self.apart.borrow_mut());
        let there = main.get_mut(&place).or(apart.get_mut(&place)).unwrap();
        there.used = flow.used;
        there.flags = (there.flags | flow.flags & !old) & !(old & !flow.flags);
        assert_eq!(there, flow, "nothing else can be noted");
    }
    fn renew(&self, key: &FlowKey, flow: &Flow) -> bool {
        let mut main = self.main.borrow_mut();
        let Some(there) = main.get_mut(key).filter(|_| !self.apart.borrow().contains_key(key)) else {
            return false;
        };
        let is_renewed = may_renew(there, flow, key.proto, &self.timeouts());
        if is_renewed {
            *there = *flow;
            self.renewed.set(self.renewed.get() + 1);
        }
        is_renewed
    }
    fn claim(&self, key: &FlowKey, flow: &Flow, other: &mut Flow) -> Claim {
        if self.find(key, other).is_some() {
            return Claim::Taken;
        }
        if self.put(key, flow) { Claim::Made } else { Claim::Full }
    }
    fn put(&self, key: &FlowKey, flow: &Flow) -> bool {
        if key.part != Part::Return as u8 {
            self.marks.borrow_mut().insert(mark::place(&key.src, &key.dst));
        }
        let is_apart = flow.has(Flow::APART);
        if is_apart {
            self.main.borrow_mut().remove(key);
        }
        let mut table = if is_apart { &self.apart } else { &self.main }.borrow_mut();
        if !table.contains_key(key) && table.len() >= self.capacity {
            return false;
        }
        table.insert(*key, *flow);
        true
    }
    fn remove(&self, key: &FlowKey) {
        self.main.borrow_mut().remove(key);
        self.apart.borrow_mut().remove(key);
    }
    fn settle(&self, key: &FlowKey, flow: &Flow) -> bool {
        assert!(flow.has(Flow::SETTLED) && !flow.has(Flow::APART));
        let done = self.put(key, flow);
        if done {
            self.apart.borrow_mut().remove(key);
        }
        done
    }
    fn is_crowded(&self) -> bool {
        self.opening.get() >= self.open_at_once.get()
    }
    fn count_opening(&self, is_more: bool) {
        self.opening.set(self.opening.get() + if is_more { 1 } else { -1 });
    }
    fn remembered(&self, _: u32, client: Addr, _: u32) -> Option<Memory> {
        self.memories.borrow().get(&client).copied()
    }
    fn remember(&self, pick: &Pick, client: Addr) {
        self.memories.borrow_mut().insert(client, Memory::new(pick.backend, pick.generation, 0));
    }
    fn draw(&self) -> u32 {
        self.random.set(self.random.get() + 1);
        crate::draw::mix(7, self.random.get())
    }
    fn snat_address(&self, _: bool) -> Option<Addr> {
        Some(node_addr())
    }
    fn leads_to_pods(&self) -> bool {
        self.leads_to_pods.get()
    }
    fn masquerades(&self) -> bool {
        self.masquerades.get()
    }
    fn has_masqueraded(&self) -> bool {
        self.has_masqueraded.get()
    }
    fn timeouts(&self) -> Timeouts {
        Timeouts::KERNEL
    }
    fn ports(&self) -> Ports {
        self.ports.get()
    }
    fn has_direct(&self) -> bool {
        self.has_direct.get()
    }
    fn say_direct(&self) {
        self.has_direct.set(true);
    }
    fn is_inside(&self, _: Addr) -> bool {
        false
    }
    fn admit(&self, _: u64) -> bool {
        !self.is_flooded.get()
    }
}

/// A packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trip {
    pub(super) src: End,
    pub(super) dst: End,
}

impl Trip {
    pub(super) fn change(self, change: Change) -> Self {
        match change.side {
            Side::Source => Self { src: change.to, dst: End::new(self.dst.addr, change.far_port) },
            Side::Destination => Self { src: End::new(self.src.addr, change.far_port), dst: change.to },
        }
    }
}

pub(super) struct Node {
    pub(super) tables: Tables,
    pub(super) records: Records,
    pub(super) now: u64,
    pub(super) proto: Proto,
    /// Whether what leaves the node is known to have been sent on where it entered.
    pub(super) hints: bool,
    /// What frames show of link-layer addresses.
    pub(super) mac: Cell<Mac>,
    /// How many packets might have begun a flow.
    pub(super) asked: Cell<u32>,
    /// How many packets were in the middle of a connection.
    pub(super) steady: Cell<u32>,
    /// Where the last packet's frame was sent to instead.
    pub(super) switched: Cell<Mac>,
}

impl Node {
    pub(super) fn new(backends: u8, proto: Proto) -> Self {
        let tables =
            Tables { backends, gone: RefCell::default(), word: None, affinity: 0, is_blurred: false };
        Self {
            tables,
            records: Records::new(100_000),
            now: 1_000 * SECOND,
            proto,
            hints: true,
            asked: Cell::new(0),
            steady: Cell::new(0),
            mac: Cell::new(NO_MAC),
            switched: Cell::new(NO_MAC),
        }
    }

    pub(super) fn headers(&self, trip: Trip) -> Headers {
        Headers {
            ip: 14,
            segment: 34,
            src: trip.src.addr,
            dst: trip.dst.addr,
            src_port: trip.src.port,
            dst_port: trip.dst.port,
            proto: self.proto,
            is_v4: true,
            fragment: 0,
            fragment_id: 0,
        }
    }

    /// What is read of a packet that has such flags, or would have them were it TCP.
    fn flags(&self, tcp: u8) -> u8 {
        match self.proto {
            Proto::TCP => tcp,
            Proto::SCTP if tcp & ACK == 0 => tcp,
            _ => 0,
        }
    }

    fn passage<'a>(&self, (headers, tcp): (&'a Headers, u8), is_request: bool) -> Passage<'a> {
        let (mac, now) = (self.mac.get(), self.now);
        self.records.now.set(now);
        Passage { headers, tcp, is_from_pods: false, mac, now, is_request }
    }

    /// A packet enters from outside; what becomes of it, or why nothing does.
    pub(super) fn arrives(&self, trip: Trip, tcp: u8) -> Result<Trip, Action> {
        self.enters(trip, tcp, (false, false))
    }

    /// The same by a device of the node behind another one; whether it is known that a program there has sent the packet on, and
    /// whether that cannot be told.
    pub(super) fn enters(
        &self,
        trip: Trip,
        tcp: u8,
        (is_request, is_blind): (bool, bool),
    ) -> Result<Trip, Action> {
        let headers = self.headers(trip);
        let tcp = self.flags(tcp);
        let passage = self.passage((&headers, tcp), is_request);
        self.records.leads_to_pods.set(false);
        if is_for_the_node(&self.tables, &self.records, &headers) {
            return Err(Action::Pass);
        }
        let mut work = Work::EMPTY;
        if !self.tables.may_own(headers.dst) {
            let asks = may_be_direct(&self.records, &headers, tcp);
            return match asks.then(|| direct(&self.records, &passage, is_blind, &mut work)) {
                Some(Action::Change(change)) => Ok(trip.change(change)),
                other => Err(other.unwrap_or(Action::Pass)),
            };
        }
        let is_steady = self.foresees(&passage, Part::Forward);
        let mut action = arrive(&self.tables, &self.records, &passage, &mut work);
        self.was_foreseen(is_steady, &action);
        if action == Action::Begin {
            self.asked.set(self.asked.get() + 1);
            action = begin(&self.tables, &self.records, &passage, &mut work);
        }
        if action == Action::Direct {
            action = direct(&self.records, &passage, is_blind, &mut work);
        }
        match action {
            Action::Change(change) => {
                self.switched.set(change.mac);
                Ok(trip.change(change))
            }
            other => Err(other),
        }
    }

    /// A packet leaves, by a device of pods or another.
    pub(super) fn leaves(&self, trip: Trip, tcp: u8, is_pods: bool) -> Trip {
        self.exits((trip, false), tcp, is_pods)
    }

    pub(super) fn exits(&self, packet: (Trip, bool), tcp: u8, is_pods: bool) -> Trip {
        self.records.leads_to_pods.set(is_pods);
        self.passes(packet, tcp).unwrap_or_else(|why| panic!("{why:?}"))
    }

    /// The same by a device of the last packet's kind, or why it does not leave.
    pub(super) fn passes(&self, (trip, is_request): (Trip, bool), tcp: u8) -> Result<Trip, DropReason> {
        let headers = self.headers(trip);
        let tcp = self.flags(tcp);
        let passage = self.passage((&headers, tcp), is_request && self.hints);
        let mut work = Work::EMPTY;
        let mut action = if may_be_of_a_flow(&self.records, &headers) {
            let is_steady = if passage.is_request { None } else { self.foresees(&passage, Part::Reply) };
            let action = leave(&self.records, &passage, &mut work);
            self.was_foreseen(is_steady, &action);
            action
        } else {
            Action::Pass
        };
        if action == Action::Reserve {
            action = reserve(&self.records, &passage, &mut work);
        }
        match action {
            Action::Change(change) => Ok(trip.change(change)),
            Action::Pass => Ok(trip),
            Action::Drop(_, why) => Err(why),
            other => panic!("{other:?}"),
        }
    }

    /// What is said of a packet that is about to be decided about by its record alone, and what all records are to be then.
    fn foresees(&self, passage: &Passage<'_>, part: Part) -> Option<(Action, Vec<(FlowKey, Flow)>)> {
        let mut all = self.records.all();
        if !may_be_of_a_flow(&self.records, passage.headers) {
            // Where marks are lost, what goes on goes on.
            return None;
        }
        let (place, glance) = match middle(&self.records, (passage.headers, passage.tcp), part) {
            Middle::Other | Middle::Stranger => return None,
            Middle::Known(_, place, glance) => (place, glance),
        };
        let (change, flags) = glance.steady(part, (passage.tcp, passage.mac))?;
        for (_, flow) in all.iter_mut().filter(|(key, _)| *key == place && flags != glance.flags) {
            (flow.flags, flow.used) = (flags, passage.now);
        }
        self.steady.set(self.steady.get() + 1);
        Some((Action::Change(change), all))
    }

    /// It is decided about as foreseen.
    fn was_foreseen(&self, foreseen: Option<(Action, Vec<(FlowKey, Flow)>)>, action: &Action) {
        if let Some((foreseen, all)) = foreseen {
            assert_eq!(*action, foreseen);
            assert_eq!(self.records.all(), all);
        }
    }

    /// From a client to a frontend; what the backend sees.
    pub(super) fn sends(&self, client: End, vip: End, tcp: u8) -> Result<Trip, Action> {
        let inside = self.arrives(Trip { src: client, dst: vip }, tcp)?;
        Ok(self.exits((inside, true), tcp, is_local(inside.dst)))
    }

    /// A client dials until it is seen by the backend as another was, which has reset its connection a while ago.
    pub(super) fn takes_source(&self, client: End, vip: End, wanted: Trip) -> Trip {
        for _ in 0..100_000 {
            let is_of_client = |key: &FlowKey| key.src.addr == client.addr || key.dst.addr == client.addr;
            for key in self.records.keys().into_iter().filter(is_of_client) {
                self.records.remove(&key);
            }
            if self.sends(client, vip, SYN) == Ok(wanted) {
                return wanted;
            }
        }
        panic!("the port of a connection that is over is free")
    }

    /// The backend answers what it has seen; what the client sees.
    pub(super) fn answers(&self, seen: Trip, tcp: u8) -> Trip {
        let reply = Trip { src: seen.dst, dst: seen.src };
        let comes_back = !is_local(seen.dst) || seen.src.addr == node_addr();
        let inside = if comes_back { self.arrives(reply, tcp).unwrap_or(reply) } else { reply };
        self.leaves(inside, tcp, false)
    }
}

pub(super) fn is_local(backend_end: End) -> bool {
    (0..=254).step_by(2).any(|index| backend(index) == backend_end)
}
