//! Out: Events, where a user would look for them: on the Service, the EndpointSlice or the Node that something is to be
//! said about. Nothing depends on them.
//!
//! `notes` says what there is to tell, `ledger` whether and when it is told, `body` how; `writer` alone has an effect.
//! At most 25 Events are written at once and then one in 12 seconds, of those about one object 5 and then one a minute;
//! a hundred may wait, and the rest is in the log only. What comes again counts up its Event, every five minutes at most.
//!
//! Of what every agent finds alike, one tells: the name of the Event follows from what it says, and who comes second is
//! told that it exists.

mod body;
mod ledger;
mod notes;
mod writer;

pub use ledger::{Limits, Rate};
pub use notes::{Note, Reason};

use std::io;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::plan::claims::Conflict;
use crate::plan::desired::PlanWarning;
use crate::plan::diff::Refused;
use crate::plan::health_checks::Listener;
use crate::source::api::Kind;
use crate::source::kube::{Access, Bounds, Writing};
use crate::source::{Subject, Warning};
use writer::Writer;

/// Notes on their way to the writer.
const NOTES: usize = 256;
/// Looked at of what one batch has to tell: more would not be written.
const LOOKED_AT: usize = 100;

/// Through which the agent tells. It never waits.
#[derive(Debug)]
pub struct Recorder {
    notes: Option<mpsc::Sender<Note>>,
    node: Subject,
}

impl Recorder {
    /// Tells nobody.
    pub fn silent(node_name: &str) -> Self {
        let node = Subject { kind: Kind::Node, namespace: "".into(), name: node_name.into() };
        Self { notes: None, node }
    }

    /// Writes Events to an API server, from a thread of its own in the network namespace of the caller, which ends when
    /// this is dropped.
    pub fn start(access: Access, (bounds, limits): (Bounds, Limits), node_name: &str) -> io::Result<Self> {
        let (sender, notes) = mpsc::channel(NOTES);
        let writer = Writer::new(Writing::new(access, bounds), limits, node_name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || runtime.block_on(writer.run(notes)))?;
        Ok(Self { notes: Some(sender), ..Self::silent(node_name) })
    }

    /// Something about the own Node.
    pub fn note(&mut self, reason: Reason, text: impl Into<String>) {
        if self.notes.is_some() {
            self.send(Note { subject: self.node.clone(), reason, text: text.into() });
        }
    }

    /// What a source skipped.
    pub fn skipped(&mut self, warnings: &[Warning]) {
        if self.notes.is_some() {
            notes::of_warnings(warnings).take(LOOKED_AT).for_each(|note| self.send(note));
        }
    }

    /// What a plan did not put into the maps: what it refuses and the one before did not, and the conflicts and full
    /// views that it touches.
    pub fn planned(&mut self, refused: &[&Refused], conflicts: &[Conflict], warnings: &[PlanWarning]) {
        if self.notes.is_none() {
            return;
        }
        let node = &self.node;
        let refused = refused.iter().take(LOOKED_AT).map(|refusal| notes::of_refusal(refusal, node));
        let conflicts = conflicts.iter().take(LOOKED_AT).filter_map(|one| notes::of_conflict(one, node));
        let warnings = warnings.iter().take(LOOKED_AT).filter_map(|one| notes::of_plan_warning(one, node));
        let notes: Vec<Note> = refused.chain(conflicts).chain(warnings).collect();
        for note in notes {
            self.send(note);
        }
    }

    /// A socket for the health checks of a Service could not be opened.
    pub fn health_check_failed(&mut self, listener: &Listener, problem: &str) {
        if self.notes.is_some() {
            self.send(notes::of_health_check((listener, problem), &self.node));
        }
    }

    fn send(&mut self, note: Note) {
        match self.notes.as_ref().map(|notes| notes.try_send(note)) {
            None | Some(Ok(())) => {}
            Some(Err(mpsc::error::TrySendError::Full(note))) => {
                debug!(subject = %note.subject, "not told by an Event: too many at once");
            }
            Some(Err(mpsc::error::TrySendError::Closed(_))) => {
                warn!("the thread that writes Events has ended; the agent does without them");
                self.notes = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proxy_common::addr::{Addr, Port, Proto};
    use proxy_common::frontend::FrontendKey;
    use proxy_common::service::View;

    use super::*;

    fn recorder(room: usize) -> (Recorder, mpsc::Receiver<Note>) {
        let (sender, notes) = mpsc::channel(room);
        (Recorder { notes: Some(sender), ..Recorder::silent("node-1") }, notes)
    }

    fn refusal(name: &str) -> Refused {
        Refused { label: format!("shop/{name}:http/tcp").into(), table: "SLOTS" }
    }

    fn told(notes: &mut mpsc::Receiver<Note>) -> Vec<(String, Reason)> {
        let name = |note: Note| (note.subject.name.to_string(), note.reason);
        std::iter::from_fn(|| notes.try_recv().ok()).map(name).collect()
    }

    #[test]
    fn what_a_plan_leaves_out_is_told_on_its_services() {
        let (mut recorder, mut notes) = recorder(10);
        let key = FrontendKey::new(Addr::UNSPECIFIED, Port::new(80), Proto::TCP);
        let [a, b, c] = ["a", "b", "c"].map(|name| Arc::clone(&refusal(name).label));
        let conflict = Conflict { key, winner: Arc::clone(&a), loser: b };
        let full = PlanWarning::ViewFull { label: c, view: View::Cluster, left_out: 3 };
        recorder.planned(&[&refusal("a")], &[conflict], &[full]);
        let reasons = [("a", Reason::MapFull), ("b", Reason::FrontendTaken), ("c", Reason::ViewFull)];
        assert_eq!(told(&mut notes), reasons.map(|(name, reason)| (name.to_owned(), reason)));
    }

    #[test]
    fn a_writer_that_is_slow_or_gone_holds_nobody_up() {
        let (mut recorder, notes) = recorder(2);
        for _ in 0..5 {
            recorder.note(Reason::Ready, "ready");
        }
        assert_eq!(notes.len(), 2);
        drop(notes);
        recorder.note(Reason::Ready, "ready");
        assert!(recorder.notes.is_none());
        recorder.planned(&[&refusal("a")], &[], &[]);
    }

    #[test]
    fn a_thousand_refusals_of_one_batch_are_not_all_looked_at() {
        let (mut recorder, mut notes) = recorder(2000);
        let refused: Vec<Refused> = (0..1000).map(|index| refusal(&format!("s-{index}"))).collect();
        recorder.planned(&refused.iter().collect::<Vec<_>>(), &[], &[]);
        assert_eq!(told(&mut notes).len(), LOOKED_AT);
    }
}
