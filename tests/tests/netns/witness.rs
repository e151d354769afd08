//! What the kernel's connection tracking and the filter rules of a node see of the traffic.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::netns::Netns;
use tests::process::Process;
use tests::wait;

/// How long a program may take to start, and an event to be told.
const SOON: Duration = Duration::from_secs(10);
/// The number of netfilter's netlink.
const NETLINK_NETFILTER: &str = "12";

/// What the chain `forward` of the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Counts what connection tracking calls invalid, and lets all pass.
    Watch,
    /// Drops what is invalid, and lets all else pass.
    DropInvalid,
    /// Drops what is invalid, then all that is neither of a known connection nor to or from a pod: as plug-ins with a
    /// default-deny policy do.
    PodsOnly,
}

impl Rules {
    fn text(self) -> String {
        let (verdict, policy) = match self {
            Self::Watch => ("", "accept"),
            Self::DropInvalid => ("drop", "accept"),
            Self::PodsOnly => ("drop", "drop"),
        };
        format!(
            "table inet witness {{
                counter invalid {{ }}
                chain forward {{
                    type filter hook forward priority filter; policy {policy};
                    ct state invalid counter name invalid {verdict}
                    ct state established,related accept
                    ip saddr 10.244.0.0/16 accept
                    ip daddr 10.244.0.0/16 accept
                    ip6 saddr fd00:10:244::/48 accept
                    ip6 daddr fd00:10:244::/48 accept
                }}
            }}"
        )
    }
}

/// A connection as connection tracking has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// Source and destination of the first packet.
    pub(crate) original: (IpAddr, IpAddr),
    /// Source and destination of what is taken for the answer.
    pub(crate) reply: (IpAddr, IpAddr),
    /// All four ends with their ports: of the first packet, then of the answer.
    pub(crate) ends: [SocketAddr; 4],
    /// Whether one has been seen.
    pub(crate) is_replied: bool,
}

impl Flow {
    /// Reads a line; `None`: neither TCP nor UDP.
    fn parse(line: &str) -> Option<Self> {
        let protocol = line.split_whitespace().find(|word| ["tcp", "udp"].contains(word))?;
        let [original, reply]: [(IpAddr, IpAddr); 2] = both(line, "src=", "dst=");
        let ports: [(u16, u16); 2] = both(line, "sport=", "dport=");
        Some(Self {
            protocol: protocol.to_owned(),
            original,
            reply,
            ends: [
                (original.0, ports[0].0),
                (original.1, ports[0].1),
                (reply.0, ports[1].0),
                (reply.1, ports[1].1),
            ]
            .map(SocketAddr::from),
            is_replied: !line.contains("[UNREPLIED]"),
        })
    }

    /// Whether it runs between the two, and nothing else, in both directions.
    pub(crate) fn is_between(&self, client: IpAddr, backend: IpAddr) -> bool {
        self.original == (client, backend) && self.reply == (backend, client)
    }
}

/// What a line says under two keys, in both directions.
fn both<T: FromStr + Copy>(line: &str, from: &str, to: &str) -> [(T, T); 2] {
    let of = |key: &str| {
        let found: Vec<T> =
            line.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse().ok()).collect();
        let [original, reply] = found[..] else { panic!("two directions: {line}") };
        [original, reply]
    };
    let ([from, back_from], [to, back_to]) = (of(from), of(to));
    [(from, to), (back_from, back_to)]
}

/// A node with rules that track connections, and somebody who listens to what the tracking tells.
pub(crate) struct Witness<'a> {
    netns: &'a Netns,
    events: Process,
}

impl<'a> Witness<'a> {
    /// Sets the rules and starts to listen.
    pub(crate) fn start(netns: &'a Netns, rules: Rules) -> Result<Self> {
        netns.run("nft", &[&rules.text()])?;
        let mut command = netns.command("conntrack");
        command.arg("-E");
        let events = Process::spawn("conntrack -E", command)?;
        let table = format!("/proc/{}/net/netlink", events.pid());
        let pid = events.pid().to_string();
        wait::until(SOON, "conntrack to listen", || {
            let listens = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.get(1) == Some(&NETLINK_NETFILTER) && words.get(2) == Some(&pid.as_str())
            };
            Ok(std::fs::read_to_string(&table)?.lines().any(listens).then_some(()))
        })?;
        Ok(Self { netns, events })
    }

    /// Packets that the rule for invalid ones has counted.
    pub(crate) fn invalid_forwarded(&self) -> Result<u64> {
        let said = self.netns.run("nft", &["list", "counter", "inet", "witness", "invalid"])?;
        number(&said, "packets ")
    }

    /// Packets that connection tracking itself has counted as invalid.
    pub(crate) fn invalid_tracked(&self) -> Result<u64> {
        let said = self.netns.run("conntrack", &["-S"])?;
        said.lines().map(|line| number(line, "invalid=")).sum()
    }

    /// What is in the table now.
    pub(crate) fn listed(&self) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for family in ["ipv4", "ipv6"] {
            let said = self.netns.run("conntrack", &["-L", "-f", family])?;
            flows.extend(said.lines().filter_map(Flow::parse));
        }
        Ok(flows)
    }

    /// What was told so far, once `awaited` has been told.
    pub(crate) fn told(&self, awaited: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
        wait::until(SOON, "an event", || {
            let log = self.events.log();
            // The last line may be half there.
            let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let flows: Vec<Flow> = whole.lines().filter_map(Flow::parse).collect();
            ensure!(flows.iter().any(&awaited), "{log}");
            Ok(Some(flows))
        })
    }
}

/// The number behind the first `key`.
pub(crate) fn number(text: &str, key: &str) -> Result<u64> {
    let rest = text.split_once(key).with_context(|| format!("no {key} in {text}"))?.1;
    let digits = rest.split(|sign: char| !sign.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| text.to_owned())
}
