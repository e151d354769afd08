//! `shunt dump flows`: what the packet path remembers, a line a flow, whichever of its records are there.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use proxy_common::addr::Proto;
use proxy_common::flow::{End, Flow, FlowKey, Part, Whole};
use proxy_common::names::{self, FLOWS_VERSION};
use serde::Serialize;
use zerocopy::FromBytes;

use super::Dump;
use crate::cmd::{Exit, columns, is_denied};
use crate::flows::Places;
use crate::maps::live::Live;
use crate::sys::map::Map;

const SECOND: u64 = 1_000_000_000;

/// A flow.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FlowEntry {
    service: String,
    protocol: &'static str,
    client: String,
    /// What it has dialled: a frontend, or the backend itself, see [`Flow::DIRECT`].
    vip: String,
    backend: String,
    /// What the backend sees in place of the client; none: the client itself, but for [`Self::client_port_inside`].
    snat: Option<String>,
    /// The client's port as its backend sees it, if another flow has its own.
    client_port_inside: Option<u16>,
    /// `opening`, `open`, `finished` or `reset`.
    state: &'static str,
    idle_seconds: u64,
    /// Which records are there: `forward`, `reply` and `return`. A packet makes those that are missing anew.
    records: Vec<&'static str>,
}

/// What makes two records one flow's: client, VIP, backend, the client's port inside, protocol.
type Identity = (End, End, End, u16, u8);

/// A flow as its records tell it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    whole: Whole,
    /// Flags of all records.
    flags: u16,
    used: u64,
    /// Bits by [`Part`].
    parts: u8,
}

const PARTS: [(Part, &str); 3] =
    [(Part::Forward, "forward"), (Part::Reply, "reply"), (Part::Return, "return")];

/// All records, from the pins below `root`: none where no agent has had a packet path. Programs go on writing meanwhile, so
/// that a record may be missed.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<(FlowKey, Flow)>> {
    let dir = root.join(format!("flows{FLOWS_VERSION}"));
    let mut records = Vec::new();
    for name in [names::FLOWS, names::OPENING, names::PLACES] {
        let map = match Map::open_pinned(&dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            outcome => looked_at(outcome, name)?,
        };
        if name == names::PLACES {
            let places = looked_at(Places::new(&map), name)?;
            records.extend(places.records().map(|found| (found.key(), found.flow)));
            continue;
        }
        let (keys, values) = looked_at(map.entries(), name)?;
        let keys = keys.chunks_exact(size_of::<FlowKey>()).map(FlowKey::read_from_bytes);
        let values = values.chunks_exact(size_of::<Flow>()).map(Flow::read_from_bytes);
        // Every chunk is as long as its type.
        records.extend(keys.zip(values).filter_map(|(key, value)| Some((key.ok()?, value.ok()?))));
    }
    Ok(records)
}

fn looked_at<T>(outcome: io::Result<T>, name: &str) -> anyhow::Result<T> {
    let read = outcome.with_context(|| format!("read {name}"));
    read.map_err(|error| if is_denied(&error) { error.context(Exit::Unfit) } else { error })
}

/// Puts the records of each flow together, in the order of client and VIP.
pub(super) fn join(records: &[(FlowKey, Flow)]) -> Vec<Told> {
    let mut flows: BTreeMap<Identity, Told> = BTreeMap::new();
    for (key, flow) in records {
        let Some((part, _)) = PARTS.into_iter().find(|(part, _)| *part as u8 == key.part) else { continue };
        let mut whole = Whole::EMPTY;
        whole.recall(part, key, flow);
        let identity = (whole.client, whole.vip, whole.backend, whole.inside.get(), whole.proto.0);
        let told = flows.entry(identity).or_insert(Told { whole, flags: 0, used: 0, parts: 0 });
        told.flags |= flow.flags;
        told.used = told.used.max(flow.used);
        told.parts |= 1 << (part as u8);
        // The record of requests is made before it is known whether they get another source.
        if whole.has_snat() {
            told.whole.snat = whole.snat;
        }
    }
    flows.into_values().collect()
}

impl Told {
    const fn state(&self) -> &'static str {
        if self.flags & Flow::RESET != 0 {
            "reset"
        } else if self.flags & Flow::FINISHED != 0 {
            "finished"
        } else if self.flags & Flow::SETTLED != 0 {
            "open"
        } else {
            "opening"
        }
    }

    fn entry(&self, service: String, now: u64) -> FlowEntry {
        let whole = &self.whole;
        let is_there = |(part, _): &(Part, &str)| self.parts & 1 << (*part as u8) != 0;
        FlowEntry {
            service,
            protocol: protocol(whole.proto),
            client: text(whole.client),
            vip: text(whole.vip),
            backend: text(whole.backend),
            snat: whole.has_snat().then(|| text(whole.snat)),
            client_port_inside: (whole.inside != whole.client.port).then(|| whole.inside.get()),
            state: self.state(),
            idle_seconds: now.saturating_sub(self.used) / SECOND,
            records: PARTS.into_iter().filter(is_there).map(|(_, name)| name).collect(),
        }
    }
}

fn text(end: End) -> String {
    SocketAddr::new(end.addr.to_ip(), end.port.get()).to_string()
}

const fn protocol(proto: Proto) -> &'static str {
    match proto {
        Proto::TCP => "tcp",
        Proto::UDP => "udp",
        Proto::SCTP => "sctp",
        _ => "other",
    }
}

impl Dump<'_> {
    /// The flows that the filter keeps. A service port that has gone is named `-`.
    pub(super) fn flows(&self, records: &[(FlowKey, Flow)], now: u64) -> anyhow::Result<Vec<FlowEntry>> {
        let live = Live::new(self.store);
        let label = |service: u32| match live.owner(service) {
            tag if tag.0 == 0 => "-".to_owned(),
            tag => self.name(tag),
        };
        let flows = join(records).into_iter();
        let entries = flows.map(|told| told.entry(label(told.whole.held.service), now));
        let entries = entries.filter(|entry| self.keeps(&entry.service)).collect();
        live.check()?;
        Ok(entries)
    }
}

/// The rows for people.
pub(super) fn table(rows: &[FlowEntry]) -> String {
    let cells = rows.iter().map(|row| {
        let inside = row.client_port_inside.map(|port| format!("client port {port}"));
        [
            row.service.clone(),
            row.protocol.to_owned(),
            row.client.clone(),
            row.vip.clone(),
            row.backend.clone(),
            row.snat.clone().or(inside).unwrap_or_else(|| "-".to_owned()),
            row.state.to_owned(),
            format!("{}s", row.idle_seconds),
        ]
    });
    columns(["SERVICE", "PROTOCOL", "CLIENT", "VIP", "BACKEND", "SEEN AS", "STATE", "IDLE"], cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::addr::Port;
    use proxy_common::lb::Held;

    fn end(text: &str) -> End {
        let address: SocketAddr = text.parse().unwrap();
        End::new(address.ip().into(), Port::new(address.port()))
    }

    fn whole(snat: Option<&str>) -> Whole {
        Whole {
            client: end("198.51.100.9:40000"),
            inside: Port::new(40_000),
            vip: end("192.0.2.7:30080"),
            backend: end("10.244.2.11:8080"),
            snat: snat.map_or(End::NONE, end),
            proto: Proto::TCP,
            held: Held { service: 5, backend: 6, generation: 7 },
            flags: Flow::FROM_AFAR,
        }
    }

    /// The record of one part, with more flags.
    fn record(whole: &Whole, (part, flags): (Part, u16), used: u64) -> (FlowKey, Flow) {
        let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
        whole.key(part, &mut key);
        whole.record(part, used, &mut flow);
        flow.flags |= flags;
        (key, flow)
    }

    #[test]
    fn records_of_a_flow_are_one_line_whichever_are_there() {
        let (before, after) = (whole(None), whole(Some("192.0.2.7:61000")));
        let all = [
            // Requests began before the source was known.
            record(&before, (Part::Forward, Flow::SETTLED), 9 * SECOND),
            record(&after, (Part::Reply, Flow::SETTLED), 7 * SECOND),
            record(&after, (Part::Return, Flow::SETTLED), 8 * SECOND),
        ];
        for lost in [None, Some(0), Some(1), Some(2)] {
            let left: Vec<_> = (0..3).filter(|it| Some(*it) != lost).map(|it| all[it]).collect();
            let [told] = join(&left)[..] else { panic!("{lost:?}: {:?}", join(&left)) };
            let entry = told.entry("default/web:http/tcp".to_owned(), 12 * SECOND);
            assert_eq!(entry.client, "198.51.100.9:40000");
            assert_eq!(entry.snat.as_deref(), Some("192.0.2.7:61000"), "{lost:?}");
            assert_eq!((entry.state, entry.records.len()), ("open", left.len()));
            assert_eq!(entry.idle_seconds, if lost == Some(0) { 4 } else { 3 });
        }
        let text = table(&[join(&all)[0].entry("default/web:http/tcp".to_owned(), 12 * SECOND)]);
        assert_eq!(
            text,
            "SERVICE               PROTOCOL  CLIENT              VIP              BACKEND           SEEN AS          \
             STATE  IDLE\ndefault/web:http/tcp  tcp       198.51.100.9:40000  192.0.2.7:30080  10.244.2.11:8080  \
             192.0.2.7:61000  open   3s\n"
        );
    }

    #[test]
    fn flows_that_differ_in_anything_are_lines_of_their_own() {
        let one = whole(None);
        let others = [
            Whole { client: end("198.51.100.9:40001"), inside: Port::new(40_001), ..one },
            Whole { vip: end("203.0.113.7:80"), inside: Port::new(61_000), ..one },
            Whole { proto: Proto::UDP, ..one },
            Whole { backend: end("[fd00::1]:8080"), ..one },
        ];
        let mut records: Vec<_> = others.iter().map(|it| record(it, (Part::Reply, 0), 0)).collect();
        records.push(record(&one, (Part::Forward, 0), 0));
        assert_eq!(join(&records).len(), 5);
        let told: Vec<FlowEntry> = join(&records).iter().map(|told| told.entry(String::new(), 0)).collect();
        let moved: Vec<_> = told.iter().filter_map(|entry| entry.client_port_inside).collect();
        assert_eq!(moved, [61_000]);
        assert!(table(&told).contains("client port 61000"));
        // A key of no part is nobody's.
        let nobody = (FlowKey { part: 0, ..records[0].0 }, records[0].1);
        assert_eq!(join(&[nobody]), []);
    }

    #[test]
    fn the_state_is_what_any_record_has_seen() {
        let state = |flags: [u16; 2]| {
            let whole = whole(None);
            let parts = [(Part::Forward, flags[0]), (Part::Reply, flags[1])];
            join(&parts.map(|part| record(&whole, part, 0)))[0].state()
        };
        assert_eq!(state([0, Flow::ANSWERED]), "opening");
        assert_eq!(state([Flow::SETTLED, 0]), "open");
        assert_eq!(state([Flow::SETTLED, Flow::SETTLED | Flow::FINISHED]), "finished");
        assert_eq!(state([Flow::SETTLED | Flow::RESET, Flow::FINISHED]), "reset");
    }
}
