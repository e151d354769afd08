//! The thread that reads the directory and follows its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::directory::Directory;
use super::tree::{Tree, Wake, unreadable_warning};
use crate::source::{Batch, SourceError, Warning};

/// How long the second half of a move between directories may take to show up.
const MOVE_PATIENCE: Duration = Duration::from_millis(5);
/// How often files are read again because others moved while they were read.
const SETTLE_ROUNDS: usize = 64;
/// How often something that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A directory that is being followed; dropping it ends the thread.
#[derive(Debug)]
pub struct Manifests {
    stop: OwnedFd,
    /// Its sender is gone with the thread.
    alive: oneshot::Receiver<()>,
}

impl Manifests {
    /// Follows a directory. The first batch is the listing of everything in it; each later one is what one wake-up
    /// found. A receiver that is slow holds the thread up, and changes merge meanwhile; one that is gone ends it.
    pub fn follow(
        directory: &Path,
        node_name: &str,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Self, SourceError> {
        let path = || directory.to_owned();
        fs::read_dir(directory).map_err(|source| SourceError::Directory { path: path(), source })?;
        let watch_error = |source| SourceError::Watch { path: path(), source };
        let tree = Tree::new(directory).map_err(watch_error)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| watch_error(error.into()))?;
        let stopped = stop.try_clone().map_err(watch_error)?;
        let follower = Follower {
            root: path(),
            tree,
            directory: Directory::new(node_name),
            is_listed: false,
            owes_scan: false,
            troubles: BTreeSet::new(),
        };
        let name = "manifests";
        let (life, alive) = oneshot::channel::<()>();
        let run = move || {
            // Dropped with the thread, also when it panics.
            let _life = life;
            follower.run(&stopped, &batches);
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|source| SourceError::Thread { name, source })?;
        Ok(Self { stop, alive })
    }

    /// Resolves when the thread has ended, which it does by itself only if it panics or its receiver is gone.
    pub async fn ended(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.alive).await;
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        // An eventfd takes a first count without fail; the thread ends at once, or when its receiver is gone.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

struct Follower {
    root: PathBuf,
    tree: Tree,
    directory: Directory,
    is_listed: bool,
    /// True if everything is to be looked at before the next wait.
    owes_scan: bool,
    /// What cannot be read or watched, as it was reported.
    troubles: BTreeSet<Warning>,
}

/// Why a wait ended.
enum Waited {
    Ready,
    TimedOut,
    Stopped,
}

impl Follower {
    fn run(mut self, stop: &OwnedFd, batches: &mpsc::Sender<Batch>) {
        let mut wake = Wake::scan();
        loop {
            let batch = self.look(wake);
            if !batch.is_empty() && batches.blocking_send(batch).is_err() {
                return;
            }
            if std::mem::take(&mut self.owes_scan) {
                wake = Wake::scan();
                continue;
            }
            let timeout = (!self.troubles.is_empty()).then_some(RETRY);
            wake = match self.wait(stop, timeout) {
                Ok(Waited::Stopped) => return,
                Ok(Waited::TimedOut) => Wake::scan(),
                Ok(Waited::Ready) => self.pending(stop),
                // Without its events the directory is looked at in turns, which is slower and no less right.
                Err(_) => {
                    std::thread::sleep(RETRY);
                    Wake::scan()
                }
            };
        }
    }

    fn wait(&self, stop: &OwnedFd, timeout: Option<Duration>) -> io::Result<Waited> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tree.as_fd(), PollFlags::IN),
        ];
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Waited::Ready),
            ready => ready?,
        };
        Ok(match ready {
            0 => Waited::TimedOut,
            _ if !fds[0].revents().is_empty() => Waited::Stopped,
            _ => Waited::Ready,
        })
    }

    /// The events that are there. The kernel queues the two halves of a move one after the other: a file moved to
    /// another name must not look deleted for a moment.
    fn pending(&mut self, stop: &OwnedFd) -> Wake {
        let mut wake = Wake::default();
        wake.needs_scan |= self.tree.drain(&mut wake).is_err();
        if wake.has_half_move() && matches!(self.wait(stop, Some(MOVE_PATIENCE)), Ok(Waited::Ready)) {
            wake.needs_scan |= self.tree.drain(&mut wake).is_err();
        }
        wake
    }

    fn look(&mut self, wake: Wake) -> Batch {
        let (mut paths, mut troubles) = (wake.files, BTreeSet::new());
        if wake.needs_scan {
            match self.tree.scan() {
                Ok(scan) => {
                    paths.extend(scan.changed);
                    troubles.extend(scan.troubles);
                }
                Err(error) => {
                    return self.report(BTreeSet::from([unreadable_warning(&self.root, &error)]));
                }
            }
        } else {
            troubles.clone_from(&self.troubles);
        }
        let mut batch = if self.is_listed {
            let changes = self.settled(paths, &mut troubles);
            self.directory.update(changes)
        } else {
            // Nothing can look deleted yet. One file at a time, since all of them may be more than fits in memory.
            self.is_listed = true;
            let tree = &mut self.tree;
            let read = |path| tree.read(path).map_err(|warning| troubles.insert(warning)).ok();
            self.directory.list(paths.into_iter().filter_map(read))
        };
        batch.warnings.append(&mut self.report(troubles).warnings);
        batch
    }

    /// Reads files until they stand still if one of them is gone: a file that moves while two places are looked at one
    /// after the other may be seen in neither.
    fn settled(
        &mut self,
        mut paths: BTreeSet<PathBuf>,
        troubles: &mut BTreeSet<Warning>,
    ) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut changes = BTreeMap::new();
        for _ in 0..SETTLE_ROUNDS {
            for path in std::mem::take(&mut paths) {
                match self.tree.read(path) {
                    Ok((path, content)) => drop(changes.insert(path, content)),
                    Err(warning) => drop(troubles.insert(warning)),
                }
            }
            if changes.values().all(Option::is_some) {
                break;
            }
            let mut wake = Wake::default();
            self.owes_scan |= self.tree.drain(&mut wake).is_err() || wake.needs_scan;
            paths = wake.files;
            if paths.is_empty() {
                break;
            }
        }
        changes
    }

    /// Remembers the troubles; says only what is new, since it is tried again and again.
    fn report(&mut self, troubles: BTreeSet<Warning>) -> Batch {
        let warnings = troubles.difference(&self.troubles).cloned().collect();
        self.troubles = troubles;
        Batch { events: Vec::new(), warnings }
    }
}
