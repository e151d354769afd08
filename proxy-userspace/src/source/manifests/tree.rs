//! The files below a directory, and the inotify watches that tell of their changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::FileChange;
use crate::source::Warning;

/// Room for some hundred events; more are read in turns.
const BUFFER: usize = 16 * 1024;

/// A directory with all that is below it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    inotify: OwnedFd,
    watches: HashMap<i32, PathBuf>,
    /// Every file that was delivered and has not gone since. Without a stamp, the next scan reads it again.
    files: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What tells that a file is another one than when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What the pending events say.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// Files to look at.
    pub(super) files: BTreeSet<PathBuf>,
    /// True if only a look at everything will do: directories came or went, or events were lost.
    pub(super) needs_scan: bool,
    /// Moves whose other half has not been seen yet, by cookie.
    half_moves: BTreeSet<u32>,
}

/// What a look at everything found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Files that are new, changed or gone.
    pub(super) changed: Vec<PathBuf>,
    /// Directories that cannot be listed, so that what was below them stands, or not watched.
    pub(super) troubles: Vec<Warning>,
}

impl Wake {
    /// A look at everything.
    pub(super) fn scan() -> Self {
        Self { needs_scan: true, ..Self::default() }
    }

    /// True if a file was moved away, perhaps to a place that an event still to come will name.
    pub(super) fn has_half_move(&self) -> bool {
        !self.half_moves.is_empty()
    }
}

impl Tree {
    /// Watches nothing yet: the first [`Tree::scan`] does.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { root: root.to_owned(), inotify, watches: HashMap::new(), files: BTreeMap::new() })
    }

    /// Becomes readable with the next event.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Looks at every directory and file. Fails if the root cannot be listed, and then changes nothing but the
    /// watches: whatever moved away with the root must not be taken for its content.
    pub(super) fn scan(&mut self) -> io::Result<Scan> {
        let mut walk = Walk::new(self.inotify.as_fd());
        let mut pending = Vec::new();
        let listed = walk.list(&self.root, &mut pending);
        let mut unreadable: Vec<(PathBuf, io::Error)> = Vec::new();
        while let Some(directory) = pending.pop() {
            match walk.list(&directory, &mut pending) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => unreadable.push((directory, error)),
                _ => {}
            }
        }
        let Walk { found, watches, unwatched, .. } = walk;
        for watch in std::mem::replace(&mut self.watches, watches).into_keys() {
            if !self.watches.contains_key(&watch) {
                // The kernel may have dropped it already, together with the directory.
                let _ = inotify::remove_watch(&self.inotify, watch);
            }
        }
        listed?;
        let is_hidden = |path: &Path| unreadable.iter().any(|(directory, _)| path.starts_with(directory));
        let mut changed: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| !found.contains_key(*path) && !is_hidden(path))
            .cloned()
            .collect();
        let is_new = |path: &PathBuf, stamp: &Option<Stamp>| {
            stamp.is_none() || self.files.get(path).is_none_or(|known| known != stamp)
        };
        changed.extend(found.into_iter().filter(|(path, stamp)| is_new(path, stamp)).map(|(path, _)| path));
        let mut troubles = unwatched;
        troubles.extend(unreadable.iter().map(|(path, error)| unreadable_warning(path, error)));
        Ok(Scan { changed, troubles })
    }

    /// Reads a file that an event or a scan named; the error says why it cannot be read.
    pub(super) fn read(&mut self, path: PathBuf) -> Result<FileChange, Warning> {
        match read_stamped(&path) {
            Ok((stamp, bytes)) => {
                self.files.insert(path.clone(), Some(stamp));
                Ok((path, Some(bytes)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(&path);
                Ok((path, None))
            }
            Err(error) => {
                self.files.insert(path.clone(), None);
                Err(unreadable_warning(&path, &error))
            }
        }
    }

    /// Takes all pending events in.
    pub(super) fn drain(&mut self, wake: &mut Wake) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => take_event(&event, &mut self.watches, &self.root, wake),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn take_event(event: &inotify::Event<'_>, watches: &mut HashMap<i32, PathBuf>, root: &Path, wake: &mut Wake) {
    let flags = event.events();
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        wake.needs_scan = true;
    }
    if flags.contains(ReadFlags::IGNORED) {
        watches.remove(&event.wd());
        return;
    }
    let Some(directory) = watches.get(&event.wd()) else { return };
    if flags.contains(ReadFlags::MOVED_FROM) {
        wake.half_moves.insert(event.cookie());
    } else if flags.contains(ReadFlags::MOVED_TO) {
        wake.half_moves.remove(&event.cookie());
    }
    let Some(name) = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())) else {
        // The directory itself went. One below the root is also news of its parent.
        wake.needs_scan |= directory == root;
        return;
    };
    if name.as_bytes().starts_with(b"..") {
        // The links into a mounted config map all change when the folder link `..data` is replaced.
        wake.needs_scan = true;
    } else if flags.contains(ReadFlags::ISDIR) {
        wake.needs_scan |= !is_hidden(name);
    } else if is_manifest(name) {
        let path = directory.join(name);
        if !flags.contains(ReadFlags::CREATE) || !awaits_close(&path) {
            wake.files.insert(path);
        }
    }
}

/// A look at everything, while it runs.
struct Walk<'a> {
    inotify: BorrowedFd<'a>,
    found: BTreeMap<PathBuf, Option<Stamp>>,
    watches: HashMap<i32, PathBuf>,
    unwatched: Vec<Warning>,
}

impl<'a> Walk<'a> {
    fn new(inotify: BorrowedFd<'a>) -> Self {
        Self { inotify, found: BTreeMap::new(), watches: HashMap::new(), unwatched: Vec::new() }
    }

    /// Lists a directory; the watch is there before the look, so that nothing falls between.
    fn list(&mut self, directory: &Path, pending: &mut Vec<PathBuf>) -> io::Result<()> {
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(self.inotify, directory, events);
        for entry in fs::read_dir(directory)? {
            self.take(&entry?, pending);
        }
        match watch {
            Ok(watch) => {
                self.watches.insert(watch, directory.to_owned());
            }
            Err(error) => self.unwatched.push(Warning {
                object: directory.display().to_string(),
                field: String::new(),
                problem: format!("cannot be watched ({error}); it is looked at again and again instead"),
                about: None,
            }),
        }
        Ok(())
    }

    /// Whatever went since the directory was listed is not there: its event will say so as well.
    fn take(&mut self, entry: &fs::DirEntry, pending: &mut Vec<PathBuf>) {
        let name = entry.file_name();
        if is_hidden(&name) {
            return;
        }
        if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            pending.push(entry.path());
        } else if is_manifest(&name) {
            let path = entry.path();
            match stamp_of(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                stamp => {
                    self.found.insert(path, stamp.ok());
                }
            }
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().map(OsStr::as_bytes);
    !is_hidden(name) && matches!(extension, Some(b"yaml" | b"yml" | b"json"))
}

/// A file that was just created is empty until its writer closes it, which is an event of its own. Links are whole at
/// once, and nobody closes them.
fn awaits_close(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// Of the file that a link points to. Anything but a file is an error: opening a pipe might never return.
fn stamp_of(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a file"));
    }
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The stamp is older than the bytes: a file that changes in between is read once more than needed.
fn read_stamped(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let stamp = stamp_of(path)?;
    Ok((stamp, fs::read(path)?))
}

/// For whatever is there and cannot be opened.
pub(super) fn unreadable_warning(path: &Path, error: &io::Error) -> Warning {
    Warning {
        object: path.display().to_string(),
        field: String::new(),
        problem: format!("{error}; what it said before stands"),
        about: None,
    }
}
