//! Sockets of the client: each knows what the model says of it, and does one random thing at a time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::net::connect_unspec;
use socket2::{Domain, Socket, Type};

use super::is_v4;
use super::world::{Expected, Given, Servers, World, is_unreachable, talk};

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) enum Client {
    Tcp(Tcp),
    Udp(Udp),
}

impl Client {
    /// Does something, checks it, and says what it was.
    pub(super) fn act(&mut self, world: &mut World, servers: &Servers, random: &mut Rng) -> &'static str {
        match self {
            Self::Tcp(tcp) => tcp.act(world, servers, random),
            Self::Udp(udp) => udp.act(world, servers, random),
        }
    }
}

/// A TCP socket: not connected yet, or to the end.
pub(super) struct Tcp {
    connected: Option<(SocketAddr, TcpStream, TcpStream)>,
}

impl Tcp {
    pub(super) const fn new() -> Self {
        Self { connected: None }
    }

    fn act(&mut self, world: &mut World, servers: &Servers, random: &mut Rng) -> &'static str {
        if let Some((target, here, there)) = &self.connected {
            // Never cut, whatever became of the endpoint or the Service.
            assert_eq!(canonical(here.peer_addr().unwrap()), *target, "getpeername");
            talk(here, there);
            return "talk";
        }
        let target = World::any_target(random);
        let is_mapped = target.is_ipv4() && random.u32(..4) == 0;
        let outcome = open(target, is_mapped, Type::STREAM).and_then(|(socket, address)| {
            socket.set_linger(Some(Duration::ZERO))?;
            socket.connect(&address.into())?;
            Ok(TcpStream::from(socket))
        });
        let server = outcome.as_ref().ok().and_then(|_| soon(|| servers.accept()));
        let expected = world.expected(target, false);
        match (outcome, server) {
            (Ok(here), Some((who, there))) => {
                admit(world, (target, false), &expected, who);
                assert_eq!(canonical(here.peer_addr().unwrap()), target, "getpeername");
                self.connected = Some((target, here, there));
                "connect"
            }
            (Err(error), None) => refused(target, &expected, &error, ErrorKind::TimedOut),
            (outcome, server) => panic!("{target}: {outcome:?}, {server:?}"),
        }
    }
}

/// A UDP socket of one family; one of IPv6 is dual-stack.
pub(super) struct Udp {
    socket: UdpSocket,
    is_v6: bool,
    /// Whether an IPv6 socket speaks IPv4, to mapped addresses; it keeps to one, and so to fewer frontends than it has
    /// places for.
    is_mapped: bool,
    /// What it was given, by frontend.
    flows: BTreeMap<SocketAddr, Given>,
    /// What it is connected to, and who is really there.
    peer: Option<(SocketAddr, (u8, u8))>,
}

impl Udp {
    pub(super) fn new(random: &mut Rng) -> Self {
        let is_v6 = random.bool();
        let socket = UdpSocket::bind(if is_v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, is_v6, is_mapped: is_v6 && random.bool(), flows: BTreeMap::new(), peer: None }
    }

    fn act(&mut self, world: &mut World, servers: &Servers, random: &mut Rng) -> &'static str {
        match random.u32(..8) {
            0 | 1 => self.connect(world, random),
            // An IPv6 socket hears nobody but its old peer afterwards (seen on Linux 6.18 without any program).
            2 if self.peer.is_some() && !self.is_v6 => {
                connect_unspec(&self.socket).unwrap();
                self.peer = None;
                "disconnect"
            }
            3 => {
                let shown = self.socket.peer_addr().ok().map(canonical);
                assert_eq!(shown, self.peer.map(|(target, _)| target), "getpeername");
                "peer"
            }
            4 | 5 if self.peer.is_some() => self.send(servers),
            _ if self.peer.is_none() => self.send_to(world, servers, random),
            _ => "nothing",
        }
    }

    fn target(&self, random: &mut Rng) -> SocketAddr {
        loop {
            let target = World::any_target(random);
            if target.is_ipv4() == (self.is_mapped || !self.is_v6) {
                return target;
            }
        }
    }

    /// What a datagram or a connect to `target` leads to.
    fn expected(&self, world: &World, target: SocketAddr) -> Expected {
        match self.flows.get(&target).filter(|given| world.keeps(**given, target)) {
            Some(given) => Expected::OneOf(vec![*given]),
            None => world.expected(target, true),
        }
    }

    fn connect(&mut self, world: &mut World, random: &mut Rng) -> &'static str {
        let target = self.target(random);
        let expected = self.expected(world, target);
        if self.peer.is_some() && expected == Expected::Foreign && World::server_at(target).is_none() {
            // A connect that finds no route spoils a connected socket: what it sends second goes astray (seen on Linux
            // 6.18 without any program).
            return "nothing";
        }
        let outcome = self.socket.connect(self.written(target));
        if let Some(who) = World::server_at(target) {
            outcome.unwrap();
            self.peer = Some((target, who));
            return "connect";
        }
        match outcome {
            Ok(()) => {
                // Who is there shows with the first datagram; until then the kernel tells it.
                let real = self.real_peer();
                let who = World::server_at(real).unwrap_or_else(|| panic!("{target} leads to {real}"));
                self.given(world, (target, &expected), who);
                self.peer = Some((target, who));
                "connect"
            }
            // The socket stays as it was.
            Err(error) => refused(target, &expected, &error, ErrorKind::PermissionDenied),
        }
    }

    /// The peer as the kernel has it, which no hook changes: where a datagram of this socket goes.
    fn real_peer(&self) -> SocketAddr {
        let text = std::fs::read_to_string(if self.is_v6 {
            "/proc/thread-self/net/udp6"
        } else {
            "/proc/thread-self/net/udp"
        });
        let port = format!(":{:04X}", self.socket.local_addr().unwrap().port());
        let text = text.unwrap();
        let line =
            text.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&port)));
        canonical(from_hexadecimal(line.unwrap().split_whitespace().nth(2).unwrap()))
    }

    fn send(&mut self, servers: &Servers) -> &'static str {
        let (target, who) = self.peer.unwrap();
        self.socket.send(b"?").unwrap();
        assert_eq!(soon(|| servers.answer()), Some(who), "connected through {target}");
        self.receive(target, who);
        "send"
    }

    fn send_to(&mut self, world: &mut World, servers: &Servers, random: &mut Rng) -> &'static str {
        let target = self.target(random);
        let expected = self.expected(world, target);
        let outcome = self.socket.send_to(b"?", self.written(target));
        let server = outcome.as_ref().ok().and_then(|_| soon(|| servers.answer()));
        if let Some(who) = World::server_at(target) {
            assert_eq!(server, Some(who));
            // A pair that has the same backend claims the answer: which of the two it is for cannot be told.
            self.receive_from_any(who);
            return "send";
        }
        match (outcome, server) {
            (Ok(_), Some(who)) => {
                self.given(world, (target, &expected), who);
                self.receive(target, who);
                "send"
            }
            (Err(error), None) => refused(target, &expected, &error, ErrorKind::PermissionDenied),
            (outcome, server) => panic!("{target}: {outcome:?}, {server:?}; the model says {expected:?}"),
        }
    }

    /// A flow began or went on.
    fn given(&mut self, world: &mut World, (target, expected): (SocketAddr, &Expected), who: (u8, u8)) {
        let goes_on = self.flows.get(&target).is_some_and(|given| world.keeps(*given, target));
        let given =
            if goes_on { one_of(target, expected, who) } else { admit(world, (target, true), expected, who) };
        if !goes_on {
            // One backend answers for one frontend of a socket.
            self.flows.retain(|other, kept| {
                let is_peer = self.peer.is_some_and(|(peer, _)| peer == *other);
                is_peer
                    || (kept.service, kept.endpoint, is_v4(*other))
                        != (given.service, given.endpoint, is_v4(target))
            });
        }
        self.flows.insert(target, given);
    }

    fn receive(&self, target: SocketAddr, who: (u8, u8)) {
        let from = self.receive_from_any(who);
        assert_eq!(from, target, "the answer comes from what was asked");
    }

    fn receive_from_any(&self, who: (u8, u8)) -> SocketAddr {
        let mut buffer = [0; 16];
        let received = self.socket.recv_from(&mut buffer);
        let (length, from) = received.unwrap_or_else(|error| {
            panic!(
                "no answer of {who:?} (peer {:?}, own address {:?}, flows {:?}): {error}",
                self.peer,
                self.socket.local_addr(),
                self.flows
            )
        });
        assert_eq!(buffer[..length], [who.0, who.1]);
        canonical(from)
    }

    /// The address as this socket writes it.
    fn written(&self, target: SocketAddr) -> SocketAddr {
        match target.ip() {
            IpAddr::V4(ip) if self.is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), target.port()),
            _ => target,
        }
    }
}

/// What comes over loopback is there at once, or a little later where the machine is busy.
fn soon<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        std::thread::yield_now();
    }
}

/// The outcome is one that the model allows; what was given.
#[track_caller]
fn one_of(target: SocketAddr, expected: &Expected, who: (u8, u8)) -> Given {
    let Expected::OneOf(all) = expected else {
        panic!("{target} leads to {who:?}, the model says {expected:?}")
    };
    let found = all.iter().find(|given| (given.service, given.endpoint) == who);
    *found.unwrap_or_else(|| panic!("{target} leads to {who:?}, the model says {expected:?}"))
}

/// The same for a flow that begins.
#[track_caller]
fn admit(
    world: &mut World,
    (target, is_udp): (SocketAddr, bool),
    expected: &Expected,
    who: (u8, u8),
) -> Given {
    if World::server_at(target) == Some(who) {
        return Given::of(who);
    }
    let given = one_of(target, expected, who);
    world.gave(given, target.is_ipv4(), is_udp);
    given
}

/// A failure is the one that the model says.
#[track_caller]
fn refused(target: SocketAddr, expected: &Expected, error: &io::Error, timed_out: ErrorKind) -> &'static str {
    let kind = error.kind();
    match expected {
        Expected::Refused if kind == ErrorKind::ConnectionRefused => "refused",
        Expected::TimedOut if kind == timed_out => "timed-out",
        Expected::Foreign if is_unreachable(kind) => "foreign",
        _ => panic!("{target}: {error}, the model says {expected:?}"),
    }
}

fn open(target: SocketAddr, is_mapped: bool, kind: Type) -> io::Result<(Socket, SocketAddr)> {
    let address = match target.ip() {
        IpAddr::V4(ip) if is_mapped => SocketAddr::new(ip.to_ipv6_mapped().into(), target.port()),
        _ => target,
    };
    Ok((Socket::new(Domain::for_address(address), kind, None)?, address))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address as /proc/net writes it: words of the machine, in hexadecimal.
fn from_hexadecimal(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let word = |at: usize| u32::from_str_radix(&ip[at..at + 8], 16).unwrap().to_ne_bytes();
    let port = u16::from_str_radix(port, 16).unwrap();
    let ip: IpAddr = if ip.len() == 8 {
        word(0).into()
    } else {
        let bytes: Vec<u8> = [0, 8, 16, 24].into_iter().flat_map(word).collect();
        <[u8; 16]>::try_from(bytes).unwrap().into()
    };
    SocketAddr::new(ip, port)
}
