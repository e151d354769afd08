//! `peer echo` and `peer crowd`: many connections that stay. A process may have only so many descriptors, so a crowd is several
//! of each; the servers share one address.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use crate::report::CrowdReport;

const STDIN: u64 = 0;
const LISTENER: u64 = 1;
/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// Limit of a connect, and of an answer.
const SOON: Duration = Duration::from_secs(20);

/// Arguments of `peer echo`.
#[derive(Args)]
pub(super) struct EchoArguments {
    /// Where to listen, with whomever else does.
    address: SocketAddr,
}

/// Arguments of `peer crowd`.
#[derive(Args)]
pub(super) struct CrowdArguments {
    /// Where to connect.
    target: SocketAddr,
    /// The address to come from.
    #[arg(long)]
    from: IpAddr,
    /// Connections.
    #[arg(long)]
    count: usize,
}

/// Gives back what it gets, until standard input ends.
pub(super) fn echo(arguments: &EchoArguments) -> Result<()> {
    let socket = Socket::new(Domain::for_address(arguments.address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&arguments.address.into()).context("bind")?;
    socket.listen(BACKLOG).context("listen")?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).context("epoll_create")?;
    epoll::add(&epoll, io::stdin(), EventData::new_u64(STDIN), EventFlags::IN)
        .context("watch standard input, which must be a pipe or a terminal")?;
    epoll::add(&epoll, &socket, EventData::new_u64(LISTENER), EventFlags::IN)
        .context("watch the listener")?;
    println!("ready");
    let mut connections: BTreeMap<u64, TcpStream> = BTreeMap::new();
    let mut next = LISTENER + 1;
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll_wait"),
        }
        for event in &events {
            match event.data.u64() {
                STDIN => return Ok(()),
                LISTENER => {
                    while let Ok((connection, _)) = socket.accept() {
                        connection.set_nonblocking(true)?;
                        epoll::add(&epoll, &connection, EventData::new_u64(next), EventFlags::IN)?;
                        connections.insert(next, connection.into());
                        next += 1;
                    }
                }
                id => {
                    if connections.get_mut(&id).is_some_and(|connection| !give_back(connection)) {
                        connections.remove(&id);
                    }
                }
            }
        }
    }
}

/// False: the connection has ended.
fn give_back(connection: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => {
                if connection.write_all(&buffer[..length]).is_err() {
                    return false;
                }
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Connects, and asks by every connection once for each line of standard input.
pub(super) fn crowd(arguments: &CrowdArguments) -> Result<()> {
    let start = Instant::now();
    let mut all = Vec::with_capacity(arguments.count);
    for number in 0..arguments.count {
        all.push(connect(arguments).with_context(|| format!("connection {number}"))?);
    }
    println!("ready, {} connections in {:?}", all.len(), start.elapsed());
    for (line, number) in io::stdin().lines().zip((0..=u8::MAX).cycle()) {
        line?;
        println!("{}", serde_json::to_string(&ask(&mut all, number))?);
    }
    Ok(())
}

fn connect(arguments: &CrowdArguments) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(arguments.target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(arguments.from, 0).into())?;
    socket.connect_timeout(&arguments.target.into(), SOON)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// All ask, and then all listen.
fn ask(all: &mut [TcpStream], byte: u8) -> CrowdReport {
    let mut report = CrowdReport { connections: all.len(), ..CrowdReport::default() };
    let start = Instant::now();
    let asked: Vec<io::Result<()>> = all.iter_mut().map(|stream| stream.write_all(&[byte])).collect();
    for (stream, asked) in all.iter_mut().zip(asked) {
        match asked.map_err(Into::into).and_then(|()| hear(stream, byte)) {
            Ok(()) => report.answered += 1,
            Err(error) => {
                report.first_failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

fn hear(stream: &mut TcpStream, byte: u8) -> Result<()> {
    let mut answer = [0];
    ensure!(stream.read(&mut answer)? == 1, "the connection has ended");
    ensure!(answer == [byte], "{answer:?} instead of {byte}");
    Ok(())
}
