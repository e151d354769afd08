//! From what a watch says to batches of events, purely: what a listing starts and ends, what counts as gone, and how
//! long the own Node is waited for.

use serde_json::value::RawValue;

use super::resource::{Resource, Said};
use crate::model::Event;
use crate::source::Batch;
use crate::source::convert::Interner;

/// Events to a batch of a listing.
const FULL: usize = 256;

/// What one watch has said and has not been handed on.
#[derive(Debug)]
pub(super) struct Batcher {
    resource: Resource,
    names: Interner,
    pending: Batch,
    /// Whether a listing has ended, so that nobody waits for the first any more.
    has_ended: bool,
    /// Whether the own Node was applied since the listing started.
    has_node: bool,
    /// Whether there was a Node of this name that made no sense.
    has_bad_node: bool,
}

impl Batcher {
    pub(super) fn new(resource: Resource) -> Self {
        let (names, pending) = (Interner::default(), Batch::default());
        Self { resource, names, pending, has_ended: false, has_node: false, has_bad_node: false }
    }

    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Whether a listing has ended, so that nobody waits for the first any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// A listing starts, or starts again after it broke off.
    pub(super) fn start(&mut self) {
        self.has_node = false;
        self.push(Event::ListStarted(self.resource.listing()));
    }

    /// An object is there. Returns where the watch goes on after it.
    pub(super) fn apply(&mut self, object: &RawValue) -> String {
        let said = self.resource.applied(object, &mut self.names);
        let is_node = matches!(said.event, Some(Event::NodeApplied(_)));
        self.has_bad_node |= matches!(said.event, Some(Event::NodeKept));
        let version = self.take_in(said);
        if is_node {
            self.has_node = true;
            if !self.has_ended {
                self.push_end();
            }
        }
        version
    }

    /// An object is gone. Returns where the watch goes on after it.
    pub(super) fn delete(&mut self, object: &RawValue) -> String {
        let said = self.resource.deleted(object);
        self.take_in(said)
    }

    /// The listing is complete. The first one of a Node that does not exist is held back, until the Node comes into
    /// being or [`Batcher::give_up_node`]; false if so.
    pub(super) fn end(&mut self) -> bool {
        let is_held = matches!(self.resource, Resource::Node(_)) && !self.has_node && !self.has_ended;
        // The Node itself has ended its first listing.
        let is_said = self.has_node && self.pending.events.last() == Some(&self.ended());
        if !is_held && !is_said {
            self.push_end();
        }
        !is_held
    }

    /// Goes on without the Node.
    pub(super) fn give_up_node(&mut self) {
        if let (Resource::Node(name), false) = (&self.resource, self.has_ended) {
            let problem = if self.has_bad_node {
                "makes no sense as it is; going on without its zone and addresses until it does"
            } else {
                "not found; going on without its zone and addresses until it comes into being"
            };
            let subject = self.resource.subject("", name);
            self.pending.warnings.push(subject.warning(String::new(), problem.to_owned()));
            self.empty();
        }
    }

    /// There is nothing to list.
    pub(super) fn empty(&mut self) {
        self.start();
        self.push_end();
    }

    /// Whether a batch is worth handing on in the midst of a listing.
    pub(super) fn is_full(&self) -> bool {
        self.pending.events.len() >= FULL
    }

    /// Whether there is nothing to hand on.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is to be handed on.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.pending)
    }

    fn take_in(&mut self, said: Said) -> String {
        self.pending.events.extend(said.event);
        self.pending.warnings.extend(said.warnings);
        said.version
    }

    fn push(&mut self, event: Event) {
        self.pending.events.push(event);
    }

    fn push_end(&mut self) {
        self.has_ended = true;
        self.push(self.ended());
    }

    fn ended(&self) -> Event {
        Event::ListEnded(self.resource.listing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Listing;

    fn named(name: &str) -> Box<RawValue> {
        let cidrs = ["10.0.0.0/16"];
        let object = serde_json::json!({
            "metadata": { "name": name, "resourceVersion": "5" }, "spec": { "cidrs": cidrs },
        });
        serde_json::value::to_raw_value(&object).unwrap()
    }

    /// One word for each event.
    fn words(batcher: &mut Batcher) -> Vec<&'static str> {
        let word = |event: &Event| match event {
            Event::ListStarted(_) => "start",
            Event::ListEnded(_) => "end",
            Event::NodeApplied(_) | Event::ServiceCidrApplied(_) => "applied",
            Event::NodeDeleted | Event::ServiceCidrDeleted(_) => "deleted",
            _ => "other",
        };
        batcher.take().events.iter().map(word).collect()
    }

    #[test]
    fn a_relist_says_what_is_there_and_never_what_is_gone() {
        let mut batcher = Batcher::new(Resource::ServiceCidrs);
        batcher.start();
        assert_eq!(batcher.apply(&named("a")), "5");
        assert!(batcher.end() && batcher.has_ended());
        assert_eq!(words(&mut batcher), ["start", "applied", "end"]);
        batcher.apply(&named("a"));
        batcher.delete(&named("a"));
        assert_eq!(words(&mut batcher), ["applied", "deleted"]);
        batcher.start();
        // It broke off, and starts anew.
        batcher.start();
        batcher.end();
        assert_eq!(words(&mut batcher), ["start", "start", "end"]);
        assert!(batcher.is_empty());
    }

    #[test]
    fn a_node_that_exists_ends_its_listing_once() {
        let mut batcher = Batcher::new(Resource::Node("n".into()));
        batcher.start();
        batcher.apply(&named("n"));
        assert!(batcher.end());
        assert_eq!(words(&mut batcher), ["start", "applied", "end"]);
        batcher.start();
        batcher.apply(&named("n"));
        assert!(batcher.end());
        assert_eq!(words(&mut batcher), ["start", "applied", "end"]);
    }

    #[test]
    fn a_node_that_does_not_exist_is_waited_for() {
        let mut batcher = Batcher::new(Resource::Node("n".into()));
        batcher.start();
        assert!(!batcher.end() && !batcher.has_ended());
        assert_eq!(words(&mut batcher), ["start"]);
        batcher.apply(&named("n"));
        assert_eq!(words(&mut batcher), ["applied", "end"]);
        // Once known, it may go: no listing is held back again.
        batcher.delete(&named("n"));
        batcher.start();
        assert!(batcher.end());
        assert_eq!(words(&mut batcher), ["deleted", "start", "end"]);
        batcher.give_up_node();
        assert!(batcher.is_empty());
    }

    #[test]
    fn a_node_that_never_comes_is_named_once() {
        let mut batcher = Batcher::new(Resource::Node("n".into()));
        batcher.give_up_node();
        batcher.give_up_node();
        let batch = batcher.take();
        assert_eq!(batch.events, [Event::ListStarted(Listing::Node), Event::ListEnded(Listing::Node)]);
        assert_eq!(batch.warnings.len(), 1);
        assert!(batch.warnings[0].to_string().starts_with("Node n: not found"), "{}", batch.warnings[0]);
    }

    #[test]
    fn a_node_that_makes_no_sense_is_not_said_to_be_missing() {
        let mut batcher = Batcher::new(Resource::Node("n".into()));
        batcher.start();
        let bad = serde_json::json!({ "metadata": { "name": "n" }, "spec": { "taints": 7 } });
        batcher.apply(&serde_json::value::to_raw_value(&bad).unwrap());
        assert!(!batcher.end());
        batcher.give_up_node();
        let warnings: Vec<String> = batcher.take().warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("Node n: spec.taints: "), "{warnings:?}");
        assert!(warnings[1].starts_with("Node n: makes no sense as it is"), "{warnings:?}");
    }

    #[test]
    fn a_long_listing_is_handed_on_in_parts() {
        let mut batcher = Batcher::new(Resource::ServiceCidrs);
        batcher.start();
        for _ in 1..FULL {
            assert!(!batcher.is_full());
            batcher.apply(&named("a"));
        }
        assert!(batcher.is_full());
    }
}
