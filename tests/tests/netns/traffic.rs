//! What is sent through the rewriting: long transfers in both directions over TCP, which veth carries in packets far
//! larger than the MTU, and datagrams over UDP.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use socket2::{Domain, Socket, Type};
use tests::netns::Netns;

/// Bytes of a transfer, in each direction, unless a test says otherwise.
const LENGTH: usize = 8 << 20;
/// Sizes of datagrams. None is fragmented, also not in an overlay.
const SIZES: [usize; 4] = [0, 1, 500, 1_300];
/// How long to wait for what does not come. TCP sends again several times before.
const PATIENCE: Duration = Duration::from_secs(4);
/// What a slow machine hashes and makes up in a second, at least.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// How long a server waits for a client that connects and says nothing yet: some open hundreds before they begin.
const IDLE: Duration = Duration::from_mins(1);
/// Connections that wait to be accepted: more than a test opens at once. Who finds no room sends its SYN again a second later.
const WAITING: i32 = 1024;
/// Time between two looks at whether a server is to end.
const LOOK: Duration = Duration::from_millis(5);

/// The two ways to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A transfer, compared by hash.
    Tcp,
    /// Datagrams, compared.
    Udp,
}

impl Way {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As conntrack writes it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The addresses of a client, as it sees itself and as its server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// By its own socket.
    pub(crate) own: SocketAddr,
    /// By the server's.
    pub(crate) seen: SocketAddr,
}

/// Ports that clients send from: one after the other, none of them twice in a test. Two connections from one port through two
/// frontends to one backend collide, and it would see one of them by another address (`collisions` tests that).
const OWN_PORTS: std::ops::Range<u16> = 12_000..30_000;

/// The next port for a client, at any of its addresses of `to`'s family.
fn next_own(to: SocketAddr) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % (OWN_PORTS.end - OWN_PORTS.start);
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    SocketAddr::new(any, OWN_PORTS.start + number)
}

/// Sends something from a socket of `netns` to `to` and back.
pub(crate) fn exchange(netns: &Netns, to: SocketAddr, way: Way) -> Result<Client> {
    match way {
        Way::Tcp => Transfer::open(netns, (Some(next_own(to)), to))?.complete(LENGTH),
        Way::Udp => datagrams(netns, to),
    }
    .with_context(|| format!("{way:?} to {to}"))
}

/// A connection of TCP by which something is to be transferred.
pub(crate) struct Transfer(TcpStream);

impl Transfer {
    /// Connects a socket of `netns`, from some address if one is given.
    pub(crate) fn open(netns: &Netns, (from, to): (Option<SocketAddr>, SocketAddr)) -> Result<Self> {
        let socket = netns.inside(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
        if let Some(from) = from {
            // One port towards two servers, at the same time.
            socket.set_reuse_address(true)?;
            socket.bind(&from.into()).with_context(|| format!("bind to {from}"))?;
        }
        socket.connect_timeout(&to.into(), PATIENCE).with_context(|| format!("connect to {to}"))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// The client's own end.
    pub(crate) fn own(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Sends so many bytes, and takes as many.
    pub(crate) fn complete(self, length: usize) -> Result<Client> {
        let mut stream = self.0;
        // The server looks at all of it before it says a word.
        stream.set_read_timeout(Some(PATIENCE + Duration::from_secs(length as u64 / BYTES_PER_SECOND)))?;
        let own = stream.local_addr()?;
        let request = bytes(u64::from(own.port()), length);
        stream.write_all(&request).context("send")?;
        stream.shutdown(Shutdown::Write)?;
        let mut stream = BufReader::new(stream);
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            stream.read_line(line).context("read a line")?;
        }
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).context("receive")?;
        let [seen, hash] = lines.map(|line| line.trim_end().to_owned());
        ensure!(hash == sum(&request), "the server got other bytes than were sent");
        let seen: SocketAddr = seen.parse().context(seen.clone())?;
        ensure!(
            sum(&reply) == sum(&bytes(u64::from(seen.port()), length)),
            "other bytes came back than were sent"
        );
        Ok(Client { own, seen })
    }
}

fn datagrams(netns: &Netns, to: SocketAddr) -> Result<Client> {
    let own = next_own(to);
    let socket = netns.inside(|| UdpSocket::bind(own))?.with_context(|| format!("bind to {own}"))?;
    // Connected, it takes answers from nobody else.
    netns.inside(|| socket.connect(to))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    let own = socket.local_addr()?;
    let mut seen = None;
    for size in SIZES {
        let question = &bytes(size as u64, size);
        socket.send(question).context("send")?;
        let mut answer = [0; 2_000];
        let length = socket.recv(&mut answer).with_context(|| format!("answer to {size} bytes"))?;
        let end = answer[..length].iter().position(|byte| *byte == b'\n').context("an answer has a line")?;
        ensure!(answer[end + 1..length] == question[..], "other bytes came back than were sent");
        let by = String::from_utf8_lossy(&answer[..end]).parse().context("the client's address")?;
        ensure!(*seen.get_or_insert(by) == by, "the server sees two clients: {seen:?} and {by}");
    }
    Ok(Client { own, seen: seen.context("no size")? })
}

/// Servers of TCP and UDP that tell each client how they see it and give back what they got, or as much.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens in `netns` at each of `addresses`.
    pub(crate) fn start(netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Self { stop, threads: Vec::new() };
        for at in addresses {
            let listener = netns.inside(|| listen(*at))?.with_context(|| format!("listen at {at}"))?;
            let socket = netns.inside(|| UdpSocket::bind(at))?.with_context(|| format!("bind to {at}"))?;
            socket.set_read_timeout(Some(LOOK))?;
            let (stop, also) = (Arc::clone(&server.stop), Arc::clone(&server.stop));
            server.threads.push(std::thread::spawn(move || accept(&listener, &stop)));
            server.threads.push(std::thread::spawn(move || answer(&socket, &also)));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// A listener of one family only, so that both may have the same port.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(WAITING)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client whose packets do not come through is told of by the client.
            Ok((stream, client)) => drop(std::thread::spawn(move || serve(stream, client))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn serve(mut stream: TcpStream, client: SocketAddr) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    stream.read_to_end(&mut request)?;
    stream.write_all(format!("{client}\n{}\n", sum(&request)).as_bytes())?;
    stream.write_all(&bytes(u64::from(client.port()), request.len()))?;
    Ok(())
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut question = vec![0; 65_535];
    while !stop.load(Ordering::Relaxed) {
        // Only the time limit and refusals of earlier answers end a receive without a question.
        if let Ok((length, client)) = socket.recv_from(&mut question) {
            let said = [format!("{client}\n").as_bytes(), &question[..length]].concat();
            let _ = socket.send_to(&said, client);
        }
    }
}

/// What is sent.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn sum(bytes: &[u8]) -> String {
    format!("{:?}", digest(&SHA256, bytes))
}
