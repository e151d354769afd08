//! Names of scratch objects, and the removal of those that a killed run left behind.
//!
//! A name carries the id and the start time of the process that made the object, so a leftover is recognised
//! for certain and nothing of a run that is still alive is ever touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};

use crate::{cgroup, netns};

/// What every scratch object's name starts with.
pub const PREFIX: &str = "shunt-test-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name for a new scratch object of this process; sweeps first if this process has not done so yet.
///
/// `label` may hold letters, digits and underscores.
pub fn scratch_name(label: &str) -> String {
    static SWEPT: OnceLock<()> = OnceLock::new();
    SWEPT.get_or_init(sweep);
    let pid = std::process::id();
    let started = start_time(pid).unwrap_or(0);
    format!("{PREFIX}{pid}-{started}-{}-{label}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A new, empty directory for scratch files of this process.
///
/// Removed by the sweep of a later run, or by its owner.
pub fn scratch_dir(label: &str) -> std::io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(scratch_name(label));
    fs::create_dir(&dir)?;
    Ok(dir)
}

/// Removes the scratch objects of processes that are gone, and says so on standard error.
///
/// Processes go first, then mounts and files, then namespaces: nothing is removed below something that uses it.
/// A failure is reported and does not stop the sweep, as another run may be sweeping too.
fn sweep() {
    for dir in stale_entries(&cgroup::mount_point().unwrap_or_default()) {
        report("cgroup", &dir, cgroup::remove(&dir));
    }
    for dir in stale_entries(&std::env::temp_dir()) {
        // Most scratch directories are no mount points, and then there is nothing to detach.
        let _ = unmount(&dir, UnmountFlags::DETACH);
        report("directory", &dir, fs::remove_dir_all(&dir).map_err(Into::into));
    }
    for path in stale_entries(Path::new(netns::DIR)) {
        report("network namespace", &path, netns::delete(&file_name(&path)));
    }
}

fn report(what: &str, path: &Path, outcome: anyhow::Result<()>) {
    match outcome {
        Ok(()) => eprintln!("sweep: removed {what} {} of an earlier run", path.display()),
        Err(error) => eprintln!("sweep: {what} {} stays: {error:#}", path.display()),
    }
}

fn stale_entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| is_stale(&file_name(path))).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether `name` is a scratch name whose process is gone.
fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut parts = rest.split('-');
    let owner =
        (parts.next().and_then(|pid| pid.parse().ok()), parts.next().and_then(|time| time.parse().ok()));
    match owner {
        (Some(pid), Some(started)) => start_time(pid) != Some(started),
        _ => false,
    }
}

/// When process `pid` started, in ticks since boot; none if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold spaces; the fields after it don't. The start is field 22.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_objects_are_never_stale() {
        assert!(!is_stale(&scratch_name("a")));
    }

    #[test]
    fn objects_of_a_process_that_is_gone_are_stale() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let name = format!("{PREFIX}{pid}-{}-0-a", start_time(pid).unwrap());
        assert!(!is_stale(&name));
        child.wait().unwrap();
        assert!(is_stale(&name));
    }

    #[test]
    fn a_reused_process_id_does_not_protect_a_leftover() {
        let pid = std::process::id();
        assert!(is_stale(&format!("{PREFIX}{pid}-{}-0-a", start_time(pid).unwrap() + 1)));
    }

    #[test]
    fn foreign_names_are_left_alone() {
        for name in ["shunt-test-", "shunt-test-x-1-0-a", "cni-12-13", "init.scope", "shunt-test-99999999"] {
            assert!(!is_stale(name), "{name}");
        }
    }
}
