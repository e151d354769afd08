//! `shunt trace`: where a connection would go, and why. [`trace`] runs the very decision of the hooks over maps that are in
//! force, and tells each look that it took.
//!
//! It reads the maps through [`Live`], knows no clock, and changes nothing.

mod client;
mod destination;
mod looks;
mod outcome;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proxy_common::addr::Addr;
use proxy_common::affinity::Memory;
use proxy_common::backend::Backend;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::lb::{Lookup, Origin, Packet, Verdict, translate};
use proxy_common::service::{Head, View, ViewKind, ViewWord};
use serde::Serialize;

pub use self::client::{Asked, Client, Facts, NoClient};
pub use self::destination::{Destination, NoDestination, ports_of};
use self::looks::{Asker, Recorder, half_name};
pub use self::looks::{Look, Memories, Step, client_words};
pub use self::outcome::{Admission, Outcome};
use crate::maps::Words;
use crate::maps::known::{Standing, backend_of, standing};
use crate::maps::live::{Elements, Live};
use crate::maps::render::{kind_name, view_name};
use crate::plan::tables::OwnerTag;

/// What is asked, and what is known beside the tables.
pub struct Question<'a> {
    /// Who goes where.
    pub packet: Packet,
    /// Who that is.
    pub client: &'a Client,
    /// What affinity remembers.
    pub memories: Memories<'a>,
    /// Names of service ports.
    pub label: &'a dyn Fn(OwnerTag) -> String,
    /// Nanoseconds of the kernel's monotonic clock.
    pub now: u64,
    /// Whether the egress guard is in force.
    pub is_guarded: bool,
    /// Whether sockets of pods are left alone (`--socket-lb host`); none: nobody said.
    pub is_host_only: Option<bool>,
    /// Whether programs are at devices: they serve who comes from outside, and pods whose sockets nobody serves.
    pub has_packet_path: bool,
    /// Whether they replace the source of whatever begins (kube-proxy's `masqueradeAll`).
    pub masquerades: bool,
    /// Names of the hooks that are attached.
    pub hooks: &'a BTreeSet<&'static str>,
}

/// The answer. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Where the client is taken to be: `host`, `pod` or `outside`.
    pub origin: &'static str,
    /// Why.
    pub origin_reason: String,
    /// Where to: address, port and protocol.
    pub destination: String,
    /// What comes of it.
    pub verdict: Outcome,
    /// The frontend that the destination names.
    pub frontend: Option<FrontendFound>,
    /// The view that serves the client.
    pub view: Option<ViewFound>,
    /// Session affinity, if the service port has any.
    pub affinity: Option<AffinityFound>,
    /// Source ranges, if they bind the frontend.
    pub source_ranges: Option<SourcesFound>,
    /// Backends of the service port: the candidates first, then those that the view does not have.
    pub backends: Vec<BackendFound>,
    /// For UDP: what a socket does that talks to the frontend already.
    pub open_sockets: Option<String>,
    /// Whom the backend sees, where programs at devices may replace the client's address.
    pub seen_as: Option<&'static str>,
    /// Each look that the decision took, in its order.
    pub steps: Vec<Step>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// The frontend that a destination names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendFound {
    /// Kind.
    pub kind: &'static str,
    /// Label of the service port.
    pub service: String,
    /// Its IP family.
    pub family: &'static str,
    /// Its cell.
    pub cell: u32,
}

/// The view that serves a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ViewFound {
    /// Its name.
    pub view: &'static str,
    /// Why this one.
    pub reason: &'static str,
    /// The half of the cell that is in force.
    pub half: &'static str,
    /// How often the cell was switched.
    pub sequence: u32,
    /// Backends to pick from.
    pub candidates: u32,
}

/// Session affinity of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AffinityFound {
    /// Timeout.
    pub timeout_seconds: u32,
    /// What the client was given last.
    pub remembered: Option<MemoryFound>,
}

/// What a client was given last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryFound {
    /// What the client is known by.
    pub client: String,
    /// Where it was sent; none: the row is another endpoint's by now.
    pub backend: Option<String>,
    /// Seconds since.
    pub age_seconds: u64,
    /// What it is worth: `fresh`, `timed-out`, `gone`, `replaced` or `off`.
    pub standing: &'static str,
    /// Whether it decides where the client goes.
    pub decides: bool,
}

/// Source ranges that bind a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourcesFound {
    /// Addresses that the client's packets may come from; none: not known.
    pub clients: Vec<SourceFound>,
    /// What that makes of the client: `allowed`, `blocked`, `depends` or `unknown`.
    pub admission: &'static str,
}

/// An address that a client's packets may come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceFound {
    /// It.
    pub address: String,
    /// Whether a range has it.
    pub allowed: bool,
}

/// A backend of the service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendFound {
    /// Where it listens.
    pub backend: String,
    /// Whether the view has it as a slot.
    pub candidate: bool,
    /// Its row.
    pub row: u32,
    /// Generation of the row.
    pub generation: u32,
    /// Whether the endpoint is listed and serving, so that UDP flows to it stay.
    pub serving: bool,
    /// The views that have it.
    pub views: Vec<&'static str>,
}

/// What the looks found, taken apart.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    frontend: Option<(FrontendKey, FrontendValue)>,
    head: Option<Head>,
    view: Option<(View, ViewWord)>,
    memory: Option<(Addr, Memory)>,
}

impl Found {
    fn of(looks: &[Look]) -> Self {
        let mut found = Self::default();
        for look in looks {
            match *look {
                Look::Frontend(key, Some(value)) if !key.is_owned_vip() => {
                    found.frontend = Some((key, value));
                }
                Look::Head(_, head) => found.head = head,
                // For somebody outside, that for those inside is read too, and held against it.
                Look::View(view, Some(word)) => {
                    found.view.get_or_insert((view, word));
                }
                Look::Remembered(memory) => found.memory = memory,
                _ => {}
            }
        }
        found
    }
}

/// Decides, and tells how.
pub fn trace<S: Words + Elements>(live: &Live<'_, S>, question: &Question<'_>) -> Trace {
    let recorder = Recorder::new(live);
    let verdict = translate(&recorder, &question.packet, &Asker { recorder: &recorder, question });
    let found = Found::of(&recorder.looks());
    let frontend = found.frontend.as_ref().map(|(_, value)| value);
    let admission = outcome::admission(&recorder, live, (frontend, &verdict), question);
    let looks = recorder.looks();
    let label = |service: u32| (question.label)(live.owner(service));
    let backends = backends(live, &found);
    let outcome = outcome::outcome(live, (&verdict, admission.as_ref()), (&looks, question));
    let tuple = question.packet.tuple;
    Trace {
        origin: origin_name(question.packet.origin),
        origin_reason: question.client.reason.clone(),
        destination: FrontendKey::new(tuple.addr, tuple.port, tuple.proto).to_string(),
        frontend: found.frontend.map(|(_, value)| FrontendFound {
            kind: kind_name(value.kind),
            service: label(value.service),
            family: if tuple.addr.is_v4() { "IPv4" } else { "IPv6" },
            cell: value.service,
        }),
        view: view_found(&found),
        affinity: affinity_found(live, &found, (&verdict, question.now)),
        source_ranges: admission.as_ref().map(Admission::found),
        open_sockets: outcome::open_sockets(live, found.frontend, (&backends, &question.packet)),
        seen_as: outcome::seen_as(&verdict, question),
        notes: outcome::notes(live, (&verdict, admission.as_ref()), (&found, question), &backends),
        steps: steps(&looks, &verdict, (tuple.addr, &label)),
        verdict: outcome,
        backends,
    }
}

/// The looks in words. Which slot is drawn nobody knows before, so that the one that was looked at says nothing.
fn steps(looks: &[Look], verdict: &Verdict, (to, label): (Addr, &dyn Fn(u32) -> String)) -> Vec<Step> {
    let is_drawn = matches!(verdict, Verdict::Forward(_));
    let slot = looks.iter().position(|look| matches!(look, Look::Slot(..)));
    let end = slot.filter(|_| is_drawn).unwrap_or(looks.len());
    let mut steps: Vec<Step> = looks[..end].iter().map(|look| look.step(to, label)).collect();
    if end < looks.len() {
        let found = "one of the candidates at random".to_owned();
        steps.push(Step { table: "slot", key: "any of the view".to_owned(), found });
        let sources = looks.iter().filter(|look| matches!(look, Look::Source(..)));
        steps.extend(sources.map(|look| look.step(to, label)));
    }
    // The row of a memory is read to judge it, and again to go there.
    steps.dedup();
    steps
}

/// The word for where a client is.
pub const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Host => "host",
        Origin::Pod => "pod",
        Origin::External => "outside",
    }
}

fn view_found(found: &Found) -> Option<ViewFound> {
    let ((view, word), head, (_, frontend)) = (found.view?, found.head?, found.frontend?);
    let reason = match view {
        View::Internal => "a cluster IP: internalTrafficPolicy decides",
        View::Cluster if frontend.kind == FrontendKind::NodePort as u8 => {
            "a NodePort reached from inside the cluster: any usable endpoint, whatever externalTrafficPolicy says"
        }
        View::Cluster => {
            "an external address reached from inside the cluster: any usable endpoint, whatever \
             externalTrafficPolicy says"
        }
        View::External => "reached from outside the cluster: externalTrafficPolicy decides",
    };
    Some(ViewFound {
        view: view_name(view),
        reason,
        half: half_name(head.half()),
        sequence: head.sequence(),
        candidates: if word.kind() == ViewKind::Random { word.count() } else { 0 },
    })
}

fn affinity_found(
    lookup: &impl Lookup,
    found: &Found,
    (verdict, now): (&Verdict, u64),
) -> Option<AffinityFound> {
    let ((_, frontend), head) = (found.frontend?, found.head?);
    let timeout_seconds = head.affinity_seconds();
    if timeout_seconds == 0 {
        return None;
    }
    let remembered = found.memory.map(|(client, memory)| MemoryFound {
        client: client_words(client),
        backend: backend_of(lookup, frontend.service, &memory).map(|row| target_text(&row)),
        age_seconds: now.saturating_sub(memory.used) / 1_000_000_000,
        standing: standing(lookup, frontend.service, &memory, now).name(),
        decides: is_remembered(lookup, found, (verdict, now)),
    });
    Some(AffinityFound { timeout_seconds, remembered })
}

/// Whether what is remembered is what was picked.
fn is_remembered(lookup: &impl Lookup, found: &Found, (verdict, now): (&Verdict, u64)) -> bool {
    let (Verdict::Forward(pick), Some((_, memory))) = (verdict, found.memory) else { return false };
    let is_fresh = standing(lookup, pick.service, &memory, now) == Standing::Fresh;
    let has_view =
        backend_of(lookup, pick.service, &memory).is_some_and(|row| row.state().in_view(pick.view));
    is_fresh && has_view
}

/// Backends of the service port: the slots of the view, then all others that serve.
fn backends<S: Words + Elements>(live: &Live<'_, S>, found: &Found) -> Vec<BackendFound> {
    let (Some((_, frontend)), Some((_, word))) = (found.frontend, found.view) else { return Vec::new() };
    let slots = if word.kind() == ViewKind::Random { word.base()..word.base() + word.count() } else { 0..0 };
    let candidates: Vec<u32> = slots.filter_map(|slot| live.slot(slot)).collect();
    let is_candidate: BTreeSet<u32> = candidates.iter().copied().collect();
    let others = live.rows_of(frontend.service).into_iter().filter(|id| !is_candidate.contains(id));
    let rows = candidates.iter().map(|id| (*id, true)).chain(others.map(|id| (id, false)));
    rows.filter(|(id, _)| *id != 0)
        .filter_map(|(id, candidate)| Some((id, candidate, live.backend(id)?)))
        .filter(|(.., row)| row.service == frontend.service)
        .map(|(id, candidate, row)| backend_found((id, candidate), &row))
        .collect()
}

fn backend_found((row, candidate): (u32, bool), found: &Backend) -> BackendFound {
    let views = View::ALL.into_iter().filter(|view| found.state().in_view(*view));
    BackendFound {
        backend: target_text(found),
        candidate,
        row,
        generation: found.generation,
        serving: found.state().is_serving(),
        views: views.map(view_name).collect(),
    }
}

fn target_text(row: &Backend) -> String {
    SocketAddr::new(row.addr.to_ip(), row.port.get()).to_string()
}
