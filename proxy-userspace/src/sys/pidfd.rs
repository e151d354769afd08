//! Descriptors of other processes: a socket is taken by its cookie, never by its number alone.
//!
//! Needs CAP_SYS_PTRACE, and `/proc` of the PID namespace that the process ids come from (hostPID in a pod). A
//! seccomp filter or a user namespace of the other process does not stand in the way: the kernel judges the caller.

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

/// Duplicates the socket with this SO_COOKIE out of the process `tgid`; `None`: the process no longer has it.
///
/// Every other socket that is looked at on the way is closed again, untouched. Only the descriptor table of the
/// process's main thread is searched: a thread that unshared its own is not.
pub fn take_socket(tgid: u32, cookie: u64) -> Result<Option<OwnedFd>, PidfdError> {
    let process = open(tgid).map_err(|source| PidfdError::Open { tgid, source })?;
    for number in socket_numbers(tgid).map_err(|source| PidfdError::List { tgid, source })? {
        match take_fd(&process, number) {
            Ok(socket) if is_cookie_of(&socket, cookie) => return Ok(Some(socket)),
            // Another socket.
            Ok(_) => {}
            // Closed since it was listed.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(source) if source.raw_os_error() == Some(libc::ESRCH) => {
                return Err(PidfdError::Open { tgid, source });
            }
            Err(source) => return Err(PidfdError::Take { tgid, number, source }),
        }
    }
    Ok(None)
}

fn is_cookie_of(socket: &OwnedFd, cookie: u64) -> bool {
    socket_cookie(socket).is_ok_and(|found| found == cookie)
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

    #[test]
    fn a_socket_of_a_process_is_found_by_its_cookie() {
        let [wanted, other] = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let cookie = socket_cookie(&wanted).unwrap();
        assert_ne!(cookie, socket_cookie(&other).unwrap());

        let taken = take_socket(std::process::id(), cookie).unwrap().expect("the socket is there");
        assert_eq!(UdpSocket::from(taken).local_addr().unwrap(), wanted.local_addr().unwrap());
    }

    #[test]
    fn a_socket_that_was_closed_is_none() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&closed).unwrap();
        drop(closed);
        assert!(take_socket(std::process::id(), cookie).unwrap().is_none());
    }

    #[test]
    fn a_process_that_ended_is_an_error_of_its_own() {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let tgid = child.id();
        child.wait().unwrap();
        assert!(matches!(take_socket(tgid, 1), Err(PidfdError::Open { .. })));
    }
}
