//! HTTP as a test asks for it on a node, by a thread that no hook sees.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{HEALTH, METRICS};
use crate::netns::Netns;
use crate::topology::Node;

/// What a GET was answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Status line and headers.
    pub head: String,
    /// What follows them.
    pub body: String,
}

impl Answer {
    /// The media type, without its parameters.
    pub fn media_type(&self) -> Option<&str> {
        let named = |line: &'_ str| {
            line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        };
        let value = self.head.lines().find(|line| named(line))?.split_once(':')?.1;
        value.split(';').next().map(str::trim)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.body.chars().take(200).collect();
        write!(formatter, "{} {} {body:?}", self.code, self.media_type().unwrap_or("of no type"))
    }
}

/// A GET from the health address, or the metrics address, of whoever serves Services on `node`: an agent or kube-proxy.
pub fn ask(node: &Node, is_health: bool, path: &str) -> Result<Answer> {
    http_ask(node, if is_health { HEALTH } else { METRICS }, (path, "*/*"))
}

/// A GET of `/` by somebody in `netns`.
pub fn ask_at(netns: &Netns, address: SocketAddr) -> Result<Answer> {
    netns.inside(|| request(address, ("/", "*/*")))?
}

/// Status code and body of a GET in the network of `node`.
pub(crate) fn http_get(node: &Node, address: &str, path: &str) -> Result<(u16, String)> {
    let Answer { code, body, .. } = http_ask(node, address, (path, "*/*"))?;
    Ok((code, body))
}

/// A GET, with a header that says which media types are accepted.
pub(super) fn http_ask(node: &Node, address: &str, (path, accept): (&str, &str)) -> Result<Answer> {
    let address: SocketAddr = address.parse()?;
    node.netns.inside(|| request(address, (path, accept)))?
}

fn request(address: SocketAddr, (path, accept): (&str, &str)) -> Result<Answer> {
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
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { join_chunks(body)? } else { body.to_owned() };
    Ok(Answer { code, head: head.to_owned(), body })
}

/// The text that came in pieces, each after its length in hexadecimal.
fn join_chunks(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").context("a chunk without a length")?;
        let length = usize::from_str_radix(length, 16).context("the length of a chunk")?;
        if length == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..length).context("a chunk that is too short")?);
        body = rest.get(length + 2..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(join_chunks("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n").unwrap(), "abc0123456789");
        assert!(join_chunks("5\r\nabc").is_err());
        assert!(join_chunks("").is_err());
    }
}
