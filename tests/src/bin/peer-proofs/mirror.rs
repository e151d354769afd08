//! Servers that tell each client how they see it: by which address and port it came, and to which.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

/// Longest datagram.
const DATAGRAM: usize = 65_535;

/// Answers at each of `addresses`, by TCP and by UDP, until standard input ends.
pub(crate) fn run(addresses: &[SocketAddr]) -> Result<()> {
    for address in addresses {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
        std::thread::spawn(move || accept(&listener));
        std::thread::spawn(move || answer(&socket));
    }
    println!("ready");
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // What ends a connection ends its thread, and nothing else.
        std::thread::spawn(move || talk(stream));
    }
}

/// Answers each line of one connection.
fn talk(mut stream: TcpStream) -> std::io::Result<()> {
    let seen = format!("{} {}", stream.peer_addr()?, stream.local_addr()?);
    for line in BufReader::new(stream.try_clone()?).lines() {
        line?;
        writeln!(stream, "{seen}")?;
    }
    Ok(())
}

/// Answers each datagram by one of the same length, if that is enough to hold what was seen.
fn answer(socket: &UdpSocket) {
    let mut buffer = vec![0; DATAGRAM];
    let Ok(own) = socket.local_addr() else { return };
    loop {
        // A refusal of an earlier answer comes here too.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let seen = format!("{from} {own}");
        let padded = format!("{seen:<length$}");
        let _ = socket.send_to(padded.as_bytes(), from);
    }
}
