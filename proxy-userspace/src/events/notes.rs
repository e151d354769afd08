//! What there is to tell, purely: which Events follow from what a source skipped and a plan had no room for.

use std::fmt::Write;

use crate::model::ObjectName;
use crate::plan::claims::Conflict;
use crate::plan::desired::PlanWarning;
use crate::plan::diff::Refused;
use crate::plan::health_checks::Listener;
use crate::source::api::Kind;
use crate::source::{Subject, Warning};

/// One thing to tell a user beside the object that it is about. Two that are equal are the same Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// The object.
    pub subject: Subject,
    /// What it is, in one word.
    pub reason: Reason,
    /// What it is, in a sentence.
    pub text: String,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent starts.
    Starting,
    /// The maps hold what the sources say, and the hooks are attached.
    Ready,
    /// The host makes something impossible.
    HostLimitation,
    /// A field makes no sense and was skipped.
    InvalidField,
    /// A map has no room.
    MapFull,
    /// A service port has more endpoints than a view can hold.
    ViewFull,
    /// Another service port has the frontend.
    FrontendTaken,
    /// There is no socket to answer the Service's health checks; named as kube-proxy does.
    HealthCheckFailed,
}

/// For whom a note is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every agent of the cluster finds it alike, so that one of them need tell it.
    Cluster,
    /// Each node has its own.
    Node,
    /// Each run of an agent has its own.
    Run,
}

impl Reason {
    /// `reason` of the Event.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::HostLimitation => "HostLimitation",
            Self::InvalidField => "InvalidField",
            Self::MapFull => "MapFull",
            Self::ViewFull => "ViewFull",
            Self::FrontendTaken => "FrontendTaken",
            Self::HealthCheckFailed => "FailedToStartServiceHealthcheck",
        }
    }

    /// `action` of the Event: what the agent did.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Starting | Self::HostLimitation => "Start",
            Self::Ready => "Attach",
            Self::InvalidField => "Skip",
            Self::MapFull => "Refuse",
            Self::ViewFull => "LeaveOut",
            Self::FrontendTaken => "LeaveToHolder",
            Self::HealthCheckFailed => "Listen",
        }
    }

    /// Whether somebody should look after it.
    pub const fn is_warning(self) -> bool {
        !matches!(self, Self::Starting | Self::Ready)
    }

    /// For whom it is the same.
    pub(super) const fn scope(self) -> Scope {
        match self {
            Self::Starting | Self::Ready => Scope::Run,
            Self::HostLimitation
            | Self::MapFull
            | Self::ViewFull
            | Self::FrontendTaken
            | Self::HealthCheckFailed => Scope::Node,
            Self::InvalidField => Scope::Cluster,
        }
    }
}

/// What a source skipped, one note for each object; what is no object has no note.
///
/// The warnings of one object follow each other.
pub(super) fn of_warnings(warnings: &[Warning]) -> impl Iterator<Item = Note> {
    warnings.chunk_by(|one, next| one.about == next.about).filter_map(|of_one| {
        let first = of_one.first()?;
        let subject = first.about.clone()?;
        let mut text = match &*first.field {
            "" => first.problem.clone(),
            field => format!("{field}: {}", first.problem),
        };
        if of_one.len() > 1 {
            // Writing to a string cannot fail.
            let _ = write!(text, " (and {} more of this object)", of_one.len() - 1);
        }
        Some(Note { subject, reason: Reason::InvalidField, text })
    })
}

/// What the maps have no room for: on its Service, or on the Node if it belongs to none.
pub(super) fn of_refusal(refused: &Refused, node: &Subject) -> Note {
    let Refused { label, table } = refused;
    let subject = refused.service().and_then(service_of).unwrap_or_else(|| node.clone());
    let text = format!("{label} is not served on node {}: the map {table} is full", node.name);
    Note { subject, reason: Reason::MapFull, text }
}

/// What a Service has more of than can be served, on it. Numbers stay out of the text: they change, and the Event is to be
/// counted up and not to be followed by another.
pub(super) fn of_plan_warning(warning: &PlanWarning, node: &Subject) -> Option<Note> {
    let subject = service_of(warning.label())?;
    let PlanWarning::ViewFull { label, view, .. } = warning;
    let text = format!(
        "{label} is served in part on node {}: its {view:?} view is full, and endpoints beyond it get no connections",
        node.name
    );
    Some(Note { subject, reason: Reason::ViewFull, text })
}

/// A frontend that two service ports claim, on the Service that goes without; none if that is not known by name yet.
pub(super) fn of_conflict(conflict: &Conflict, node: &Subject) -> Option<Note> {
    let Conflict { key, winner, loser } = conflict;
    let subject = service_of(loser)?;
    let text = format!("{key} is not served for {loser} on node {}: {winner} has it", node.name);
    Some(Note { subject, reason: Reason::FrontendTaken, text })
}

/// The Service that a service port's label (`namespace/name:port/protocol`) names.
/// Health checks that are not answered, on the Service that a load balancer does not send here for it.
pub(super) fn of_health_check((listener, problem): (&Listener, &str), node: &Subject) -> Note {
    let Listener { service, address } = listener;
    let text =
        format!("node {} cannot answer the health checks of {service} at {address}: {problem}", node.name);
    Note { subject: of_service(service), reason: Reason::HealthCheckFailed, text }
}

fn service_of(label: &str) -> Option<Subject> {
    let (service, _) = label.split_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    Some(of_service(&ObjectName::new(namespace, name)))
}

fn of_service(name: &ObjectName) -> Subject {
    Subject { kind: Kind::Service, namespace: name.namespace().into(), name: name.name().into() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proxy_common::addr::{Addr, Port, Proto};
    use proxy_common::frontend::FrontendKey;
    use proxy_common::service::View;

    use super::*;

    fn node() -> Subject {
        Subject { kind: Kind::Node, namespace: "".into(), name: "node-1".into() }
    }

    fn service(name: &str) -> Subject {
        Subject { kind: Kind::Service, namespace: "shop".into(), name: name.into() }
    }

    fn warning(about: Option<Subject>, field: &str) -> Warning {
        Warning { object: "o".to_owned(), field: field.to_owned(), problem: "no".to_owned(), about }
    }

    #[test]
    fn an_object_has_one_note_whatever_is_wrong_with_it() {
        let warnings = [
            warning(Some(service("a")), "spec.x"),
            warning(Some(service("a")), "spec.y"),
            warning(Some(service("b")), ""),
            warning(None, "line 7"),
        ];
        let notes: Vec<Note> = of_warnings(&warnings).collect();
        let told: Vec<_> = notes.iter().map(|note| (&*note.subject.name, &*note.text)).collect();
        assert_eq!(told, [("a", "spec.x: no (and 1 more of this object)"), ("b", "no")]);
        assert!(notes.iter().all(|note| note.reason == Reason::InvalidField));
    }

    #[test]
    fn a_refusal_is_told_on_the_service_or_else_on_the_node() {
        let refused = |label: &str| Refused { label: label.into(), table: "SLOTS" };
        let port = of_refusal(&refused("shop/web:http/tcp"), &node());
        assert_eq!(port.subject, service("web"));
        assert_eq!(port.text, "shop/web:http/tcp is not served on node node-1: the map SLOTS is full");
        for label in
            ["node address fd00::1", "service range 10.96.0.0", "refusal of unknown ports of fd00::1"]
        {
            assert_eq!(of_refusal(&refused(label), &node()).subject, node(), "{label}");
        }
    }

    #[test]
    fn a_view_that_is_full_is_one_event_however_many_endpoints_it_leaves_out() {
        let full = |left_out| {
            let label = "shop/web:http/tcp".into();
            of_plan_warning(&PlanWarning::ViewFull { label, view: View::Internal, left_out }, &node())
                .unwrap()
        };
        let note = full(1);
        assert_eq!((&note.subject, note.reason), (&service("web"), Reason::ViewFull));
        assert_eq!(
            note.text,
            "shop/web:http/tcp is served in part on node node-1: its Internal view is full, and endpoints beyond it get \
             no connections"
        );
        assert_eq!(full(2), note);
    }

    #[test]
    fn a_conflict_is_told_on_the_service_that_goes_without() {
        let addr = Addr::from(IpAddr::from([192, 0, 2, 1]));
        let key = FrontendKey::new(addr, Port::new(80), Proto::TCP);
        let conflict = |loser: &str| Conflict { key, winner: "shop/a:http/tcp".into(), loser: loser.into() };
        let note = of_conflict(&conflict("shop/b:http/tcp"), &node()).unwrap();
        assert_eq!((note.subject, note.reason), (service("b"), Reason::FrontendTaken));
        assert_eq!(
            note.text,
            "192.0.2.1:80/tcp is not served for shop/b:http/tcp on node node-1: shop/a:http/tcp has it"
        );
        assert_eq!(of_conflict(&conflict("adopted-0000000000000001"), &node()), None);
    }

    #[test]
    fn a_health_check_that_is_not_answered_is_told_on_its_service() {
        let address = ([0, 0, 0, 0], 31_000).into();
        let listener = Listener { service: ObjectName::new("shop", "web"), address };
        let note = of_health_check((&listener, "Address already in use (os error 98)"), &node());
        assert_eq!((&note.subject, note.reason.word()), (&service("web"), "FailedToStartServiceHealthcheck"));
        assert_eq!(
            note.text,
            "node node-1 cannot answer the health checks of shop/web at 0.0.0.0:31000: Address already in use (os \
             error 98)"
        );
    }

    #[test]
    fn words_are_as_the_api_wants_them() {
        let all = [
            Reason::Starting,
            Reason::Ready,
            Reason::HostLimitation,
            Reason::InvalidField,
            Reason::MapFull,
            Reason::ViewFull,
            Reason::FrontendTaken,
            Reason::HealthCheckFailed,
        ];
        for reason in all {
            for word in [reason.word(), reason.action()] {
                assert!(word.bytes().all(|byte| byte.is_ascii_alphabetic()) && word.len() <= 128, "{word}");
            }
        }
    }
}
