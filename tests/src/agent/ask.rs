//! HTTP as a test asks for it on a node, by a thread that no hook sees.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::topology::Node;

/// Status code and body of a GET in the network of `node`.
pub(crate) fn http_get(node: &Node, address: &str, path: &str) -> Result<(u16, String)> {
    http_ask(node, address, (path, "*/*"))
}

/// The same, with a header that says which media types are accepted.
pub(super) fn http_ask(node: &Node, address: &str, (path, accept): (&str, &str)) -> Result<(u16, String)> {
    let address: SocketAddr = address.parse()?;
    node.netns.inside(|| {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
        let code =
            head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
        Ok((code, body.to_owned()))
    })?
}
