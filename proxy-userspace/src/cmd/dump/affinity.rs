//! `shunt dump affinity`: who is remembered by which service port, where to, and for how long yet.

use std::net::SocketAddr;

use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::lb::Lookup;
use serde::Serialize;

use super::Dump;
use crate::cmd::columns;
use crate::maps::Words;
use crate::maps::known::{Known, Standing, backend_of, standing};
use crate::maps::live::{Elements, Live};
use crate::trace::client_words;

const SECOND: u64 = 1_000_000_000;

/// What a client was given last.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct MemoryEntry {
    service: String,
    /// Its address, or the namespace that stands for it.
    client: String,
    /// None: the row is another endpoint's by now.
    backend: Option<String>,
    row: u32,
    generation: u32,
    age_seconds: u64,
    /// Until it is forgotten, if the client does not come back before; zero if it is worth nothing any more.
    left_seconds: u64,
    /// `fresh`, or why it is worth nothing: `timed-out`, `gone`, `replaced` or `off`.
    standing: &'static str,
}

impl Dump<'_> {
    /// What is remembered at `now`, sorted by service port and client.
    pub(super) fn memories(&self, known: &Known, now: u64) -> anyhow::Result<Vec<MemoryEntry>> {
        let live = Live::new(self.store);
        let label = |service: u32| match live.owner(service) {
            // The cell is free, or was: nobody has it.
            tag if tag.0 == 0 => "-".to_owned(),
            tag => self.name(tag),
        };
        let entries = known.memories()?.into_iter();
        let named = entries.map(|(key, memory)| (label(key.service), (key, memory)));
        let kept = named.filter(|(service, _)| self.keeps(service));
        let mut rows: Vec<MemoryEntry> =
            kept.map(|(service, entry)| memory_entry(&live, service, (entry, now))).collect();
        rows.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
        live.check()?;
        Ok(rows)
    }
}

fn memory_entry<S: Words + Elements>(
    live: &Live<'_, S>,
    service: String,
    ((key, memory), now): ((AffinityKey, Memory), u64),
) -> MemoryEntry {
    let standing = standing(live, key.service, &memory, now);
    let timeout = live.head(key.service).map_or(0, |head| u64::from(head.affinity_seconds()));
    let age_seconds = now.saturating_sub(memory.used) / SECOND;
    let left = if standing == Standing::Fresh { timeout.saturating_sub(age_seconds) } else { 0 };
    let row = backend_of(live, key.service, &memory);
    MemoryEntry {
        service,
        client: client_words(key.client),
        backend: row.map(|row| SocketAddr::new(row.addr.to_ip(), row.port.get()).to_string()),
        row: memory.backend(),
        generation: memory.generation(),
        age_seconds,
        left_seconds: left,
        standing: standing.name(),
    }
}

/// The rows for people.
pub(super) fn table(rows: &[MemoryEntry]) -> String {
    let cells = rows.iter().map(|row| {
        let stale = format!("row {} generation {}", row.row, row.generation);
        [
            row.service.clone(),
            row.client.clone(),
            row.backend.clone().unwrap_or(stale),
            format!("{}s", row.age_seconds),
            format!("{}s", row.left_seconds),
            row.standing.to_owned(),
        ]
    });
    columns(["SERVICE", "CLIENT", "BACKEND", "AGE", "LEFT", "STANDING"], cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_another_endpoints_is_named_by_its_number() {
        let entry = |backend: Option<&str>, standing| MemoryEntry {
            service: "default/web:80/tcp".to_owned(),
            client: "10.244.1.11".to_owned(),
            backend: backend.map(str::to_owned),
            row: 7,
            generation: 3,
            age_seconds: 12,
            left_seconds: 48,
            standing,
        };
        let text = table(&[entry(Some("10.1.0.1:80"), "fresh"), entry(None, "replaced")]);
        assert_eq!(
            text,
            "SERVICE             CLIENT       BACKEND             AGE  LEFT  STANDING\n\
             default/web:80/tcp  10.244.1.11  10.1.0.1:80         12s  48s   fresh\n\
             default/web:80/tcp  10.244.1.11  row 7 generation 3  12s  48s   replaced\n"
        );
    }
}
