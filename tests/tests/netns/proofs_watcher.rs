//! The watcher of the registry: it turns each report of a hook into an entry, and sweeps the entries of namespaces
//! that have no process left.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use proxy_common::addr::Addr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::time::{ClockId, clock_gettime};
use shunt::sys::map::Map;
use shunt::sys::{cgroup, netns, socket};
use tests::cgroup::Cgroup;
use zerocopy::{FromBytes, IntoBytes};

use crate::proofs_object::layout::{Namespace, Unknown};
use crate::proofs_object::{attach, load, map};

const HOOKS: [&str; 2] = ["proof_netns_connect4", "proof_netns_connect6"];

/// What became of one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The entry holds the namespace's addresses.
    Known {
        /// The report.
        event: Unknown,
        /// The entry.
        namespace: Namespace,
    },
    /// The process has ended, or is in another namespace by now; the mark is taken away.
    Gone {
        /// The report.
        event: Unknown,
    },
}

/// Hooks attached to one cgroup, and what is known of the namespaces of its processes.
pub(crate) struct Watcher<'a> {
    cgroup: &'a Cgroup,
    entries: Map,
    events: RingBuf<MapData>,
    /// Inode of each known namespace, by its cookie: what a sweep compares with the living processes.
    inodes: HashMap<u64, u64>,
    _ebpf: Ebpf,
}

impl<'a> Watcher<'a> {
    /// Attaches the hooks; nothing is known yet.
    pub(crate) fn start(cgroup: &'a Cgroup) -> Result<Self> {
        let mut ebpf = load()?;
        attach(&mut ebpf, cgroup, &HOOKS)?;
        let entries = map(&ebpf, "PROOF_NETNS")?;
        let events = RingBuf::try_from(ebpf.take_map("PROOF_EVENTS").context("no ring buffer")?)?;
        Ok(Self { cgroup, entries, events, inodes: HashMap::new(), _ebpf: ebpf })
    }

    /// Waits for one report, for at most `limit`, and acts on it.
    pub(crate) fn next(&mut self, limit: Duration) -> Result<Option<Seen>> {
        let mut event = self.read_event()?;
        if event.is_none() {
            let mut ready = [PollFd::new(&self.events, PollFlags::IN)];
            poll(&mut ready, Some(&Timespec::try_from(limit)?))?;
            event = self.read_event()?;
        }
        event.map(|event| self.look_at(event)).transpose()
    }

    fn read_event(&mut self) -> Result<Option<Unknown>> {
        let Some(item) = self.events.next() else { return Ok(None) };
        Unknown::read_from_bytes(&item).ok().context("a report of another size").map(Some)
    }

    fn look_at(&mut self, event: Unknown) -> Result<Seen> {
        let Ok((namespace, inode)) = read_namespace(&event) else {
            self.forget(event.netns)?;
            return Ok(Seen::Gone { event });
        };
        // Inode numbers are reused: whoever had this one is gone.
        self.inodes.retain(|_, known| *known != inode);
        self.inodes.insert(event.netns, inode);
        self.entries.update(event.netns.as_bytes(), namespace.as_bytes())?;
        Ok(Seen::Known { event, namespace })
    }

    /// Removes what is known of a namespace; the next connect in it is reported.
    pub(crate) fn forget(&mut self, cookie: u64) -> Result<()> {
        self.inodes.remove(&cookie);
        self.entries.delete(cookie.as_bytes())?;
        Ok(())
    }

    /// Forgets every namespace in which no process of the cgroup is left.
    ///
    /// One that only a descriptor or a mount keeps alive is forgotten too; its next connect is reported.
    pub(crate) fn sweep(&mut self) -> Result<()> {
        let alive = self.living_inodes()?;
        for cookie in self.entries()? {
            if !self.inodes.get(&cookie).is_some_and(|inode| alive.contains(inode)) {
                self.forget(cookie)?;
            }
        }
        Ok(())
    }

    fn living_inodes(&self) -> Result<HashSet<u64>> {
        let members = fs::read_to_string(self.cgroup.path().join("cgroup.procs"))?;
        // A process that ended since the list was read has no namespace any more.
        let inode = |pid: &str| netns::of_process(pid.parse().ok()?).and_then(|it| inode_of(&it)).ok();
        Ok(members.lines().filter_map(inode).collect())
    }

    /// Cookies of all entries, pending ones too.
    pub(crate) fn entries(&self) -> Result<Vec<u64>> {
        let (keys, _) = self.entries.entries()?;
        Ok(keys.chunks_exact(8).filter_map(|key| u64::read_from_bytes(key).ok()).collect())
    }

    /// The entry of a namespace.
    pub(crate) fn entry(&self, cookie: u64) -> Result<Option<Namespace>> {
        let value = self.entries.lookup(cookie.as_bytes())?;
        value.map(|value| Namespace::read_from_bytes(&value).ok().context("size")).transpose()
    }

    /// How many namespaces the watcher keeps in its own memory.
    pub(crate) fn remembered(&self) -> usize {
        self.inodes.len()
    }

    /// Id of the hooked cgroup, as a hook sees it.
    pub(crate) fn cgroup_id(&self) -> u64 {
        cgroup::open_dir(self.cgroup.path()).ok().and_then(|dir| cgroup::id(dir).ok()).unwrap_or_default()
    }
}

/// The addresses of the namespace of the process that reported, if that is the namespace it reported; and its inode.
fn read_namespace(event: &Unknown) -> Result<(Namespace, u64)> {
    let namespace = netns::of_process(u32::try_from(event.tgid)?)?;
    let (cookie, addresses) =
        netns::in_namespace(&namespace, || (socket::netns_cookie(), netns::addresses()))?;
    anyhow::ensure!(cookie? == event.netns, "the process has moved to another namespace");
    let addresses = addresses?;
    let first = |wanted: fn(&IpAddr) -> bool| {
        let usable = |ip: &&IpAddr| wanted(ip) && !ip.is_loopback() && !is_link_local(**ip);
        addresses.iter().find(usable).map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
    };
    let known = Namespace { v4: first(IpAddr::is_ipv4), v6: first(IpAddr::is_ipv6), state: Namespace::KNOWN };
    Ok((known, inode_of(&namespace)?))
}

/// Every device has such an address by itself; a pod is not known by it.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn inode_of(namespace: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(namespace.as_fd())?.st_ino)
}

/// The clock that pods print, which is the same in all processes.
pub(crate) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
