//! TCP connections that an application keeps.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// How long a connect may take: longer than one that is answered, and shorter than one that is tried again.
const CONNECT: Duration = Duration::from_millis(400);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// The connections, by name.
#[derive(Default)]
pub(crate) struct Streams(HashMap<String, TcpStream>);

impl Streams {
    /// Does what `words` say, if they are about connections.
    pub(crate) fn obey(&mut self, words: &[&str]) -> Option<Result<String>> {
        match *words {
            ["dial", name, to] => Some(self.dial(name, None, to)),
            ["dial", name, to, "from", from] => Some(self.dial(name, Some(from), to)),
            ["say", name] => Some(self.say(name)),
            ["hang-up", name] => {
                self.0.remove(name);
                Some(Ok("gone".to_owned()))
            }
            _ => None,
        }
    }

    /// Connects, and returns the peer.
    fn dial(&mut self, name: &str, from: Option<&str>, to: &str) -> Result<String> {
        let to: SocketAddr = to.parse()?;
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.parse::<SocketAddr>()?.into()).context("bind")?;
        }
        socket.connect_timeout(&to.into(), CONNECT).map_err(named)?;
        socket.set_read_timeout(Some(ANSWER))?;
        let stream = TcpStream::from(socket);
        let peer = stream.peer_addr()?;
        self.0.insert(name.to_owned(), stream);
        Ok(peer.to_string())
    }

    /// Asks once more: what the server sees, and the peer that the client sees.
    fn say(&self, name: &str) -> Result<String> {
        let mut stream = self.0.get(name).with_context(|| format!("no connection {name}"))?;
        stream.write_all(b"who\n").context("send")?;
        let mut answer = String::new();
        let length = BufReader::new(stream).read_line(&mut answer).context("receive")?;
        anyhow::ensure!(length > 0, "it was closed");
        Ok(format!("{} {}", answer.trim_end(), stream.peer_addr()?))
    }
}

/// A refusal and a time-out by the names that tests compare.
fn named(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => anyhow::anyhow!("ECONNREFUSED"),
        std::io::ErrorKind::TimedOut => anyhow::anyhow!("timeout"),
        std::io::ErrorKind::AddrNotAvailable => anyhow::anyhow!("EADDRNOTAVAIL"),
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!("EADDRINUSE"),
        _ => error.into(),
    }
}
