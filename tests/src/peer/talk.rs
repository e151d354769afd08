//! `peer talk`: one UDP socket that is kept, as a resolver or a logger keeps it.

use std::io::stdin;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use socket2::Type;

use super::{ClientSocket, error_name};
use crate::report::GetReport;

/// Arguments of `peer talk`.
#[derive(Args)]
pub(super) struct TalkArguments {
    #[command(flatten)]
    socket: ClientSocket,
    /// Do not connect the socket, but name the target with each datagram; the peer reported is whom the answer comes from.
    #[arg(long)]
    free: bool,
}

/// Asks once for each line, and says who answered. Errors are reported and otherwise ignored.
pub(super) fn run(arguments: &TalkArguments) -> Result<u8> {
    let client = &arguments.socket;
    let socket = client.open_as(Type::DGRAM)?;
    if !arguments.free {
        socket.connect(&client.address().into())?;
    }
    let socket = UdpSocket::from(socket);
    println!("ready");
    for line in stdin().lines() {
        line?;
        let start = Instant::now();
        let answer = if arguments.free { ask_freely(&socket, client.address()) } else { ask(&socket) };
        let mut report = GetReport {
            target: client.target,
            name: None,
            peer: socket.peer_addr().ok(),
            local: socket.local_addr().ok(),
            error: None,
            connect_ms: start.elapsed().as_secs_f64() * 1e3,
        };
        match answer {
            Ok((name, from)) => {
                report.name = Some(name);
                report.peer = report.peer.or(from);
            }
            Err(error) => report.error = Some(error_name(&error)),
        }
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(0)
}

/// Who answers, and from where if that is not the peer.
type Answer = std::io::Result<(String, Option<SocketAddr>)>;

fn ask(socket: &UdpSocket) -> Answer {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), None))
}

fn ask_freely(socket: &UdpSocket, to: SocketAddr) -> Answer {
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), Some(from)))
}
