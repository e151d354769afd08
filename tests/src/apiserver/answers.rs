//! The forms of what an API server says.

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode, header};
use serde_json::json;
use tokio::sync::mpsc;

use super::world::{Change, Stored};

/// Any body.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// An answer that goes on as long as the sender of its pieces lives.
pub(super) fn endless(mut pieces: mpsc::Receiver<Bytes>) -> Response<AnswerBody> {
    let frames = stream::poll_fn(move |context| {
        pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// Text as JSON.
pub(super) fn whole(code: StatusCode, text: String) -> Response<AnswerBody> {
    let mut answer = Response::new(Full::from(text).boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// A `Status` that refuses.
pub(super) fn refusal(code: StatusCode, reason: &str, message: &str) -> Response<AnswerBody> {
    whole(code, status(code, reason, message))
}

fn status(code: StatusCode, reason: &str, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
    .to_string()
}

/// A page of a listing; `next` is empty after the last.
pub(super) fn page(items: &[Stored], version: u64, next: &str) -> Response<AnswerBody> {
    let mut text = format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":["#);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&item.text);
    }
    text.push_str("]}");
    whole(StatusCode::OK, text)
}

/// A watch event of an object.
pub(super) fn push_event(text: &mut String, kind: &str, object: &str) {
    text.push_str(r#"{"type":""#);
    text.push_str(kind);
    text.push_str(r#"","object":"#);
    text.push_str(object);
    text.push_str("}\n");
}

/// The watch events of changes.
pub(super) fn push_changes<'a>(text: &mut String, changes: impl Iterator<Item = &'a Change>) {
    for change in changes {
        push_event(text, change.kind, &change.object.text);
    }
}

/// A bookmark; one that ends the initial events says so.
pub(super) fn push_bookmark(text: &mut String, version: u64, ends_list: bool) {
    let annotations = if ends_list { json!({ "k8s.io/initial-events-end": "true" }) } else { json!({}) };
    let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
    push_event(text, "BOOKMARK", &json!({ "metadata": metadata }).to_string());
}

/// The event that ends a watch whose version is forgotten.
pub(super) fn push_expired(text: &mut String) {
    push_event(text, "ERROR", &status(StatusCode::GONE, "Expired", "too old resource version"));
}
