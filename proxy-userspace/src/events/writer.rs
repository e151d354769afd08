//! The thread that writes Events. Nobody waits for it: what it cannot write is dropped.

use std::time::Instant;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::body::{self, Told};
use super::ledger::{Ended, Ledger, Limits, Next, Now, Write};
use super::notes::{Note, Scope};
use crate::source::api::Kind;
use crate::source::kube::{Unwritten, Writing};

/// Writes what comes in through its channel.
#[derive(Debug)]
pub(super) struct Writer {
    writing: Writing,
    ledger: Ledger,
    limits: Limits,
    /// Name of the own Node.
    node: String,
    epoch: Instant,
    /// Whether it was said in the log that nothing can be written.
    has_complained: bool,
}

impl Writer {
    pub(super) fn new(writing: Writing, limits: Limits, node: &str) -> Self {
        Self {
            writing,
            ledger: Ledger::new(limits),
            limits,
            node: node.to_owned(),
            epoch: Instant::now(),
            has_complained: false,
        }
    }

    /// Goes on until there is nobody to tell anything.
    pub(super) async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        loop {
            let note = match self.ledger.next(self.epoch.elapsed()) {
                Next::Write(write) => {
                    self.write(&write).await;
                    None
                }
                Next::At(moment) => {
                    self.writing.rest();
                    let due = tokio::time::sleep_until((self.epoch + moment).into());
                    tokio::select! {
                        note = notes.recv() => match note {
                            Some(note) => Some(note),
                            None => return,
                        },
                        () = due => None,
                    }
                }
                Next::Nothing => {
                    self.writing.rest();
                    let Some(note) = notes.recv().await else { return };
                    Some(note)
                }
            };
            let mut note = note.or_else(|| notes.try_recv().ok());
            while let Some(seen) = note {
                self.observe(seen);
                note = notes.try_recv().ok();
            }
        }
    }

    fn observe(&mut self, note: Note) {
        let now = Now { moment: self.epoch.elapsed(), wall: Timestamp::now() };
        let delay = match note.reason.scope() {
            Scope::Cluster => self.limits.spread * u32::from(share(&self.node, &note.text)) / 255,
            Scope::Node | Scope::Run => std::time::Duration::ZERO,
        };
        let before = self.ledger.dropped();
        self.ledger.observe(note, now, delay);
        if self.ledger.dropped() > before {
            debug!("more to tell than Events may be written; the rest is in the log only");
        }
    }

    async fn write(&mut self, write: &Write) {
        let how = match self.attempt(write).await {
            Ok(ended) => {
                if std::mem::take(&mut self.has_complained) {
                    info!("Events are written again");
                }
                ended
            }
            Err(Unwritten::Exists) => Ended::Told,
            Err(Unwritten::Absent(_)) if write.event.is_some() => Ended::Expired,
            Err(Unwritten::Absent(reason)) => {
                debug!(subject = %write.note.subject, reason, "an Event has no place any more");
                Ended::Hopeless
            }
            Err(error @ Unwritten::Refused(_)) => {
                warn!(subject = %write.note.subject, %error, "an Event was refused");
                Ended::Hopeless
            }
            Err(error @ Unwritten::Denied(_)) => {
                self.complain(&error);
                Ended::Denied
            }
            Err(error @ Unwritten::Later(_)) => {
                self.complain(&error);
                Ended::Later
            }
        };
        self.ledger.ended(write, how, self.epoch.elapsed());
    }

    async fn attempt(&mut self, write: &Write) -> Result<Ended, Unwritten> {
        let note = &write.note;
        let uid = match note.subject.kind {
            // As the kubelet and kube-proxy do: they cannot know more when they start, and kubectl looks for both.
            Kind::Node => Some(note.subject.name.to_string()),
            _ => self.writing.find_uid(&note.subject).await?,
        };
        let Some(uid) = uid else { return Ok(Ended::Hopeless) };
        let told = Told { note, uid: &uid, node: &self.node, at: write.first };
        if let Some(name) = &write.event {
            let fields = body::series(write.count, write.last);
            self.writing.patch_event((told.namespace(), name), &fields).await?;
            return Ok(Ended::Written(name.clone()));
        }
        self.writing.create_event(told.namespace(), &told.event()).await?;
        Ok(Ended::Written(told.name()))
    }

    /// Once, until something could be written again.
    fn complain(&mut self, error: &Unwritten) {
        if !std::mem::replace(&mut self.has_complained, true) {
            warn!(%error, "Events cannot be written; the agent does without them");
        }
    }
}

/// A number that each node has for itself.
fn share(node: &str, text: &str) -> u8 {
    Sha256::new().chain_update(node).chain_update(text).finalize()[0]
}
