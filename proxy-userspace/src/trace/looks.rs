//! What the decision looked up, in its order, and what it found: the steps of a trace are the decision's own.

use std::cell::RefCell;
use std::net::SocketAddr;

use proxy_common::addr::Addr;
use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::backend::Backend;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{Held, Lookup, Sender, Tuple};
use proxy_common::node::NodeAddrFlags;
use proxy_common::owned;
use proxy_common::service::{Half, Head, View, ViewKind, ViewWord};
use serde::Serialize;

use super::Question;
use crate::maps::known::stands_for;
use crate::maps::render::{kind_name, view_name};

/// One look into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The filter.
    Filter(Addr, bool),
    /// A frontend, or a block of owned VIPs.
    Frontend(FrontendKey, Option<FrontendValue>),
    /// An address of the node.
    NodeAddr(Addr, Option<NodeAddrFlags>),
    /// The ServiceCIDRs.
    ServiceCidr(Addr, bool),
    /// A word of a block of owned VIPs.
    Owned(usize, Option<u64>),
    /// The head of a cell.
    Head(u32, Option<Head>),
    /// A view word.
    View(View, Option<ViewWord>),
    /// What affinity remembers, and under which name of the client.
    Remembered(Option<(Addr, Memory)>),
    /// A slot.
    Slot(u32, Option<u32>),
    /// A backend's row.
    Backend(u32, Option<Backend>),
    /// A client of a service with source ranges.
    Source(Addr, bool),
}

/// A step of the decision, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which table was asked.
    pub table: &'static str,
    /// For what.
    pub key: String,
    /// What it had.
    pub found: String,
}

/// Passes look-ups on and notes them.
#[derive(Debug)]
pub(super) struct Recorder<'a, L> {
    lookup: &'a L,
    looks: RefCell<Vec<Look>>,
}

impl<'a, L: Lookup> Recorder<'a, L> {
    /// Looks through `lookup`.
    pub(super) const fn new(lookup: &'a L) -> Self {
        Self { lookup, looks: RefCell::new(Vec::new()) }
    }

    /// All looks so far.
    pub(super) fn looks(&self) -> Vec<Look> {
        self.looks.borrow().clone()
    }

    fn note(&self, look: Look) {
        self.looks.borrow_mut().push(look);
    }
}

impl<L: Lookup> Lookup for Recorder<'_, L> {
    fn may_own(&self, addr: Addr) -> bool {
        let found = self.lookup.may_own(addr);
        self.note(Look::Filter(addr, found));
        found
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        let found = self.lookup.frontend(key);
        self.note(Look::Frontend(*key, found));
        found
    }

    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        let found = self.lookup.node_addr(addr);
        self.note(Look::NodeAddr(addr, found));
        found
    }

    fn in_service_cidr(&self, addr: Addr) -> bool {
        let found = self.lookup.in_service_cidr(addr);
        self.note(Look::ServiceCidr(addr, found));
        found
    }

    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        let found = self.lookup.is_allowed_source(service, addr);
        self.note(Look::Source(addr, found));
        found
    }

    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        let found = self.lookup.owned_word(block, word);
        self.note(Look::Owned(word, found));
        found
    }

    fn head(&self, service: u32) -> Option<Head> {
        let found = self.lookup.head(service);
        self.note(Look::Head(service, found));
        found
    }

    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        let found = self.lookup.view(service, half, view);
        self.note(Look::View(view, found));
        found
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        let found = self.lookup.slot(slot);
        self.note(Look::Slot(slot, found));
        found
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let found = self.lookup.backend(id);
        self.note(Look::Backend(id, found));
        found
    }
}

/// What is remembered under a key.
pub type Memories<'a> = &'a dyn Fn(AffinityKey) -> Option<Memory>;

/// The client as a sender of its first packet, whose memories are looked up as the hooks do it.
pub(super) struct Asker<'a, L> {
    /// Where looks are noted.
    pub(super) recorder: &'a Recorder<'a, L>,
    /// Who it is, and what is remembered of it.
    pub(super) question: &'a Question<'a>,
}

impl<L: Lookup> Sender for Asker<'_, L> {
    fn held(&self, _: &Tuple) -> Option<Held> {
        None
    }

    fn remembered(&self, service: u32, is_v4: bool, seconds: u32) -> Option<Memory> {
        let look = |client| Some((client, (self.question.memories)(AffinityKey { service, client })?));
        let found = self.question.client.keys(is_v4).find_map(look);
        self.recorder.note(Look::Remembered(found));
        found.map(|(_, memory)| memory).filter(|memory| memory.is_fresh(self.question.now, seconds))
    }

    fn draw(&self) -> u32 {
        // Which slot is drawn nobody knows before.
        0
    }
}

impl Look {
    /// In words; `to` is the destination of the decision.
    pub(super) fn step(&self, to: Addr, label: &dyn Fn(u32) -> String) -> Step {
        let (table, key, found) = match *self {
            Self::Filter(addr, true) => ("filter", addr.to_string(), "may be owned".to_owned()),
            Self::Filter(addr, false) => ("filter", addr.to_string(), "certainly nobody's".to_owned()),
            Self::Frontend(key, found) => frontend_words(&key, found, label),
            Self::NodeAddr(addr, found) => ("node address", addr.to_string(), node_words(found).to_owned()),
            Self::ServiceCidr(addr, found) => {
                let found = if found { "a range covers it" } else { "no range covers it" };
                ("ServiceCIDR", addr.to_string(), found.to_owned())
            }
            Self::Owned(_, found) => {
                let (_, mask) = owned::position(to);
                let is_owned = found.is_some_and(|bits| bits & mask != 0);
                let found = if is_owned { "some Service's cluster IP" } else { "no Service's cluster IP" };
                ("owned VIP", to.to_string(), found.to_owned())
            }
            Self::Head(service, found) => {
                ("head", format!("cell {service}"), found.map_or_else(missing, head_words))
            }
            Self::View(view, found) => {
                ("view", view_name(view).to_owned(), found.map_or_else(missing, view_words))
            }
            Self::Remembered(found) => memory_words(found),
            Self::Slot(slot, found) => {
                ("slot", slot.to_string(), found.map_or_else(missing, |id| format!("row {id}")))
            }
            Self::Backend(id, found) => {
                ("backend", format!("row {id}"), found.map_or_else(missing, |row| row_words(&row)))
            }
            Self::Source(addr, found) => {
                let found = if found { "within a range" } else { "within no range" };
                ("source range", addr.to_string(), found.to_owned())
            }
        };
        Step { table, key, found }
    }
}

fn missing() -> String {
    "nothing: the tables contradict each other".to_owned()
}

fn frontend_words(
    key: &FrontendKey,
    found: Option<FrontendValue>,
    label: &dyn Fn(u32) -> String,
) -> (&'static str, String, String) {
    if key.is_owned_vip() {
        let found = found.map_or("no block: no Service's cluster IP", |_| "there is one");
        return ("owned VIPs", format!("block of {}", key.addr), found.to_owned());
    }
    let found = found.map_or_else(
        || "none".to_owned(),
        |value| {
            let check =
                if value.flags & FrontendValue::CHECK_SOURCE != 0 { ", bound by source ranges" } else { "" };
            format!("{} of {}{check}", kind_name(value.kind), label(value.service))
        },
    );
    if key.addr.is_unspecified() {
        return ("NodePort", format!("{}/{}", key.port.get(), key.proto), found);
    }
    ("frontend", key.to_string(), found)
}

const fn node_words(found: Option<NodeAddrFlags>) -> &'static str {
    match found {
        None => "not this node's",
        Some(flags) if flags.serves_node_ports() => "this node's, and NodePorts are served on it",
        Some(_) => "this node's, and NodePorts are not served on it",
    }
}

/// The name of a half.
pub(super) const fn half_name(half: Half) -> &'static str {
    match half {
        Half::A => "a",
        Half::B => "b",
    }
}

fn head_words(head: Head) -> String {
    let affinity = match head.affinity_seconds() {
        0 => "no affinity".to_owned(),
        seconds => format!("affinity of {seconds} s"),
    };
    format!("half {}, sequence {}, {affinity}", half_name(head.half()), head.sequence())
}

fn view_words(word: ViewWord) -> String {
    match word.kind() {
        ViewKind::Pass => "leave alone".to_owned(),
        ViewKind::Random => format!("pick one of {}", word.count()),
        ViewKind::Reject => "refuse".to_owned(),
        ViewKind::Drop => "let time out".to_owned(),
    }
}

fn memory_words(found: Option<(Addr, Memory)>) -> (&'static str, String, String) {
    let Some((client, memory)) = found else {
        return ("affinity", "the client".to_owned(), "not remembered".to_owned());
    };
    let found = format!("row {}, generation {}", memory.backend(), memory.generation());
    ("affinity", client_words(client), found)
}

/// A client as affinity knows it.
pub fn client_words(client: Addr) -> String {
    stands_for(client).map_or_else(|| client.to_string(), |cookie| format!("namespace {cookie}"))
}

fn row_words(row: &Backend) -> String {
    let target = SocketAddr::new(row.addr.to_ip(), row.port.get());
    let views = View::ALL.into_iter().filter(|view| row.state().in_view(*view)).map(view_name);
    let state = if row.state().is_serving() { "serving" } else { "free" };
    let words: Vec<&str> = std::iter::once(state).chain(views).collect();
    format!("{target}, generation {}, {}", row.generation, words.join(" "))
}
