//! Events as the API wants them (events.k8s.io/v1).

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::notes::{Note, Scope};

/// `reportingController`.
const CONTROLLER: &str = "shunt";
/// What the API takes of `note`, in bytes.
const NOTE_BYTES: usize = 1024;
/// What the API takes of `reportingInstance`, in bytes.
const INSTANCE_BYTES: usize = 128;
/// What the API takes of a name, in bytes.
const NAME_BYTES: usize = 253;
/// Where Events are that are about what is in no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Who tells, and of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    /// What.
    pub(super) note: &'a Note,
    /// Uid of the object.
    pub(super) uid: &'a str,
    /// Name of the own Node.
    pub(super) node: &'a str,
    /// When it was seen.
    pub(super) at: Timestamp,
}

impl Told<'_> {
    /// The namespace of the Event: that of the object.
    pub(super) fn namespace(&self) -> &str {
        match &*self.note.subject.namespace {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        }
    }

    /// The name of the Event. It follows from what the Event says and of whom, so that agents that find the same make
    /// one Event of it, and an agent that starts again finds its own.
    pub(super) fn name(&self) -> String {
        let note = self.note;
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(text);
            hash.update([0]);
        };
        add(self.uid);
        add(note.reason.word());
        add(&note.text);
        match note.reason.scope() {
            Scope::Cluster => {}
            Scope::Node => add(self.node),
            Scope::Run => {
                add(self.node);
                add(&micros(self.at));
            }
        }
        let digest = hash.finalize();
        let number = digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let tail = format!("{number:016x}");
        let head = clipped(&note.subject.name, NAME_BYTES - tail.len() - 1).trim_end_matches(['-', '.']);
        format!("{head}.{tail}")
    }

    /// The Event.
    pub(super) fn event(&self) -> Value {
        let note = self.note;
        let subject = &note.subject;
        let mut regarding = json!({
            "apiVersion": subject.kind.api_version(), "kind": subject.kind.word(),
            "name": subject.name, "uid": self.uid,
        });
        if !subject.namespace.is_empty() {
            regarding["namespace"] = (*subject.namespace).into();
        }
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": { "namespace": self.namespace(), "name": self.name() },
            "eventTime": micros(self.at),
            "type": if note.reason.is_warning() { "Warning" } else { "Normal" },
            "reason": note.reason.word(), "action": note.reason.action(),
            "note": clipped(&note.text, NOTE_BYTES),
            "regarding": regarding,
            "reportingController": CONTROLLER,
            "reportingInstance": clipped(&format!("{CONTROLLER}-{}", self.node), INSTANCE_BYTES),
        })
    }
}

/// The fields that count an Event up.
pub(super) fn series(count: u32, last: Timestamp) -> Value {
    json!({ "series": { "count": count, "lastObservedTime": micros(last) } })
}

/// With six digits after the point, as `MicroTime` must be.
fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// As many whole characters as fit.
fn clipped(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::notes::Reason;
    use crate::source::Subject;
    use crate::source::api::Kind;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(micros).unwrap()
    }

    fn note(kind: Kind, namespace: &str, reason: Reason) -> Note {
        let subject = Subject { kind, namespace: namespace.into(), name: "web".into() };
        Note { subject, reason, text: "no".to_owned() }
    }

    #[test]
    fn an_event_is_as_the_api_wants_it() {
        let note = note(Kind::Service, "shop", Reason::InvalidField);
        let told = Told { note: &note, uid: "u-1", node: "node-1", at: at(1_700_000_000_000_000) };
        let event = told.event();
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.len() == "web.".len() + 16 && name.starts_with("web."), "{name}");
        assert_eq!(event["metadata"]["namespace"], "shop");
        assert_eq!(event["eventTime"], "2023-11-14T22:13:20.000000Z");
        assert_eq!(
            event["regarding"],
            json!({ "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u-1" })
        );
        let rest = ["type", "reason", "action", "note", "reportingController", "reportingInstance"];
        let rest = rest.map(|field| event[field].as_str().unwrap());
        assert_eq!(rest, ["Warning", "InvalidField", "Skip", "no", "shunt", "shunt-node-1"]);
    }

    #[test]
    fn what_is_in_no_namespace_is_told_in_default() {
        let note = note(Kind::Node, "", Reason::Starting);
        let event = Told { note: &note, uid: "web", node: "web", at: at(0) }.event();
        assert_eq!(event["metadata"]["namespace"], "default");
        assert!(event["regarding"].get("namespace").is_none(), "{event}");
        assert_eq!(event["type"], "Normal");
    }

    #[test]
    fn nodes_share_the_name_of_what_all_of_them_find() {
        let name = |reason, node, micros| {
            let note = note(Kind::Service, "shop", reason);
            Told { note: &note, uid: "u", node, at: at(micros) }.name()
        };
        let shared = Reason::InvalidField;
        assert_eq!(name(shared, "a", 1), name(shared, "b", 2));
        assert_ne!(name(Reason::MapFull, "a", 1), name(Reason::MapFull, "b", 1));
        assert_eq!(name(Reason::MapFull, "a", 1), name(Reason::MapFull, "a", 2));
        assert_ne!(name(Reason::Starting, "a", 1), name(Reason::Starting, "a", 2));
        let other = note(Kind::Service, "shop", shared);
        let of_uid = |uid| Told { note: &other, uid, node: "a", at: at(1) }.name();
        assert_ne!(of_uid("u"), of_uid("v"), "an object that was made anew has Events of its own");
    }

    #[test]
    fn everything_fits() {
        let subject = Subject {
            kind: Kind::EndpointSlice,
            namespace: "shop".into(),
            name: format!("{}-{}", "a".repeat(235), "b".repeat(17)).into(),
        };
        let note = Note { subject, reason: Reason::InvalidField, text: "ä".repeat(600) };
        let told = Told { note: &note, uid: "u", node: &"n".repeat(253), at: at(0) };
        let event = told.event();
        let name = told.name();
        assert!(name.len() <= NAME_BYTES && name.contains("a."), "{name}: no dash before a dot");
        assert_eq!(event["note"].as_str().unwrap().len(), NOTE_BYTES);
        assert_eq!(event["reportingInstance"].as_str().unwrap().len(), INSTANCE_BYTES);
    }

    #[test]
    fn a_series_says_how_often_and_when_last() {
        let fields = series(3, at(1));
        assert_eq!(
            fields,
            json!({ "series": { "count": 3, "lastObservedTime": "1970-01-01T00:00:00.000001Z" } })
        );
    }
}
