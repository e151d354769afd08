//! The registry of network namespaces: which address a client is known by.
//!
//! A hook reports a namespace that it meets for the first time; a scan finds those that are there already. What has no
//! process left is swept out: its next connect is reported again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use proxy_common::addr::Addr;
use proxy_common::registry::{Event, Namespace};
use zerocopy::{FromBytes, IntoBytes};

use super::processes::{Processes, inode_of_process, namespace_of};
use crate::sys::map::Map;
use crate::sys::{netns, socket};

/// What becomes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The entry holds the namespace's addresses.
    Known,
    /// The process has ended, or is in another namespace by now; the mark is taken away, so that the next is reported.
    Gone,
}

/// What is known of the network namespaces of the hooked processes.
#[derive(Debug)]
pub struct Registry {
    entries: Map,
    processes: Processes,
    /// Cookie of the agent's own namespace.
    host: u64,
    /// Inode of each known namespace by its cookie: what a sweep compares with the living processes.
    inodes: HashMap<u64, u64>,
}

impl Registry {
    /// Over the map `NETNS`; `host` is the cookie of the calling thread's namespace.
    pub fn new(entries: Map, processes: Processes, host: u64) -> Self {
        Self { entries, processes, host, inodes: HashMap::new() }
    }

    /// How many namespaces are known.
    pub fn known(&self) -> usize {
        self.inodes.len()
    }

    /// Looks at a namespace that a hook has reported.
    pub fn meet(&mut self, event: &Event) -> io::Result<Met> {
        let looked = namespace_of(event.tgid).and_then(|(namespace, inode)| Ok((look(&namespace)?, inode)));
        match looked {
            Ok(((cookie, known), inode)) if cookie == event.netns => {
                self.know(cookie, inode, &known)?;
                Ok(Met::Known)
            }
            // Without the right to look, the next report would be no better: the mark stays until the next sweep.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            _ => {
                self.forget(event.netns)?;
                Ok(Met::Gone)
            }
        }
    }

    /// Looks at the namespaces of all processes that are not known yet, and forgets those that have no process left.
    ///
    /// One that only a descriptor or a mount keeps alive is forgotten too; its next connect is reported.
    pub fn sweep(&mut self) -> io::Result<()> {
        self.know_host()?;
        let mut alive = HashSet::new();
        let mut known: HashSet<u64> = self.inodes.values().copied().collect();
        for tgid in self.processes.all()? {
            // A process that ended since it was listed has no namespace any more.
            let Ok(inode) = inode_of_process(tgid) else { continue };
            alive.insert(inode);
            if known.insert(inode)
                && let Ok((namespace, inode)) = namespace_of(tgid)
                && let Ok((cookie, addresses)) = look(&namespace)
            {
                self.know(cookie, inode, &addresses)?;
            }
        }
        for cookie in self.cookies()? {
            let lives = self.inodes.get(&cookie).is_some_and(|inode| alive.contains(inode));
            if !lives && cookie != self.host {
                self.forget(cookie)?;
            }
        }
        Ok(())
    }

    /// The node's own addresses may change; those of a pod do not.
    fn know_host(&mut self) -> io::Result<()> {
        let known = namespace_with(&netns::addresses()?);
        let inode = inode_of_process(std::process::id())?;
        self.know(self.host, inode, &known)
    }

    fn know(&mut self, cookie: u64, inode: u64, namespace: &Namespace) -> io::Result<()> {
        // Inode numbers are reused: whoever had this one is gone.
        self.inodes.retain(|_, known| *known != inode);
        self.inodes.insert(cookie, inode);
        self.entries.update(cookie.as_bytes(), namespace.as_bytes())
    }

    fn forget(&mut self, cookie: u64) -> io::Result<()> {
        self.inodes.remove(&cookie);
        self.entries.delete(cookie.as_bytes()).map(drop)
    }

    /// Cookies of all entries, those that are only reported too.
    fn cookies(&self) -> io::Result<Vec<u64>> {
        let (keys, _) = self.entries.entries()?;
        Ok(keys.chunks_exact(size_of::<u64>()).filter_map(|key| u64::read_from_bytes(key).ok()).collect())
    }
}

/// The cookie and the addresses of a namespace.
fn look(namespace: &OwnedFd) -> io::Result<(u64, Namespace)> {
    let seen = netns::in_namespace(namespace, || (socket::netns_cookie(), netns::addresses()));
    let (cookie, addresses) = seen.map_err(|error| match error {
        netns::NetnsError::Enter(source) => source,
        other => io::Error::other(other),
    })?;
    Ok((cookie?, namespace_with(&addresses?)))
}

/// The first address of each family by which others reach it.
fn namespace_with(addresses: &[IpAddr]) -> Namespace {
    let first = |wanted: fn(&IpAddr) -> bool| {
        let usable = |ip: &&IpAddr| wanted(ip) && !ip.is_loopback() && !is_link_local(**ip);
        addresses.iter().find(usable).map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
    };
    Namespace { v4: first(IpAddr::is_ipv4), v6: first(IpAddr::is_ipv6), state: Namespace::KNOWN }
}

/// Every device has such an address by itself; a pod is not known by it.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_first_address_that_others_reach() {
        let addresses = ["127.0.0.1", "169.254.0.1", "10.0.0.7", "10.0.0.8", "::1", "fe80::1", "fd00::7"]
            .map(|text| text.parse::<IpAddr>().unwrap());
        let known = namespace_with(&addresses);
        assert_eq!((known.v4.to_ip(), known.v6.to_ip()), (addresses[2], addresses[6]));
        assert_eq!(namespace_with(&addresses[4..6]).address(false), None);
    }
}
