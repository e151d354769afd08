//! Ways to ask that programs have beside `connect` and `sendto`: each must see the frontend, as those do.

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketType, connect, getpeername, sendto, socket, sockopt,
};

/// `MSG_FASTOPEN`.
const FAST_OPEN: u32 = 0x2000_0000;
/// `IPPROTO_MPTCP`.
const MPTCP: u32 = 262;
const PATIENCE: Duration = Duration::from_secs(3);

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// TCP Fast Open: the connection begins with a `sendto`, and nobody calls `connect`.
    FastOpen,
    /// A socket of Multipath TCP.
    Mptcp,
    /// UDP, received by `recvmmsg`.
    ManyMessages,
    /// TCP by io_uring.
    RingTcp,
    /// UDP by io_uring, not connected.
    RingUdp,
    /// UDP on an IPv6 socket that refuses IPv4.
    OnlyIpv6,
    /// UDP on a socket that was connected to something else, and by nobody, before.
    Reconnected,
}

/// Asks, and prints the name of the server and the peer.
pub(crate) fn run(way: Way, target: SocketAddr) -> Result<()> {
    let (name, peer) = match way {
        Way::FastOpen => fast_open(target)?,
        Way::Mptcp => mptcp(target)?,
        Way::ManyMessages => many_messages(target)?,
        Way::RingTcp => tokio_uring::start(ring_tcp(target))?,
        Way::RingUdp => tokio_uring::start(ring_udp(target))?,
        Way::OnlyIpv6 => only_ipv6(target)?,
        Way::Reconnected => reconnected(target)?,
    };
    println!("{name} {peer}");
    Ok(())
}

fn stream(target: SocketAddr, protocol: Option<Protocol>) -> Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, protocol)?;
    for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    Ok(socket)
}

fn read_name(socket: OwnedFd) -> Result<(String, SocketAddr)> {
    let peer = getpeername(&socket)?.context("no peer")?.try_into()?;
    let mut name = String::new();
    TcpStream::from(socket).read_to_string(&mut name)?;
    Ok((name, peer))
}

fn fast_open(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let socket = stream(target, None)?;
    // No data: the server would reset what it has not read.
    sendto(&socket, b"", SendFlags::from_bits_retain(FAST_OPEN), &target)?;
    read_name(socket)
}

fn mptcp(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let protocol = Protocol::from_raw(MPTCP.try_into()?);
    let socket = stream(target, Some(protocol))?;
    connect(&socket, &target)?;
    read_name(socket)
}

fn datagram(target: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn many_messages(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let socket = datagram(target)?;
    socket.send_to(b"?", target)?;
    let mut buffer = [0; 64];
    let mut slices = [[IoSliceMut::new(&mut buffer)]];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(slices.len(), None);
    let (length, from) = {
        let mut received =
            recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::empty(), None)?;
        let message = received.next().context("no message")?;
        let from = message.address.context("a message from nobody")?;
        let v4 = from.as_sockaddr_in().map(|at| SocketAddr::from((at.ip(), at.port())));
        let v6 = from.as_sockaddr_in6().map(|at| SocketAddr::from((at.ip(), at.port())));
        (message.bytes, v4.or(v6).context("from no IP address")?)
    };
    let name = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok((name, from))
}

async fn ring_tcp(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let stream = tokio_uring::net::TcpStream::connect(target).await?;
    // The peer as the kernel shows it; the ring has no call for that.
    let peer = getpeername(stream_fd(&stream)?)?.context("no peer")?.try_into()?;
    let (length, buffer) = stream.read(vec![0; 64]).await;
    Ok((String::from_utf8_lossy(&buffer[..length?]).into_owned(), peer))
}

fn stream_fd(stream: &tokio_uring::net::TcpStream) -> Result<OwnedFd> {
    let own = shunt::sys::pidfd::open(std::process::id())?;
    Ok(shunt::sys::pidfd::take_fd(own, stream.as_raw_fd())?)
}

async fn ring_udp(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let bind: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = tokio_uring::net::UdpSocket::bind(bind).await?;
    let (sent, _) = socket.send_to(b"?".to_vec(), target).await;
    ensure!(sent? == 1, "half a question");
    let (received, buffer) = socket.recv_from(vec![0; 64]).await;
    let (length, from) = received?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn only_ipv6(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let socket = socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
    sockopt::set_ipv6_v6only(&socket, true)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    ask(&socket)
}

fn reconnected(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let socket = datagram(target)?;
    let elsewhere = SocketAddr::new(socket.local_addr()?.ip(), 9);
    socket.connect(elsewhere)?;
    rustix::net::connect_unspec(&socket)?;
    socket.connect(target)?;
    let first = ask(&socket)?;
    rustix::net::connect_unspec(&socket)?;
    ensure!(socket.peer_addr().is_err(), "it still has a peer");
    socket.connect(target)?;
    let second = ask(&socket)?;
    ensure!(first.1 == second.1, "{first:?}, then {second:?}");
    Ok(second)
}

fn ask(socket: &UdpSocket) -> Result<(String, SocketAddr)> {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    ensure!(socket.peer_addr()? == from, "the peer is {}, the answer from {from}", socket.peer_addr()?);
    std::io::stdout().flush()?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}
