//! `peer serve`: many named servers, of TCP and of UDP, in one thread, opened and closed by lines on standard input.
//!
//! One loop, so that a close at a given time cannot race with an accept: what was accepted before is answered.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use crate::report::Accepted;

/// Where standard input's events are told from those of listeners.
const STDIN: u64 = 0;

/// Longest queue of connections that wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// Connections that one listener may have accepted before it is another's turn.
const TURN: usize = 256;

/// The name of a server that answers each connection with the address that it came to.
const ADDRESS: &str = "*";

/// Arguments of `peer serve`.
#[derive(Args)]
pub(super) struct ServeArguments {
    /// Servers to start with, as ADDR:PORT=NAME, or udp:ADDR:PORT=NAME; the name `*` stands for the address that a
    /// connection came to.
    servers: Vec<Server>,
}

#[derive(Clone, Debug)]
struct Server {
    place: ServerPlace,
    name: String,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServerPlace {
    is_udp: bool,
    address: SocketAddr,
}

impl FromStr for ServerPlace {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (is_udp, address) = text.strip_prefix("udp:").map_or((false, text), |address| (true, address));
        Ok(Self { is_udp, address: address.parse().context("address")? })
    }
}

impl FromStr for Server {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, name) = text.split_once('=').context("expected ADDR:PORT=NAME")?;
        Ok(Self { place: address.parse()?, name: name.to_owned() })
    }
}

struct Listener {
    server: Server,
    socket: Socket,
    close_at: Option<Instant>,
}

struct Servers {
    epoll: OwnedFd,
    listeners: BTreeMap<u64, Listener>,
    next: u64,
    accepted: Accepted,
}

pub(super) fn run(arguments: &ServeArguments) -> Result<()> {
    let mut servers = Servers {
        epoll: epoll::create(CreateFlags::CLOEXEC).context("epoll_create")?,
        listeners: BTreeMap::new(),
        next: STDIN + 1,
        accepted: Accepted::new(),
    };
    epoll::add(&servers.epoll, io::stdin(), EventData::new_u64(STDIN), EventFlags::IN)
        .context("watch standard input, which must be a pipe or a terminal")?;
    for server in &arguments.servers {
        servers.open(server.clone())?;
    }
    println!("ready");
    servers.serve()
}

impl Servers {
    /// Serves until standard input ends.
    fn serve(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut input = Vec::new();
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), self.until_next_close().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            for event in &events {
                let id = event.data.u64();
                if id == STDIN {
                    if !self.read_input(&mut input)? {
                        return Ok(());
                    }
                } else if let Some(listener) = self.listeners.get(&id) {
                    answer(listener, TURN, &mut self.accepted);
                }
            }
            self.close_due();
        }
    }

    /// Reads and obeys what standard input has; false at its end.
    fn read_input(&mut self, input: &mut Vec<u8>) -> Result<bool> {
        let mut chunk = [0; 4096];
        let length = rustix::io::read(io::stdin(), &mut chunk).context("read standard input")?;
        input.extend_from_slice(&chunk[..length]);
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match self.obey(line.trim()) {
                Ok(answer) => println!("{answer}"),
                Err(error) => println!("error: {}: {error:#}", line.trim()),
            }
        }
        Ok(length > 0)
    }

    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["open", address, name] => {
                self.open(Server { place: address.parse()?, name: name.to_owned() })?;
                Ok(format!("opened {address}"))
            }
            ["close", address] => self.close(address.parse()?, Duration::ZERO),
            ["close", address, after] => self.close(address.parse()?, Duration::from_millis(after.parse()?)),
            ["counts"] => Ok(serde_json::to_string(&self.accepted)?),
            _ => bail!("expected open ADDR:PORT NAME, close ADDR:PORT [MILLISECONDS] or counts"),
        }
    }

    /// Opens a server; one that is open already gets the name, and a close that was to come is called off.
    fn open(&mut self, server: Server) -> Result<()> {
        self.accepted.entry(server.name.clone()).or_default();
        let known = self.listeners.values_mut().find(|known| known.server.place == server.place);
        if let Some(known) = known {
            known.close_at = None;
            known.server = server;
            return Ok(());
        }
        let socket = listen(server.place).with_context(|| format!("listen on {:?}", server.place))?;
        let id = self.next;
        self.next += 1;
        epoll::add(&self.epoll, &socket, EventData::new_u64(id), EventFlags::IN)
            .context("watch a listener")?;
        self.listeners.insert(id, Listener { server, socket, close_at: None });
        Ok(())
    }

    fn close(&mut self, place: ServerPlace, after: Duration) -> Result<String> {
        let known = self.listeners.values_mut().find(|known| known.server.place == place);
        known.context("not open")?.close_at = Some(Instant::now() + after);
        Ok(format!("closing {}", place.address))
    }

    /// Answers what waits at listeners whose time has come, and closes them.
    fn close_due(&mut self) {
        let now = Instant::now();
        let accepted = &mut self.accepted;
        self.listeners.retain(|_, listener| {
            let stays = listener.close_at.is_none_or(|at| at > now);
            if !stays {
                answer(listener, usize::MAX, accepted);
            }
            stays
        });
    }

    fn until_next_close(&self) -> Option<rustix::event::Timespec> {
        let next = self.listeners.values().filter_map(|listener| listener.close_at).min()?;
        // Rounded up, or the last part of a millisecond would be spent in a busy loop.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
        rustix::event::Timespec::try_from(wait).ok()
    }
}

fn listen(ServerPlace { is_udp, address }: ServerPlace) -> io::Result<Socket> {
    let kind = if is_udp { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if !is_udp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Answers at most `limit` connections or datagrams that wait.
fn answer(listener: &Listener, limit: usize, accepted: &mut Accepted) {
    if listener.server.place.is_udp {
        answer_datagrams(listener, limit, accepted);
    } else {
        answer_connections(listener, limit, accepted);
    }
}

fn answer_datagrams(listener: &Listener, limit: usize, accepted: &mut Accepted) {
    for _ in 0..limit {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
        let from = match listener.socket.recv_from(&mut buffer) {
            Ok((_, from)) => from,
            // A port unreachable for an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(_) => return,
        };
        if let Some(count) = accepted.get_mut(&listener.server.name) {
            *count += 1;
        }
        let _ = listener.socket.send_to(listener.server.name.as_bytes(), &from);
    }
}

/// Accepts and answers at most `limit` connections. A client that has gone meanwhile is none of our business.
fn answer_connections(listener: &Listener, limit: usize, accepted: &mut Accepted) {
    for _ in 0..limit {
        let mut connection = match listener.socket.accept() {
            Ok((connection, _)) => connection,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => return,
        };
        if let Some(count) = accepted.get_mut(&listener.server.name) {
            *count += 1;
        }
        let address = (listener.server.name == ADDRESS).then(|| connection.local_addr().ok()?.as_socket());
        let text = address.flatten().map(|address| address.ip().to_string());
        let _ = connection.write_all(text.as_ref().unwrap_or(&listener.server.name).as_bytes());
    }
}
