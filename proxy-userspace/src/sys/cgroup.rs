//! The cgroup v2 tree: its true root, directories of it, and their ids.
//!
//! In a private cgroup namespace a mount shows a sub-cgroup as if it were the root, and programs attached there
//! would miss every other process. All mounts share one file system, though, and a file handle names an inode of
//! it, not a path below a mount: so the root is opened by its inode number, which is 1.
#![expect(unsafe_code, reason = "open_by_handle_at(2) takes a pointer to a handle")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};

/// Inode number, and so cgroup id, of the root of the one cgroup v2 tree that a kernel has.
pub const ROOT_ID: u64 = 1;

/// `FILEID_KERNFS` of the kernel's `exportfs.h`: eight bytes of inode number and generation.
const HANDLE_TYPE: i32 = 0xfe;

/// Why a cgroup directory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table could not be read.
    #[error("read the mount table")]
    Mounts(#[source] io::Error),
    /// No cgroup v2 tree is mounted in this mount namespace.
    #[error("no cgroup v2 tree is mounted")]
    NotMounted,
    /// A directory could not be opened.
    #[error("open cgroup directory {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The directory belongs to another file system.
    #[error("{path} is not a cgroup v2 directory")]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// Only sub-cgroups are mounted, and the root could not be opened by its handle.
    #[error(
        "open the root of the cgroup v2 tree from inside a cgroup namespace, which needs CAP_DAC_READ_SEARCH"
    )]
    Handle(#[source] io::Error),
    /// The kernel opened something else by that handle.
    #[error("the root's handle leads to cgroup {id}")]
    NotRoot {
        /// Id of what was opened.
        id: u64,
    },
}

/// Opens the cgroup to hook: the directory that was given, else the true root.
pub fn open_or_root(given: Option<&Path>) -> Result<OwnedFd, CgroupError> {
    given.map_or_else(true_root, open_dir)
}

/// Opens the true root of the cgroup v2 tree, also from inside a private cgroup namespace.
pub fn true_root() -> Result<OwnedFd, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(CgroupError::Mounts)?;
    let mut mounted = Err(CgroupError::NotMounted);
    for path in cgroup2_mounts(&mounts) {
        match open_dir(&path) {
            Ok(dir) if id(&dir).is_ok_and(|id| id == ROOT_ID) => return Ok(dir),
            Ok(dir) => mounted = Ok(dir),
            // A mount may be hidden under another one; its error counts only where no mount can be opened.
            Err(error) if mounted.is_err() => mounted = Err(error),
            Err(_) => {}
        }
    }
    let root = open_by_id(mounted?, ROOT_ID).map_err(CgroupError::Handle)?;
    match id(&root).map_err(CgroupError::Handle)? {
        ROOT_ID => Ok(root),
        id => Err(CgroupError::NotRoot { id }),
    }
}

/// Opens a directory, which must be of the cgroup v2 tree.
pub fn open_dir(path: &Path) -> Result<OwnedFd, CgroupError> {
    let opening =
        |source: rustix::io::Errno| CgroupError::Open { path: path.to_owned(), source: source.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(path, flags, Mode::empty()).map_err(opening)?;
    let file_system = fstatfs(&dir).map_err(opening)?.f_type;
    if i128::from(file_system) == i128::from(libc::CGROUP2_SUPER_MAGIC) {
        Ok(dir)
    } else {
        Err(CgroupError::NotCgroup2 { path: path.to_owned() })
    }
}

/// The cgroup's id, as BPF programs and links show it: the inode number of its directory.
pub fn id(dir: impl AsFd) -> io::Result<u64> {
    Ok(fstat(dir)?.st_ino)
}

/// Opens the cgroup with this id, wherever in the tree it is; `anchor` is any open directory of the tree.
///
/// Needs CAP_DAC_READ_SEARCH in the initial user namespace. ESTALE: there is no such cgroup.
pub fn open_by_id(anchor: impl AsFd, id: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: HANDLE_TYPE, id: id.to_ne_bytes() };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a header of eight bytes and then as many bytes as its first member says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            anchor.as_fd().as_raw_fd(),
            std::ptr::from_mut(&mut handle),
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Mount points of the cgroup v2 tree in a mount table, in its order.
fn cgroup2_mounts(table: &str) -> Vec<PathBuf> {
    let mount_point = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape(path)))
    };
    table.lines().filter_map(mount_point).collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_on_hybrid_hosts_and_with_odd_names() {
        let table = "proc /proc proc rw 0 0\n\
                     cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                     cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                     none /mnt/a\\040b cgroup2 rw 0 0\n";
        let found = cgroup2_mounts(table);
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/mnt/a b")]);
    }

    #[test]
    fn another_file_system_is_no_cgroup() {
        assert!(matches!(open_dir(Path::new("/proc")), Err(CgroupError::NotCgroup2 { .. })));
        assert!(matches!(open_dir(Path::new("/proc/none")), Err(CgroupError::Open { .. })));
    }
}
