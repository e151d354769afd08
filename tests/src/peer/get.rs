//! `peer get`: one connect, looked at closely.

use std::io::Read;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use socket2::Type;

use super::{ClientSocket, error_name};
use crate::report::GetReport;

/// Arguments of `peer get`.
#[derive(Args)]
pub(super) struct GetArguments {
    #[command(flatten)]
    socket: ClientSocket,
    /// Ask by one datagram from a connected socket.
    #[arg(long)]
    udp: bool,
    /// Ask by one datagram from a socket that is not connected; the peer reported is whom the answer comes from.
    #[arg(long)]
    datagram: bool,
}

pub(super) fn run(arguments: &GetArguments) -> Result<u8> {
    let mut report = GetReport {
        target: arguments.socket.target,
        name: None,
        peer: None,
        local: None,
        error: None,
        connect_ms: 0.0,
    };
    let outcome = match (arguments.udp, arguments.datagram) {
        (false, false) => get(&arguments.socket, &mut report),
        (_, is_datagram) => ask(&arguments.socket, !is_datagram, &mut report),
    };
    if let Err(error) = outcome {
        report.error = Some(error_name(&error));
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(u8::from(report.error.is_some()))
}

fn get(client: &ClientSocket, report: &mut GetReport) -> std::io::Result<()> {
    let mut socket = client.open()?;
    let start = Instant::now();
    let outcome = socket.connect(&client.address().into());
    report.connect_ms = start.elapsed().as_secs_f64() * 1e3;
    outcome?;
    report.peer = socket.peer_addr()?.as_socket();
    report.local = socket.local_addr()?.as_socket();
    let mut name = String::new();
    socket.read_to_string(&mut name)?;
    report.name = Some(name);
    Ok(())
}

fn ask(client: &ClientSocket, connects: bool, report: &mut GetReport) -> std::io::Result<()> {
    let socket = client.open_as(Type::DGRAM)?;
    let start = Instant::now();
    if connects {
        socket.connect(&client.address().into())?;
        report.peer = socket.peer_addr()?.as_socket();
        socket.send(b"?")?;
    } else {
        socket.send_to(b"?", &client.address().into())?;
    }
    report.connect_ms = start.elapsed().as_secs_f64() * 1e3;
    report.local = socket.local_addr()?.as_socket();
    let mut buffer = [0; 64];
    let (length, from) = std::net::UdpSocket::from(socket).recv_from(&mut buffer)?;
    if connects && report.peer != Some(from) {
        return Err(std::io::Error::other(format!("the answer comes from {from}")));
    }
    report.peer = Some(from);
    report.name = Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
    Ok(())
}
