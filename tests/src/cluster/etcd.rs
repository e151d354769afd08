//! etcd, and what a test asks of it behind the API server's back.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::credentials::Credentials;
use super::programs;
use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::process::{Process, placed};

const ADDRESS: &str = "127.0.0.1:2379";
const PEERS: &str = "http://127.0.0.1:2380";

/// A running etcd, reachable inside its network namespace only.
#[derive(Debug)]
pub(super) struct Etcd {
    _process: Process,
}

impl Etcd {
    /// Starts it and waits until it serves.
    pub(super) fn start(netns: &Netns, cgroup: &Cgroup, credentials: &Credentials) -> Result<Self> {
        let mut command = placed(&programs::find("etcd")?, netns, cgroup);
        command.arg("--data-dir").arg(credentials.path("etcd"));
        command.args(["--unsafe-no-fsync", "--name=default", "--log-level=info"]);
        for (flag, url) in [
            ("listen-client-urls", &*url()),
            ("advertise-client-urls", &*url()),
            ("listen-peer-urls", PEERS),
            ("initial-advertise-peer-urls", PEERS),
        ] {
            command.arg(format!("--{flag}={url}"));
        }
        command.arg(format!("--initial-cluster=default={PEERS}"));
        let mut process = Process::spawn("etcd", command)?;
        process
            .wait_line(super::control_plane::START, |line| line.contains("ready to serve client requests"))?;
        Ok(Self { _process: process })
    }
}

/// Where clients find it.
pub(super) fn url() -> String {
    format!("http://{ADDRESS}")
}

/// Forgets every revision before the present one; its number.
pub(super) fn compact(netns: &Netns) -> Result<u64> {
    // Any answer has the revision in its head; this key is none that anybody uses.
    let head = post(netns, "/v3/kv/range", &json!({ "key": "AA==" }))?;
    let revision = head["header"]["revision"].as_str().and_then(|text| text.parse().ok());
    let revision = revision.with_context(|| format!("no revision in {head}"))?;
    post(netns, "/v3/kv/compaction", &json!({ "revision": revision, "physical": true }))?;
    Ok(revision)
}

/// A call by the JSON form of its API.
fn post(netns: &Netns, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let answer = netns.inside(|| -> Result<String> {
        let mut stream = TcpStream::connect(ADDRESS).context("connect to etcd")?;
        // By the older version of the protocol, in which an answer comes in one piece.
        write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.split_whitespace().nth(1) == Some("200"), "etcd answered {path}: {answer}");
    serde_json::from_str(body).with_context(|| format!("etcd said {body:?}"))
}
