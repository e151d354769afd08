//! Which endpoints serve a service port on this node, and what each view does when none can.
//!
//! The rules are those of kube-proxy's endpoint categorisation (`pkg/proxy/topology.go`; KEP-1669 for terminating
//! endpoints, KEP-2433 and KEP-3015 for hints). Addresses of frontends play no part here; all that is known of
//! them is which policies they follow.

use std::cmp::Reverse;

use proxy_common::addr::{Addr, Port};
use proxy_common::backend::BackendState;
use proxy_common::names::CHUNK_SLOTS;
use proxy_common::service::View;

use super::tables::{DesiredBackend, DesiredView};
use crate::model::{Endpoint, EndpointSlice, Family, Node, ServicePort, TrafficPolicy};

/// Whose endpoints are wanted: one port of a Service in one family, seen from one node.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The port; its name and protocol match the ports of slices, its number does not matter.
    pub port: &'a ServicePort,
    /// The family.
    pub family: Family,
    /// The own node.
    pub node: &'a Node,
}

/// The policies that the frontends of one service port follow in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Policy of the cluster IP.
    pub internal: TrafficPolicy,
    /// Policy of the external frontends; `None` if there are none.
    pub external: Option<TrafficPolicy>,
}

/// One endpoint on one port number, reduced to what the rules ask about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    addr: Addr,
    port: Port,
    facts: Facts,
}

/// The outcome for one service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// Sorted by address and port, none twice. Every endpoint that is ready or serving has a row, so that flows to
    /// it stay when policies or hints move new connections elsewhere; `SERVING` is set in each.
    pub backends: Vec<DesiredBackend>,
    /// In the order of [`View::ALL`].
    pub views: [DesiredView; View::COUNT],
    /// How many endpoints each view had to leave out because a view holds [`CHUNK_SLOTS`] at most.
    pub left_out: [u32; View::COUNT],
}

/// Facts about a candidate, one bit each. Hint bits mean nothing for a candidate that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts(u8);

impl Facts {
    const NONE: Self = Self(0);
    const TERMINATING: Self = Self(1 << 7);
    const READY: Self = Self(1 << 6);
    const SERVING: Self = Self(1 << 5);
    const LOCAL: Self = Self(1 << 4);
    const NODE_HINTED: Self = Self(1 << 3);
    const HINTED_TO_THIS_NODE: Self = Self(1 << 2);
    const ZONE_HINTED: Self = Self(1 << 1);
    const HINTED_TO_THIS_ZONE: Self = Self(1 << 0);
    /// What a set falls back to when nothing in it is ready.
    const DRAINING: Self = Self::SERVING.and(Self::TERMINATING);

    fn of(endpoint: &Endpoint, node: &Node) -> Self {
        // A node without a name or a zone is meant by no endpoint, also not by one with an empty name.
        let named = !node.name.is_empty();
        let zone = node.zone.as_deref().filter(|zone| !zone.is_empty());
        let is_local = named && endpoint.node.as_deref() == Some(&*node.name);
        let for_node = named && endpoint.node_hints().contains(&node.name);
        let for_zone = zone.is_some_and(|zone| endpoint.zone_hints().iter().any(|hint| **hint == *zone));
        [
            (endpoint.terminating, Self::TERMINATING),
            (endpoint.ready, Self::READY),
            (endpoint.serving, Self::SERVING),
            (is_local, Self::LOCAL),
            (!endpoint.node_hints().is_empty(), Self::NODE_HINTED),
            (for_node, Self::HINTED_TO_THIS_NODE),
            (!endpoint.zone_hints().is_empty(), Self::ZONE_HINTED),
            (for_zone, Self::HINTED_TO_THIS_ZONE),
        ]
        .into_iter()
        .fold(Self::NONE, |facts, (holds, fact)| if holds { facts.and(fact) } else { facts })
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }

    /// Which of two copies of an endpoint counts, the greater one: not terminating, then ready, then serving, then
    /// local. The hints come last only to make the order of slices play no part.
    const fn rank(self) -> u8 {
        self.0 ^ Self::TERMINATING.0
    }
}

/// Fills `candidates` with the endpoints of `slices` that feed the service port, sorted by address and port, of
/// several copies the one that counts.
///
/// `slices` are all slices of the Service, of either family. `candidates` is emptied first; it is the caller's so
/// that one allocation serves many service ports.
pub fn gather_candidates<'a>(
    candidates: &mut Vec<Candidate>,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    scope: Scope<'_>,
) {
    candidates.clear();
    let Scope { port, family, node } = scope;
    for slice in slices.filter(|slice| slice.family == family) {
        let feeds =
            slice.ports.iter().filter(|feed| feed.protocol == port.protocol && feed.name == port.name);
        for feed in feeds {
            let endpoints = slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.addr) == family);
            candidates.extend(endpoints.map(|endpoint| Candidate {
                addr: endpoint.addr.into(),
                port: Port::new(feed.port),
                facts: Facts::of(endpoint, node),
            }));
        }
    }
    candidates.sort_unstable_by_key(|one| (one.addr, one.port, Reverse(one.facts.rank())));
    candidates.dedup_by_key(|one| (one.addr, one.port));
}

/// Applies policies, hints and conditions to the candidates of one service port.
pub fn choose_eligible(candidates: &[Candidate], policies: Policies) -> Eligible {
    let sets = Sets::of(candidates);
    let internal = sets.serve(policies.internal);
    // Clients inside the cluster are not bound by the external policy: for them an external frontend is another
    // name of the cluster IP. They are not bound by the internal policy either.
    let (cluster, external) = match policies.external {
        Some(policy) => (sets.serve(TrafficPolicy::Cluster), sets.serve(policy)),
        None => (Choice::Nobody(DesiredView::Pass), Choice::Nobody(DesiredView::Pass)),
    };
    let mut counts = [0; View::COUNT];
    let usable = |one: &&Candidate| one.facts.has(Facts::READY) || one.facts.has(Facts::SERVING);
    let choices = [internal, cluster, external];
    let mut backends = Vec::with_capacity(candidates.iter().filter(usable).count());
    for one in candidates.iter().filter(usable) {
        let mut state = BackendState::SERVING;
        for (view, (choice, count)) in View::ALL.into_iter().zip(choices.iter().zip(&mut counts)) {
            if choice.has(one.facts) {
                *count += 1;
                // An extent never spans chunks, so this is all that a view can hold.
                if *count <= CHUNK_SLOTS {
                    state = state.with_view(view);
                }
            }
        }
        backends.push(DesiredBackend { addr: one.addr, port: one.port, state });
    }
    let left_out = counts.map(|count| count.saturating_sub(CHUNK_SLOTS));
    Eligible { backends, views: choices.map(Choice::to_view), left_out }
}

/// Whom a view gives its clients.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Every candidate with all of these facts; there is at least one.
    Having(Facts),
    /// Nobody, and what its clients meet instead.
    Nobody(DesiredView),
}

impl Choice {
    const fn has(self, facts: Facts) -> bool {
        match self {
            Self::Having(wanted) => facts.has(wanted),
            Self::Nobody(_) => false,
        }
    }

    const fn to_view(self) -> DesiredView {
        match self {
            Self::Having(_) => DesiredView::Random,
            Self::Nobody(view) => view,
        }
    }
}

/// The two sets that policies choose between, each as the facts that its members share; `None` if it is empty.
struct Sets {
    cluster: Option<Facts>,
    local: Option<Facts>,
}

impl Sets {
    fn of(candidates: &[Candidate]) -> Self {
        let having = |wanted: Facts| candidates.iter().any(|one| one.facts.has(wanted)).then_some(wanted);
        // The fallbacks are judged apart: one set may hold ready endpoints while the other drains.
        let local =
            having(Facts::READY.and(Facts::LOCAL)).or_else(|| having(Facts::DRAINING.and(Facts::LOCAL)));
        let cluster = hinted_set(candidates).or_else(|| having(Facts::DRAINING));
        Self { cluster, local }
    }

    fn serve(&self, policy: TrafficPolicy) -> Choice {
        let (set, if_empty) = match policy {
            TrafficPolicy::Cluster => (self.cluster, DesiredView::Reject),
            // The caller is to try another node, so its connection times out rather than being refused.
            TrafficPolicy::Local if self.cluster.is_some() => (self.local, DesiredView::Drop),
            TrafficPolicy::Local => (self.local, DesiredView::Reject),
        };
        set.map_or(Choice::Nobody(if_empty), Choice::Having)
    }
}

/// The ready endpoints that the hints leave; `None` if nothing is ready.
///
/// Hints count only when every ready endpoint has them and one of them means this node or its zone, so this never
/// leaves nothing of something.
fn hinted_set(candidates: &[Candidate]) -> Option<Facts> {
    let ready = || candidates.iter().map(|one| one.facts).filter(|facts| facts.has(Facts::READY));
    let some = ready().fold(Facts::NONE, Facts::and);
    let all = Facts(ready().fold(u8::MAX, |all, facts| all & facts.0));
    if !some.has(Facts::READY) {
        return None;
    }
    let hint = if all.has(Facts::NODE_HINTED) && some.has(Facts::HINTED_TO_THIS_NODE) {
        Facts::HINTED_TO_THIS_NODE
    } else if all.has(Facts::ZONE_HINTED) && some.has(Facts::HINTED_TO_THIS_ZONE) {
        Facts::HINTED_TO_THIS_ZONE
    } else {
        Facts::NONE
    };
    Some(Facts::READY.and(hint))
}

#[cfg(test)]
#[path = "eligible_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "eligible_model_tests.rs"]
mod model_tests;
