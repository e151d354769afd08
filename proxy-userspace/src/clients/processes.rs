//! The processes that the hooks concern, and the network namespaces that they are in.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::fstat;

use crate::sys::netns;

/// Where processes are looked for.
#[derive(Clone, Debug)]
pub struct Processes {
    /// Directory of the hooked cgroup; none: it is the root, and every process is in it.
    cgroup: Option<PathBuf>,
}

impl Processes {
    /// Those of a cgroup, with all below it.
    pub fn new(cgroup: Option<&Path>) -> Self {
        Self { cgroup: cgroup.map(Path::to_owned) }
    }

    /// Ids of all that live now. A process that ends meanwhile may be in the answer or not.
    pub fn all(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        match &self.cgroup {
            Some(directory) => members(directory, &mut found)?,
            None => {
                for entry in fs::read_dir("/proc")? {
                    found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
                }
            }
        }
        Ok(found)
    }
}

/// Inode of the network namespace of a process. Numbers are reused, but not while the namespace lives.
pub fn inode_of_process(tgid: u32) -> io::Result<u64> {
    let target = fs::read_link(format!("/proc/{tgid}/ns/net"))?;
    let text = target.to_string_lossy();
    let number = text.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']'));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| io::Error::other(format!("ns/net is {text}")))
}

/// The network namespace of a process, and its inode.
pub fn namespace_of(tgid: u32) -> io::Result<(OwnedFd, u64)> {
    let namespace = netns::of_process(tgid)?;
    let inode = fstat(namespace.as_fd())?.st_ino;
    Ok((namespace, inode))
}

fn members(directory: &Path, found: &mut Vec<u32>) -> io::Result<()> {
    let listed = fs::read_to_string(directory.join("cgroup.procs"));
    match listed {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // Removed since it was listed; or threaded, so that its processes are listed further up.
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_threaded(&error) => {}
        Err(error) => return Err(error),
    }
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            members(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn is_threaded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP) || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_cgroup_are_found_with_all_below_it() {
        let scratch = tempfile::tempdir().unwrap();
        for (directory, text) in [("", "10\n"), ("pod", ""), ("pod/app", "11\n12\n")] {
            let path = scratch.path().join(directory);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), text).unwrap();
        }
        // One that is just being removed has no list any more.
        fs::create_dir(scratch.path().join("gone")).unwrap();
        let mut found = Processes::new(Some(scratch.path())).all().unwrap();
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12]);
        assert!(Processes::new(None).all().unwrap().contains(&std::process::id()));
    }

    #[test]
    fn own_namespace_has_one_inode() {
        let own = std::process::id();
        assert_eq!(inode_of_process(own).unwrap(), namespace_of(own).unwrap().1);
    }
}
