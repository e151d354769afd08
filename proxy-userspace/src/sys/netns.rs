//! Network namespaces of other processes: enter one on a thread that does nothing else, and read what is there.
//!
//! A thread that has entered a namespace never serves anything else afterwards, so no runtime's worker is left in
//! the wrong place. Cookies are in [`super::socket`].
#![expect(unsafe_code, reason = "getifaddrs(3) hands out a list of pointers")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why work in another namespace did not happen.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No thread could be started.
    #[error("start a thread for the network namespace")]
    Thread(#[source] io::Error),
    /// The namespace could not be entered: CAP_SYS_ADMIN is missing.
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    /// The work itself panicked.
    #[error("the work in the network namespace panicked")]
    Panicked,
}

/// Opens the network namespace of the process `tgid`; it lives at least as long as the descriptor.
pub fn of_process(tgid: u32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{tgid}/ns/net")).map(OwnedFd::from)
}

/// Runs `work` inside a network namespace, on a thread of its own that ends with it.
pub fn in_namespace<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let namespace = namespace.as_fd();
    thread::scope(|scope| {
        let inside = move || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                .map_err(|error| NetnsError::Enter(error.into()))?;
            Ok(work())
        };
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, inside)
            .map_err(NetnsError::Thread)?;
        thread.join().unwrap_or(Err(NetnsError::Panicked))
    })
}

/// Addresses of all interfaces of the calling thread's network namespace, in the kernel's order.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    Ok(interface_addresses()?.into_iter().map(|(_, address)| address).collect())
}

/// The same, each with the name of its interface.
pub fn interface_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the call stores the head of a list that it allocates, or fails.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: `next` is null or an element of the list, which lives until it is freed below.
    while let Some(element) = unsafe { next.as_ref() } {
        // SAFETY: `ifa_addr` is null or points to an address of the family that it names.
        if let Some(address) = unsafe { address_at(element.ifa_addr) } {
            // SAFETY: every element of the list has a name that ends with a zero byte.
            let name = unsafe { CStr::from_ptr(element.ifa_name) };
            found.push((name.to_string_lossy().into_owned(), address));
        }
        next = element.ifa_next;
    }
    // SAFETY: the list came from `getifaddrs` and is freed once; nothing of it is kept.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The address behind a pointer, if it is an IP address.
///
/// # Safety
///
/// `address` is null or points to a socket address of the family that it names.
unsafe fn address_at(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise. The copies are unaligned reads, since a `sockaddr` promises less alignment.
    unsafe {
        let family = i32::from(address.as_ref()?.sa_family);
        match family {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_addresses() {
        assert!(addresses().unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(interface_addresses().unwrap().contains(&("lo".to_owned(), Ipv4Addr::LOCALHOST.into())));
    }

    #[test]
    fn a_process_that_ended_has_no_namespace() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let tgid = child.id();
        child.wait().unwrap();
        assert_eq!(of_process(tgid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
