//! Readers of the fake store: after every single effect they ask the packet decision about every frontend, and so does
//! one that was held up since the last grace period with what it had read by then.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::addr::{Addr, Port};
use proxy_common::backend::Backend;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{Lookup, Origin, Packet, Stranger, Tuple, Verdict, translate, view_for};
use proxy_common::node::NodeAddrFlags;
use proxy_common::reason::DropReason;
use proxy_common::service::{Half, Head, OWNER_WORD, View, ViewKind, ViewWord};

use super::cases::{addr, node_addr};
use super::sources::{checks_source, clients, holds, lets_in};
use crate::maps::memory::Memory;
use crate::maps::{WordTable, Words};
use crate::plan::ops::cell_word;
use crate::plan::tables::{DesiredPort, DesiredView, OwnerTag};

/// More draws than twice the slots of any view, so that each slot is drawn.
const DRAWS: u32 = 16;

/// What a reader meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Pass,
    Reject(DropReason),
    Drop(DropReason),
    To(Addr, Port),
}

pub(super) type Outcomes = BTreeSet<Outcome>;

/// The versions of one service port.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    all: Vec<DesiredPort>,
    /// The first that may be in force.
    from: usize,
}

/// What everybody saw, and what they may see.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers {
    pub(super) versions: BTreeMap<OwnerTag, Versions>,
    /// Breaches of the promise, in words.
    pub(super) violations: Vec<String>,
    /// Frontends that were there before the batch and are wanted after it.
    pub(super) lasting: BTreeSet<FrontendKey>,
    /// What frontends that were not there looked like.
    pub(super) absent: BTreeSet<(FrontendKey, u8, Outcomes)>,
    /// Every key that ever was wanted.
    pub(super) keys: BTreeSet<FrontendKey>,
    held_frontends: BTreeSet<(FrontendKey, (u32, u8, u8), OwnerTag)>,
    held_views: BTreeSet<(u32, u64, View, OwnerTag)>,
}

impl Readers {
    pub(super) fn expect(&mut self, port: &DesiredPort) {
        self.versions.entry(port.tag).or_default().all.push(port.clone());
        self.keys.extend(port.frontends.iter().map(|frontend| frontend.key));
    }

    /// A service port found no room for all of its last version, and becomes `part` until it does.
    pub(super) fn expect_part(&mut self, part: DesiredPort) {
        let all = &mut self.versions.entry(part.tag).or_default().all;
        all.insert(all.len().saturating_sub(1), part);
    }

    /// The maps hold the last version of `wanted` service ports, and nothing of others.
    pub(super) fn note_in_sync(&mut self, wanted: impl Fn(OwnerTag) -> bool) {
        for (tag, versions) in &mut self.versions {
            versions.from = versions.all.len() - usize::from(wanted(*tag));
        }
    }

    pub(super) fn note_grace(&mut self) {
        self.held_frontends.clear();
        self.held_views.clear();
    }

    /// Cells to which the frontends lead that somebody has read since the last grace period.
    pub(super) fn cells_in_hand(&self) -> BTreeSet<u32> {
        self.held_frontends.iter().map(|(_, (service, ..), _)| *service).collect()
    }

    /// Looks at everything.
    pub(super) fn look(&mut self, store: &Memory) {
        let mut candidates: BTreeMap<OwnerTag, BTreeSet<usize>> = BTreeMap::new();
        for key in self.keys.clone().iter().filter(|key| !key.is_owned_vip()) {
            let Some(value) = store.frontend(key) else {
                self.look_at_absent(store, key);
                continue;
            };
            if !store.may_serve(key.port, key.proto) {
                self.violations.push(format!("{key:?} is there, and its port has no bit"));
            }
            let tag = owner(store, value.service);
            let versions = self.versions.get(&tag).cloned().unwrap_or_default();
            let agreeing =
                candidates.entry(tag).or_insert_with(|| (versions.from..versions.all.len()).collect());
            for (index, origin) in origins(store, key) {
                let seen = outcomes(store, key, origin);
                agreeing.retain(|version| promised(&versions.all[*version], value, origin) == seen);
                if agreeing.is_empty() {
                    let text = format!("{key:?} of {tag:?} from origin {index} meets {seen:?}");
                    self.violations.push(text);
                }
            }
            self.judge_sources(store, key, (value, tag));
            self.held_frontends.insert((*key, (value.service, value.kind, value.flags), tag));
        }
        self.look_again(store);
        self.hold_views(store);
    }

    fn look_at_absent(&mut self, store: &Memory, key: &FrontendKey) {
        if self.lasting.contains(key) {
            self.violations.push(format!("{key:?} is gone for a moment"));
        }
        for (index, origin) in origins(store, key) {
            self.absent.insert((*key, index, outcomes(store, key, origin)));
        }
    }

    /// Readers that were held up with a frontend or with a view word in hand.
    fn look_again(&mut self, store: &Memory) {
        for (key, (service, kind, flags), tag) in self.held_frontends.clone() {
            let (key, tag) = (&key, &tag);
            let value = FrontendValue { service, kind, flags, pad: 0 };
            self.judge_sources(store, key, (value, *tag));
            let held = Held { store, frontend: value };
            for (index, origin) in origins(store, key) {
                let seen = outcomes(&held, key, origin);
                let known = self.versions.get(tag).is_some_and(|versions| {
                    versions.all.iter().any(|version| promised(version, value, origin) == seen)
                });
                if !known {
                    let text = format!("held up at {key:?} of {tag:?} from {index}: meets {seen:?}");
                    self.violations.push(text);
                }
            }
        }
        for (service, word, view, tag) in &self.held_views {
            let seen = slots_of(store, *service, ViewWord(*word));
            let known = self.versions.get(tag).is_some_and(|versions| {
                versions.all.iter().any(|version| seen == Some(promised_view(version, *view)))
            });
            if !known {
                self.violations.push(format!("held up in {view:?} of {tag:?}: meets {seen:?}"));
            }
        }
    }

    /// Through a frontend that checks the source only those are let in whom a version that may be in force lets in, and
    /// all whom every one lets in that has the frontend.
    fn judge_sources(&mut self, store: &Memory, key: &FrontendKey, (value, tag): (FrontendValue, OwnerTag)) {
        let Some(versions) = self.versions.get(&tag).filter(|_| checks_source(value.flags)) else { return };
        let in_force = &versions.all[versions.from..];
        for client in clients() {
            let seen = store.is_allowed_source(value.service, client);
            let mut said = in_force.iter().filter_map(|version| lets_in(version, key, client)).peekable();
            let is_known = said.peek().is_some();
            // Ranges are the service port's: where one frontend makes room for another, both are open to all of them.
            let is_right = if seen {
                said.any(|said| said) || in_force.iter().any(|version| holds(version, client))
            } else {
                said.any(|said| !said)
            };
            if is_known && !is_right {
                self.violations.push(format!("{key:?} of {tag:?} is open to {client}: {seen}"));
            }
        }
    }

    fn hold_views(&mut self, store: &Memory) {
        for (_, (service, ..), tag) in &self.held_frontends {
            let Some(head) = store.head(*service) else { continue };
            for view in View::ALL {
                if let Some(word) = store.view(*service, head.half(), view)
                    && word.kind() == ViewKind::Random
                {
                    self.held_views.insert((*service, word.0, view, *tag));
                }
            }
        }
    }
}

fn owner(store: &Memory, service: u32) -> OwnerTag {
    OwnerTag(store.load(WordTable::Services, cell_word(service, OWNER_WORD)).unwrap_or(0))
}

/// From where a frontend can be asked for, with an index for texts.
pub(super) fn origins(store: &Memory, key: &FrontendKey) -> Vec<(u8, Origin)> {
    let all = [(0, Origin::Host), (1, Origin::Pod), (2, Origin::External)];
    let served = store.node_addr(node_addr()).is_some_and(NodeAddrFlags::serves_node_ports);
    let reachable = |index| !key.addr.is_unspecified() || index == 0 || served;
    all.into_iter().filter(|(index, _)| reachable(*index)).collect()
}

/// Everything that a frontend can lead to.
pub(super) fn outcomes(lookup: &impl Lookup, key: &FrontendKey, origin: Origin) -> Outcomes {
    let dst = match (key.addr.is_unspecified(), origin) {
        (true, Origin::Host) => addr("127.0.0.1"),
        (true, _) => node_addr(),
        (false, _) => key.addr,
    };
    let packet = Packet { tuple: Tuple { addr: dst, port: key.port, proto: key.proto }, origin };
    (0..DRAWS)
        .map(|step| match translate(lookup, &packet, &Stranger(step * (u32::MAX / DRAWS))) {
            Verdict::Pass => Outcome::Pass,
            Verdict::Reject(_, reason) => Outcome::Reject(reason),
            Verdict::Drop(_, reason) => Outcome::Drop(reason),
            Verdict::Forward(pick) => Outcome::To(pick.addr, pick.port),
        })
        .collect()
}

/// What a version of a service port promises to who comes through a frontend with this value.
pub(super) fn promised(version: &DesiredPort, frontend: FrontendValue, origin: Origin) -> Outcomes {
    promised_view(version, view_for(frontend.kind, origin))
}

fn promised_view(version: &DesiredPort, view: View) -> Outcomes {
    match version.views[view as usize] {
        DesiredView::Pass => [Outcome::Pass].into(),
        DesiredView::Reject => [Outcome::Reject(DropReason::NoEndpoints)].into(),
        DesiredView::Drop => [Outcome::Drop(DropReason::NoLocalEndpoints)].into(),
        DesiredView::Random => {
            let in_view = version.backends.iter().filter(|backend| backend.state.in_view(view));
            in_view.map(|backend| Outcome::To(backend.addr, backend.port)).collect()
        }
    }
}

/// Where the slots of a view word lead, or `None` if a row is not the service's.
fn slots_of(store: &Memory, service: u32, word: ViewWord) -> Option<Outcomes> {
    (word.base()..word.base() + word.count())
        .map(|slot| {
            let row = store.backend(store.slot(slot)?)?;
            (row.service == service).then_some(Outcome::To(row.addr, row.port))
        })
        .collect()
}

/// The store as seen by a reader that has read its frontend long ago.
struct Held<'a> {
    store: &'a Memory,
    frontend: FrontendValue,
}

impl Lookup for Held<'_> {
    fn may_own(&self, _: Addr) -> bool {
        true
    }
    fn frontend(&self, _: &FrontendKey) -> Option<FrontendValue> {
        Some(self.frontend)
    }
    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        self.store.node_addr(addr)
    }
    fn in_service_cidr(&self, addr: Addr) -> bool {
        self.store.in_service_cidr(addr)
    }
    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        self.store.is_allowed_source(service, addr)
    }
    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        self.store.owned_word(block, word)
    }
    fn head(&self, service: u32) -> Option<Head> {
        self.store.head(service)
    }
    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        self.store.view(service, half, view)
    }
    fn slot(&self, slot: u32) -> Option<u32> {
        self.store.slot(slot)
    }
    fn backend(&self, id: u32) -> Option<Backend> {
        self.store.backend(id)
    }
}
