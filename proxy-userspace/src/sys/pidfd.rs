//! Descriptors of other processes: a socket is taken by its cookie, never by its number alone.
//!
//! Needs CAP_SYS_PTRACE, and `/proc` of the PID namespace that the process ids come from (hostPID in a pod). A
//! seccomp filter or a user namespace of the other process does not stand in the way: the kernel judges the caller.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Why a descriptor of another process could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PidfdError {
    /// The process could not be opened; it may have ended.
    #[error("open process {tgid}")]
    Open {
        /// Process id.
        tgid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its descriptors could not be listed.
    #[error("list the descriptors of process {tgid}")]
    List {
        /// Process id.
        tgid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused the descriptor: the right is missing.
    #[error("take descriptor {number} of process {tgid}")]
    Take {
        /// Process id.
        tgid: u32,
        /// Number of the descriptor in that process.
        number: RawFd,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Opens the process `tgid`: the descriptor stands for this very process, also after its id is reused.
pub fn open(tgid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Duplicates descriptor `number` of the process into this one: both name the same open file or socket.
pub fn take_fd(process: impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}

/// Hands every socket of the process `tgid` whose SO_COOKIE is `wanted` to `each`, which owns the duplicate. A socket
/// that the process no longer has is not handed over.
///
/// One pass over the process's descriptors, however many are wanted: taking and asking costs microseconds for each,
/// and a process may have thousands. All others are closed again, untouched. Only the descriptor table of the main
/// thread is searched: a thread that unshared its own is not.
pub fn take_sockets(
    tgid: u32,
    wanted: &BTreeSet<u64>,
    mut each: impl FnMut(u64, OwnedFd),
) -> Result<(), PidfdError> {
    let process = open(tgid).map_err(|source| PidfdError::Open { tgid, source })?;
    let mut seen = BTreeSet::new();
    for number in socket_numbers(tgid).map_err(|source| PidfdError::List { tgid, source })? {
        if seen.len() == wanted.len() {
            break;
        }
        let socket = match take_fd(&process, number) {
            Ok(socket) => socket,
            // Closed since it was listed.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            Err(source) if source.raw_os_error() == Some(libc::ESRCH) => {
                return Err(PidfdError::Open { tgid, source });
            }
            Err(source) => return Err(PidfdError::Take { tgid, number, source }),
        };
        // Whatever has no cookie is no socket: the number was given to something else meanwhile. A socket that has
        // several numbers is handed over once.
        if let Ok(cookie) = socket_cookie(&socket)
            && wanted.contains(&cookie)
            && seen.insert(cookie)
        {
            each(cookie, socket);
        }
    }
    Ok(())
}

/// Numbers of the process's descriptors that are sockets.
fn socket_numbers(tgid: u32) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(format!("/proc/{tgid}/fd"))? {
        let entry = entry?;
        // A descriptor that was closed since has no target any more.
        if fs::read_link(entry.path()).is_ok_and(|target| is_socket(&target)) {
            numbers.extend(entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
    }
    Ok(numbers)
}

fn is_socket(target: &Path) -> bool {
    target.as_os_str().as_encoded_bytes().starts_with(b"socket:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::process::{Command, Stdio};

    fn taken(tgid: u32, wanted: &[u64]) -> Result<Vec<(u64, OwnedFd)>, PidfdError> {
        let mut taken = Vec::new();
        let wanted = wanted.iter().copied().collect();
        take_sockets(tgid, &wanted, |cookie, socket| taken.push((cookie, socket)))?;
        Ok(taken)
    }

    #[test]
    fn sockets_of_a_process_are_found_by_their_cookies() {
        let sockets = [0, 1, 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        // A second number of the first one must not hand it over twice.
        let _again = sockets[0].try_clone().unwrap();
        let wanted = [&sockets[0], &sockets[2]].map(|socket| socket_cookie(socket).unwrap());

        let mut taken = taken(std::process::id(), &wanted).unwrap();
        taken.sort_unstable_by_key(|(cookie, _)| wanted.iter().position(|it| it == cookie));
        let found = taken.iter().map(|(cookie, _)| *cookie).collect::<Vec<_>>();
        assert_eq!(found, wanted);
        for ((_, taken), original) in taken.into_iter().zip([&sockets[0], &sockets[2]]) {
            assert_eq!(UdpSocket::from(taken).local_addr().unwrap(), original.local_addr().unwrap());
        }
    }

    #[test]
    fn a_socket_that_was_closed_is_not_handed_over() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&closed).unwrap();
        drop(closed);
        assert!(taken(std::process::id(), &[cookie]).unwrap().is_empty());
    }

    #[test]
    fn a_process_that_ended_is_an_error_of_its_own() {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let tgid = child.id();
        child.wait().unwrap();
        assert!(matches!(taken(tgid, &[1]), Err(PidfdError::Open { .. })));
    }
}
