//! One question to an API server and what comes back, within bounds of time. Listings and watches are read in place:
//! an object is text until it is looked at, and only one is decoded at a time.

use std::borrow::Cow;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Request, header};
use hyper_util::client::legacy::connect::HttpInfo;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Bounds;
use super::fault::{Fault, Refusal};

/// What is read of a refusal at most.
const REFUSAL_BYTES: usize = 64 << 10;
/// The only media type that is spoken.
pub(super) const JSON: &str = "application/json";

/// An answer that is no refusal.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Body,
    /// Who gave it, as the socket knows.
    pub(super) peer: Option<SocketAddr>,
}

/// The answer to a GET; refusals are faults.
pub(super) async fn ask(client: &Client, path: &str, limit: Duration) -> Result<Answer, Fault> {
    let request = Request::get(path).header(header::ACCEPT, JSON).body(Body::empty());
    send(client, request, limit).await
}

/// The answer to any request; refusals are faults.
pub(super) async fn send(
    client: &Client,
    request: Result<Request<Body>, hyper::http::Error>,
    limit: Duration,
) -> Result<Answer, Fault> {
    let request = request.map_err(|error| Fault::Garbled(error.to_string()))?;
    let answer = timeout(limit, client.send(request)).await.map_err(|_| Fault::Silent(limit))?;
    let answer = answer.map_err(|error| Fault::Connection(chain(&error)))?;
    let code = answer.status();
    if code.is_success() {
        let peer = answer.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
        return Ok(Answer { body: answer.into_body(), peer });
    }
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES).collect();
    let text = match timeout(limit, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => hyper::body::Bytes::new(),
    };
    let mut refusal: Refusal = serde_json::from_slice(&text).unwrap_or_default();
    refusal.code = code.as_u16();
    Err(Fault::Refused(refusal))
}

/// All of a body: within the bounds of a page, in size and time, and each piece within that of an answer.
pub(super) async fn whole(mut body: Body, bounds: Bounds) -> Result<Vec<u8>, Fault> {
    let read = async {
        let mut text = Vec::new();
        while let Some(piece) = piece(&mut body, bounds.answer).await? {
            if text.len() + piece.len() > bounds.page_bytes {
                return Err(Fault::TooLarge(bounds.page_bytes));
            }
            text.extend_from_slice(&piece);
        }
        Ok(text)
    };
    timeout(bounds.page, read).await.map_err(|_| Fault::Slow(bounds.page))?
}

async fn piece(body: &mut Body, limit: Duration) -> Result<Option<hyper::body::Bytes>, Fault> {
    match timeout(limit, body.frame()).await.map_err(|_| Fault::Silent(limit))? {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(Fault::Connection(chain(&error))),
    }
}

/// An error and its causes, each said once: the outermost often says no more than that there was one.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// A body by its lines.
#[derive(Debug)]
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// What lies before was returned.
    start: usize,
    /// What lies before holds no end of a line.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// The next line that is there; without its end, and never an empty one.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        loop {
            let rest = &self.buffer[self.searched..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let (start, end) = (self.start, self.searched + length);
            (self.start, self.searched) = (end + 1, end + 1);
            if !self.buffer[start..end].trim_ascii().is_empty() {
                return Some(&self.buffer[start..end]);
            }
        }
    }

    /// Waits for more; false if there is none. What was not a whole line by then is dropped. A line that has more than
    /// `bytes` before it ends is a fault.
    pub(super) async fn more(&mut self, limit: Duration, bytes: usize) -> Result<bool, Fault> {
        if self.buffer.len() - self.start > bytes {
            return Err(Fault::TooLarge(bytes));
        }
        let Some(piece) = piece(&mut self.body, limit).await? else { return Ok(false) };
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(&piece);
        Ok(true)
    }
}

/// What one line of a watch says.
#[derive(Debug)]
pub(super) enum Change<'a> {
    /// An object is there.
    Applied(&'a RawValue),
    /// An object is gone.
    Deleted(&'a RawValue),
    /// All that was before `version` has been said.
    Bookmark {
        /// Where a watch goes on from here.
        version: String,
        /// Whether this ends the listing that the watch started with.
        ends_list: bool,
    },
    /// The watch is over.
    Refused(Refusal),
}

/// Reads one line of a watch.
pub(super) fn read_line(line: &[u8]) -> Result<Change<'_>, Fault> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let Line { kind, object } = serde_json::from_slice(line).map_err(|error| garbled(&error))?;
    match &*kind {
        "ADDED" | "MODIFIED" => Ok(Change::Applied(object)),
        "DELETED" => Ok(Change::Deleted(object)),
        "BOOKMARK" => bookmark(object),
        "ERROR" => Ok(Change::Refused(serde_json::from_str(object.get()).unwrap_or_default())),
        kind => Err(Fault::Garbled(format!("a watch event of type {kind:?}"))),
    }
}

fn bookmark(object: &RawValue) -> Result<Change<'_>, Fault> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: Metadata,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
        annotations: Option<Annotations>,
    }
    #[derive(Deserialize)]
    struct Annotations {
        #[serde(rename = "k8s.io/initial-events-end")]
        end: Option<IgnoredAny>,
    }
    let Bookmark { metadata } = serde_json::from_str(object.get()).map_err(|error| garbled(&error))?;
    let ends_list = metadata.annotations.is_some_and(|annotations| annotations.end.is_some());
    Ok(Change::Bookmark { version: metadata.resource_version, ends_list })
}

/// One page of a listing, its objects still text.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    /// Where it stands.
    pub(super) metadata: PageMetadata,
    /// Its objects.
    #[serde(borrow)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

/// `metadata` of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// Where a watch goes on after the whole listing.
    pub(super) resource_version: String,
    /// Where the next page starts; empty after the last.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// Reads one page of a listing.
pub(super) fn read_page(text: &[u8]) -> Result<Page<'_>, Fault> {
    serde_json::from_slice(text).map_err(|error| garbled(&error))
}

fn garbled(error: &serde_json::Error) -> Fault {
    Fault::Garbled(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_in_place() {
        let line = br#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#;
        let Change::Applied(object) = read_line(line).unwrap() else { panic!("not applied") };
        assert_eq!(object.get(), r#"{"metadata":{"name":"a"}}"#);
        let end = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7",
            "annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(read_line(end).unwrap(),
            Change::Bookmark { version, ends_list: true } if version == "7"));
        let plain = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}"#;
        assert!(matches!(read_line(plain).unwrap(), Change::Bookmark { ends_list: false, .. }));
        let error = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        assert!(matches!(read_line(error).unwrap(), Change::Refused(refusal) if refusal.code == 410));
        assert!(read_line(b"<html>").unwrap_err().suspects_server());
    }

    #[test]
    fn a_page_without_objects_is_a_page() {
        let page = read_page(br#"{"metadata":{"resourceVersion":"3"},"items":null}"#).unwrap();
        assert!(page.items.is_none() && page.metadata.next.is_none());
        let page = read_page(br#"{"metadata":{"continue":"x"},"items":[{"a":1}, 2]}"#).unwrap();
        assert_eq!(page.items.unwrap()[1].get(), "2");
        assert_eq!(page.metadata.next.as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn lines_end_where_they_end_and_not_where_pieces_do() {
        let mut lines = Lines::new(Body::from(b"one\n\ntwo\nhal".to_vec()));
        assert_eq!(lines.next(), None);
        let limit = Duration::from_secs(1);
        assert!(lines.more(limit, 3).await.unwrap());
        assert_eq!(lines.next(), Some(&b"one"[..]));
        assert_eq!(lines.next(), Some(&b"two"[..]));
        assert_eq!(lines.next(), None);
        lines.body = Body::from(b"f\n".to_vec());
        assert!(lines.more(limit, 3).await.unwrap());
        assert_eq!(lines.next(), Some(&b"half"[..]));
        lines.body = Body::from(b"long".to_vec());
        assert!(lines.more(limit, 3).await.unwrap());
        assert_eq!(lines.next(), None);
        assert!(matches!(lines.more(limit, 3).await, Err(Fault::TooLarge(3))));
        assert!(!lines.more(limit, 4).await.unwrap());
    }

    #[test]
    fn causes_are_said_once() {
        let cause = std::io::Error::other("refused");
        let error = std::io::Error::other(kube::Error::Service(Box::new(cause)));
        assert_eq!(chain(&error).matches("refused").count(), 1, "{}", chain(&error));
    }
}
