//! The verdict in words, and what there is to say beside it.

use std::net::SocketAddr;

use proxy_common::addr::{Addr, Proto};
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{Fate, Held, Lookup, Origin, Packet, Pick, Verdict, admits, fate, is_private};
use proxy_common::reason::DropReason;
use proxy_common::service::ViewKind;
use serde::Serialize;

use super::looks::Look;
use super::{BackendFound, Found, Question, SourceFound, SourcesFound, is_remembered};

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `forward`, `refuse`, `time-out` or `leave-alone`.
    pub action: &'static str,
    /// Why not, as counted.
    pub reason: Option<&'static str>,
    /// The backend, where only one comes into question.
    pub backend: Option<String>,
    /// Whether a hook carries it out. If not, the destination stays as it is; a note says why.
    pub carried_out: bool,
    /// In words.
    pub text: String,
}

/// What source ranges make of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Addresses that its packets may come from, and whether a range has each.
    clients: Vec<(Addr, bool)>,
}

impl Admission {
    fn name(&self) -> &'static str {
        let allowed = self.clients.iter().filter(|(_, allowed)| *allowed).count();
        match (allowed, self.clients.len()) {
            (_, 0) => "unknown",
            (0, _) => "blocked",
            (some, all) if some == all => "allowed",
            _ => "depends",
        }
    }

    pub(super) fn found(&self) -> SourcesFound {
        let clients = self
            .clients
            .iter()
            .map(|(addr, allowed)| SourceFound { address: addr.to_string(), allowed: *allowed });
        let clients = clients.collect();
        SourcesFound { clients, admission: self.name() }
    }
}

/// Asks the source ranges, if they bind the frontend: through `decision` where the verdict depends on them, else aside.
pub(super) fn admission(
    decision: &impl Lookup,
    aside: &impl Lookup,
    (frontend, verdict): (Option<&FrontendValue>, &Verdict),
    question: &Question<'_>,
) -> Option<Admission> {
    let frontend = frontend.filter(|frontend| frontend.flags & FrontendValue::CHECK_SOURCE != 0)?;
    let is_allowed = |client| match verdict {
        Verdict::Forward(pick) => admits(decision, pick, client),
        _ => aside.is_allowed_source(frontend.service, client),
    };
    let clients = question.client.addresses(question.packet.tuple.addr.is_v4());
    Some(Admission { clients: clients.map(|addr| (addr, is_allowed(addr))).collect() })
}

/// The verdict in words.
pub(super) fn outcome(
    lookup: &impl Lookup,
    (verdict, admission): (&Verdict, Option<&Admission>),
    (looks, question): (&[Look], &Question<'_>),
) -> Outcome {
    let carried_out = why_not_carried_out(question).is_none();
    let not = |action, reason: DropReason, text: String| {
        let reason = Some(reason.name());
        Outcome { action, reason, backend: None, carried_out, text }
    };
    match *verdict {
        Verdict::Pass => {
            let text = format!("left alone: {}", why_left_alone(looks, &question.packet));
            Outcome { action: "leave-alone", reason: None, backend: None, carried_out, text }
        }
        Verdict::Reject(_, reason) => {
            not("refuse", reason, format!("refused at once (ECONNREFUSED): {}", reason_words(reason)))
        }
        Verdict::Drop(_, reason) => {
            not("time-out", reason, format!("{}: {}", time_out_words(question), reason_words(reason)))
        }
        Verdict::Forward(pick) => match admission.map(Admission::name) {
            Some("blocked") => {
                let reason = DropReason::SourceNotAllowed;
                not("time-out", reason, format!("{}: {}", time_out_words(question), reason_words(reason)))
            }
            admission => forward(lookup, (&pick, carried_out), (looks, question), admission),
        },
    }
}

fn forward(
    lookup: &impl Lookup,
    (pick, carried_out): (&Pick, bool),
    (looks, question): (&[Look], &Question<'_>),
    admission: Option<&str>,
) -> Outcome {
    let found = Found::of(looks);
    let target = SocketAddr::new(pick.addr.to_ip(), pick.port.get()).to_string();
    let count = found.view.map_or(0, |(_, word)| word.count());
    let (backend, way) = if is_remembered(lookup, &found, (&Verdict::Forward(*pick), question.now)) {
        let text = format!("to {target}, which the client was given before");
        (Some(target), text)
    } else if count == 1 {
        let text = format!("to {target}, the only candidate");
        (Some(target), text)
    } else {
        (None, format!("to one of {count} candidates at random"))
    };
    let condition = match admission {
        Some("depends") => {
            ", if the address that routing picks is within the source ranges; else it times out"
        }
        Some("unknown") => {
            ", if the client's address, which was not said, is within the source ranges; else it times out"
        }
        _ => "",
    };
    let text = format!("forwarded {way}{condition}");
    Outcome { action: "forward", reason: None, backend, carried_out, text }
}

fn time_out_words(question: &Question<'_>) -> &'static str {
    match (question.packet.tuple.proto, question.is_guarded) {
        (Proto::UDP, _) => "dropped, whoever sends sees EPERM",
        (_, true) => "times out",
        (_, false) => "times out (at once by ETIMEDOUT, until the agent has put the egress guard in force)",
    }
}

const fn reason_words(reason: DropReason) -> &'static str {
    match reason {
        DropReason::NoEndpoints => "the service port has no usable endpoint anywhere",
        DropReason::UnknownPort => "the address is the cluster IP of a Service that does not serve this port",
        DropReason::NoLocalEndpoints => "the policy is Local, and of the endpoints none is on this node",
        DropReason::UnassignedAddress => "a ServiceCIDR covers the address, and no Service has it",
        DropReason::Inconsistent => "the tables contradict each other, which is a defect",
        DropReason::NoRecord => "there was no memory to remember the socket",
        DropReason::SourceNotAllowed => "loadBalancerSourceRanges do not hold the client's address",
        DropReason::FlowTableFull => "the table of flows is full",
        DropReason::NoPort => "no port is left towards the backend",
        DropReason::NoAddress => "the device has no address to send from",
        DropReason::Flood => "more flows begin than the node takes",
        DropReason::SctpPort => "SCTP, and the backend has another port",
        DropReason::LostFragment => "the first part of the datagram has not come",
        DropReason::RefusalLimit => "too many packets are refused in this second",
        DropReason::Unchangeable => "the packet cannot be changed",
    }
}

fn why_left_alone(looks: &[Look], packet: &Packet) -> &'static str {
    let has = |is_meant: fn(&Look) -> bool| looks.iter().any(is_meant);
    if is_private(packet.tuple.addr, packet.origin) {
        return "it is the client's own loopback";
    }
    if has(|look| matches!(look, Look::Filter(_, false))) {
        return "nothing of a Service and nothing of this node is there";
    }
    if has(|look| matches!(look, Look::View(_, Some(word)) if word.kind() == ViewKind::Pass)) {
        return "the service port does not serve this view";
    }
    let own = looks.iter().find_map(|look| match look {
        Look::NodeAddr(_, found) => *found,
        _ => None,
    });
    match own {
        Some(flags) if !flags.serves_node_ports() => {
            "it is this node's own address, and NodePorts are not served on it"
        }
        Some(_) => "it is this node's own address, and no NodePort has that number",
        None if packet.tuple.addr.is_loopback() || packet.tuple.addr.is_unspecified() => {
            "it is the host's loopback, and no NodePort has that number"
        }
        None => "no Service has the address, and no ServiceCIDR covers it",
    }
}

/// What a UDP socket does that talks to the frontend already.
pub(super) fn open_sockets(
    lookup: &impl Lookup,
    frontend: Option<(FrontendKey, FrontendValue)>,
    (backends, packet): (&[BackendFound], &Packet),
) -> Option<String> {
    let (_, value) = frontend?;
    if packet.tuple.proto != Proto::UDP {
        return None;
    }
    let serving = backends.iter().filter(|backend| backend.serving).count();
    // Of a row that nobody has.
    let lost = Held { service: value.service, backend: 0, generation: 0 };
    let others = match fate(lookup, packet, Some(&lost)) {
        Fate::Moves => {
            "one whose backend has gone gets a candidate: at once if connected, else with its next datagram"
        }
        Fate::Waits | Fate::Stays => {
            "one whose backend has gone gets none: if connected, it waits, and what it sends is dropped; else its next \
             datagram meets the verdict"
        }
    };
    Some(format!("one that has a backend which serves ({serving} do) keeps it; {others}"))
}

/// Whom the backend sees, where programs at devices may replace the client's address. Whether a backend is on this node, the tables
/// do not say.
pub(super) fn seen_as(verdict: &Verdict, question: &Question<'_>) -> Option<&'static str> {
    let Verdict::Forward(pick) = verdict else { return None };
    if !question.has_packet_path {
        return None;
    }
    match question.packet.origin {
        Origin::External if pick.keeps_source() => {
            Some("the client: externalTrafficPolicy Local promises that")
        }
        Origin::External if question.masquerades => Some("this node: its configuration says masqueradeAll"),
        Origin::External => Some(
            "the client by a backend of this node, and this node by one elsewhere, whose answers have to come back here",
        ),
        Origin::Pod if question.masquerades && !pick.keeps_source() => Some(
            "the client where a hook at its socket serves it, and else this node: its configuration says masqueradeAll",
        ),
        Origin::Pod | Origin::Host => None,
    }
}

/// What else there is to say.
pub(super) fn notes(
    lookup: &impl Lookup,
    (verdict, admission): (&Verdict, Option<&Admission>),
    (found, question): (&Found, &Question<'_>),
    backends: &[BackendFound],
) -> Vec<String> {
    let mut notes: Vec<String> = why_not_carried_out(question).into_iter().collect();
    if found.head.is_some_and(|head| head.affinity_seconds() != 0)
        && question.client.keys(question.packet.tuple.addr.is_v4()).next().is_none()
    {
        notes.push(
            "affinity: what the client was given before was not looked up, since its address was not said"
                .into(),
        );
    }
    if admission.is_some() && !question.is_guarded {
        notes.push(
            "the egress guard, which judges the source, is not in force: until the agent has put it in force, \
             connections through this frontend fail"
                .into(),
        );
    }
    if question.packet.origin == Origin::Pod && question.is_host_only.is_none() {
        notes.push("no agent said whether sockets of pods are served (--socket-lb): taken for yes".into());
    }
    let candidates = backends.iter().filter(|backend| backend.candidate).count();
    let slots =
        found.view.filter(|(_, word)| word.kind() == ViewKind::Random).map_or(0, |(_, word)| word.count());
    if candidates < slots as usize {
        notes.push(format!(
            "{} slots of the view lead nowhere, which is a defect",
            slots as usize - candidates
        ));
    }
    notes.extend(other_protocols(lookup, verdict, &question.packet));
    notes
}

/// The right port with the wrong protocol is easily asked for.
fn other_protocols(lookup: &impl Lookup, verdict: &Verdict, packet: &Packet) -> Option<String> {
    let is_meant = matches!(verdict, Verdict::Reject(_, DropReason::UnknownPort) | Verdict::Pass);
    if !is_meant || packet.tuple.port.get() == 0 {
        return None;
    }
    let tuple = packet.tuple;
    let others = [Proto::TCP, Proto::UDP, Proto::SCTP].into_iter().filter(|proto| *proto != tuple.proto);
    let served =
        others.filter(|proto| lookup.frontend(&FrontendKey::new(tuple.addr, tuple.port, *proto)).is_some());
    let names: Vec<String> = served.map(|proto| proto.to_string()).collect();
    (!names.is_empty()).then(|| format!("port {} is served over {}", tuple.port.get(), names.join(" and ")))
}

/// Why no hook does what was decided.
fn why_not_carried_out(question: &Question<'_>) -> Option<String> {
    let tuple = question.packet.tuple;
    if question.packet.origin == Origin::External {
        return (!question.has_packet_path).then(|| {
            "not carried out: no program is at a device, which would see packets from outside (--devices)"
                .into()
        });
    }
    // What no hook of a socket does is done at the host's end of a pod's device.
    if question.packet.origin == Origin::Pod && question.has_packet_path {
        return None;
    }
    if question.packet.origin == Origin::Pod && question.is_host_only == Some(true) {
        return Some("not carried out: sockets of pods are left to others (--socket-lb host)".into());
    }
    let kinds: &[&str] = match tuple.proto {
        Proto::TCP => &["connect"],
        Proto::UDP => &["connect", "sendmsg"],
        _ => return Some(format!("not carried out: no hook of a socket serves {}", tuple.proto)),
    };
    let family = if tuple.addr.is_v4() { 4 } else { 6 };
    let missing: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{kind}{family}"))
        .filter(|name| !question.hooks.contains(&**name))
        .collect();
    (!missing.is_empty()).then(|| format!("not carried out: not attached: {}", missing.join(", ")))
}
