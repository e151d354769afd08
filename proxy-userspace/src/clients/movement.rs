//! Connected UDP sockets whose backend is gone get another: the agent takes the application's descriptor and connects it
//! to the VIP again, and the hook picks. Source port and peer name stay, and the application has nothing to do.
//!
//! To destroy the socket instead would help only those who look at errors: whoever only sends would get EDESTADDRREQ for
//! ever. So that is for sockets whose descriptor cannot be had.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use proxy_common::lb::Fate;
use proxy_common::udp::Stale;
use rustix::net::{AddressFamily, connect, getpeername, sockopt};
use tracing::{debug, warn};
use zerocopy::FromBytes;

use super::processes::{Processes, inode_of_process, namespace_of};
use crate::sys::iter::MapIterator;
use crate::sys::pidfd::take_sockets;
use crate::sys::{diag, netns, socket};

/// Passes in which a socket's descriptor may stay out of reach: whoever holds it may be about to start or to end.
const PATIENCE: u32 = 3;

/// What one pass has found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Sockets that were given another backend.
    pub moved: u64,
    /// Sockets that were sent to wait at their frontend.
    pub sent_to_wait: u64,
    /// Sockets that wait, those included.
    pub waiting: u64,
    /// Sockets that were destroyed.
    pub destroyed: u64,
    /// Sockets that were given up.
    pub lost: u64,
    /// Sockets to be tried again.
    pub pending: u64,
}

/// Whoever moves sockets.
#[derive(Debug)]
pub struct Mover {
    list: MapIterator,
    processes: Processes,
    /// How often a socket's descriptor was not to be had, by cookie.
    misses: HashMap<u64, u32>,
    /// Sockets that are given up: neither moved nor destroyed.
    given_up: BTreeSet<u64>,
}

impl Mover {
    /// Moves sockets that `list` names and that these processes hold.
    pub fn new(list: MapIterator, processes: Processes) -> Self {
        Self { list, processes, misses: HashMap::new(), given_up: BTreeSet::new() }
    }

    /// Sockets that cannot stay as they are, and those that wait.
    pub fn list(&self) -> io::Result<Vec<Stale>> {
        let written = self.list.read_all()?;
        let listed = written.chunks(size_of::<Stale>()).map(|bytes| Stale::read_from_bytes(bytes).ok());
        listed
            .collect::<Option<_>>()
            .ok_or_else(|| io::Error::other("the list of UDP sockets ends in half a record"))
    }

    /// Moves what has to move. `wait` is called first where sockets have to wait: the guard must be in force by then.
    pub fn pass(&mut self, wait: impl FnOnce() -> bool) -> io::Result<Pass> {
        let listed = self.list()?;
        let is = |fate: Fate| move |stale: &&Stale| stale.fate == fate as u32;
        let mut pass =
            Pass { waiting: listed.iter().filter(is(Fate::Stays)).count() as u64, ..Pass::default() };
        let has_waiting = listed.iter().any(|stale| stale.fate != Fate::Moves as u32);
        let may_wait = !has_waiting || wait();
        let mut owners: BTreeMap<u32, HashMap<u64, Stale>> = BTreeMap::new();
        for stale in listed.iter().filter(|stale| stale.fate != Fate::Stays as u32) {
            if !self.given_up.contains(&stale.cookie) && (may_wait || stale.fate == Fate::Moves as u32) {
                owners.entry(stale.tgid).or_default().insert(stale.cookie, *stale);
            }
        }
        self.forget_all_but(&listed);
        let mut missed = HashMap::new();
        for (tgid, wanted) in owners {
            missed.extend(take_from(tgid, wanted, &mut pass));
        }
        self.search(missed, &mut pass);
        Ok(pass)
    }

    /// A socket that is not listed any more is not missed.
    fn forget_all_but(&mut self, listed: &[Stale]) {
        if self.misses.is_empty() && self.given_up.is_empty() {
            return;
        }
        let cookies: BTreeSet<u64> = listed.iter().map(|stale| stale.cookie).collect();
        self.misses.retain(|cookie, _| cookies.contains(cookie));
        self.given_up.retain(|cookie| cookies.contains(cookie));
    }

    /// Whoever connected these sockets has ended or given them away: another process in the same namespace has them.
    fn search(&mut self, mut missed: HashMap<u64, Stale>, pass: &mut Pass) {
        if missed.is_empty() {
            return;
        }
        for tgid in self.processes.all().unwrap_or_default() {
            if missed.is_empty() {
                return;
            }
            missed = take_from(tgid, missed, pass);
        }
        for (cookie, stale) in missed {
            let tries = self.misses.entry(cookie).or_default();
            *tries += 1;
            if *tries < PATIENCE {
                pass.pending += 1;
                continue;
            }
            self.misses.remove(&cookie);
            match self.destroy(&stale) {
                Ok(true) => pass.destroyed += 1,
                // Closed meanwhile.
                Ok(false) => {}
                Err(error) => {
                    warn!(%error, cookie, frontend = %frontend(&stale), "a UDP socket can be neither moved nor destroyed");
                    self.given_up.insert(cookie);
                    pass.lost += 1;
                }
            }
        }
    }

    /// Destroys a socket in its own network namespace.
    fn destroy(&self, stale: &Stale) -> io::Result<bool> {
        let mut seen = BTreeSet::new();
        for tgid in self.processes.all()? {
            // A process that has ended is in no namespace.
            let Ok(inode) = inode_of_process(tgid) else { continue };
            if !seen.insert(inode) {
                continue;
            }
            let Ok((namespace, _)) = namespace_of(tgid) else { continue };
            let inside = || {
                let is_there = socket::netns_cookie()? == stale.netns;
                is_there.then(|| diag::destroy_udp(stale.cookie)).transpose()
            };
            if let Some(outcome) = netns::in_namespace(&namespace, inside).map_err(io::Error::other)?? {
                return Ok(outcome);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "no process is in its network namespace"))
    }
}

/// Moves those of the wanted sockets that a process holds; returns the others.
fn take_from(tgid: u32, mut wanted: HashMap<u64, Stale>, pass: &mut Pass) -> HashMap<u64, Stale> {
    let cookies = wanted.keys().copied().collect();
    let taken = take_sockets(tgid, &cookies, |cookie, socket| {
        let Some(stale) = wanted.remove(&cookie) else { return };
        match move_one(&socket, &stale) {
            Ok(Outcome::Moved) => pass.moved += 1,
            Ok(Outcome::Waits) => {
                pass.sent_to_wait += 1;
                pass.waiting += 1;
            }
            Ok(Outcome::Elsewhere) => {}
            Err(error) => {
                debug!(%error, tgid, frontend = %frontend(&stale), "a UDP socket was not moved");
                pass.pending += 1;
            }
        }
    });
    if let Err(error) = taken {
        debug!(%error, tgid, "sockets out of reach");
    }
    wanted
}

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It has another backend.
    Moved,
    /// There was none: the hook has made it wait where it is.
    Waits,
    /// Its application took it elsewhere.
    Elsewhere,
}

/// Connects a socket through its frontend again, unless its application took it elsewhere.
fn move_one(socket: &OwnedFd, stale: &Stale) -> io::Result<Outcome> {
    let is_v6 = sockopt::socket_domain(socket)? == AddressFamily::INET6;
    let to = address_for(frontend(stale), is_v6);
    // The hook shows the frontend as long as the socket is connected through it.
    let peer = match getpeername(socket) {
        Ok(peer) => peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
        // Disconnected by its application.
        Err(rustix::io::Errno::NOTCONN) => None,
        Err(error) => return Err(error.into()),
    };
    if peer.map(|peer| (peer.ip(), peer.port())) != Some((to.ip(), to.port())) {
        return Ok(Outcome::Elsewhere);
    }
    match connect(socket, &to) {
        Ok(()) => Ok(Outcome::Moved),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(Outcome::Waits),
        Err(error) => Err(error.into()),
    }
}

fn frontend(stale: &Stale) -> SocketAddr {
    SocketAddr::new(stale.frontend.to_ip(), stale.frontend_port.get())
}

/// How a socket of a family writes an address.
fn address_for(address: SocketAddr, is_v6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::addr::Port;
    use std::net::UdpSocket;

    fn stale(frontend: SocketAddr) -> Stale {
        Stale {
            cookie: 1,
            netns: 1,
            tgid: 1,
            service: 1,
            frontend: frontend.ip().into(),
            frontend_port: Port::new(frontend.port()),
            pad: 0,
            fate: Fate::Moves as u32,
        }
    }

    #[test]
    fn a_socket_that_was_taken_elsewhere_is_left_alone() {
        let [here, there] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let moves = |to| move_one(&OwnedFd::from(socket.try_clone().unwrap()), &stale(to)).unwrap();
        assert_eq!(moves(here), Outcome::Elsewhere, "it has no peer");
        socket.connect(there).unwrap();
        assert_eq!(moves(here), Outcome::Elsewhere);
        assert_eq!(socket.peer_addr().unwrap(), there);
        assert_eq!(moves(there), Outcome::Moved);
    }

    #[test]
    fn a_dual_stack_socket_is_connected_to_the_mapped_address() {
        let v4: SocketAddr = "10.0.0.1:53".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:53".parse().unwrap();
        assert_eq!(address_for(v4, true), "[::ffff:10.0.0.1]:53".parse().unwrap());
        assert_eq!((address_for(v4, false), address_for(v6, true)), (v4, v6));
    }
}
