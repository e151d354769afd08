//! `peer get`: one connect, looked at closely.

use std::io::Read;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::{ClientSocket, error_name};
use crate::report::GetReport;

/// Arguments of `peer get`.
#[derive(Args)]
pub(super) struct GetArguments {
    #[command(flatten)]
    socket: ClientSocket,
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
    if let Err(error) = get(&arguments.socket, &mut report) {
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
