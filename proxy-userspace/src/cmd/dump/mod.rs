//! `shunt dump`: what the maps hold, row by row, read from the pinned maps themselves. The maps know service ports by
//! a hash; their names come from the agent, and without one the hash is shown.

mod affinity;
mod flows;

use proxy_common::counter::{self, ServiceCounter, SocketCounter};
use proxy_common::frontend::FrontendValue;
use proxy_common::reason::DropReason;
use proxy_common::service::{View, ViewKind};
use serde::Serialize;

use super::names::Names;
use super::{Exit, columns, open_clients, open_store, print};
use crate::cli::{DumpArgs, DumpTable};
use crate::config::ServiceFilter;
use crate::datapath::probe::counter_shards;
use crate::maps::adopt;
use crate::maps::reading::sum;
use crate::maps::render::{self, ServiceRow, ViewRow};
use crate::maps::store::KernelStore;
use crate::plan::actual::Actual;
use crate::plan::tables::OwnerTag;
use crate::sys::clock::monotonic_now;

/// Prints one table.
pub fn run(args: &DumpArgs) -> anyhow::Result<Exit> {
    let names = Names::ask(args.metrics.metrics_address)?;
    let store = open_store(&args.pin.pin_dir)?;
    let actual = adopt::adopt(&store)?.actual;
    let dump = Dump {
        store: &store,
        actual: &actual,
        names: &names,
        filter: args.service.as_ref(),
        shards: counter_shards(),
    };
    let form = args.output.output;
    match args.table {
        DumpTable::Services => print(form, &dump.services()?, |rows| services_table(rows))?,
        DumpTable::Frontends => print(form, &dump.frontends(), |rows| frontends_table(rows))?,
        DumpTable::Backends => print(form, &dump.backends(), |rows| backends_table(rows))?,
        DumpTable::Affinity => {
            let known = open_clients(&args.pin.pin_dir)?;
            print(form, &dump.memories(&known, monotonic_now())?, |rows| affinity::table(rows))?;
        }
        DumpTable::Flows => {
            let records = flows::read(&args.pin.pin_dir)?;
            print(form, &dump.flows(&records, monotonic_now())?, |rows| flows::table(rows))?;
        }
        DumpTable::Counters => print(form, &dump.counters()?, |rows| counters_table(rows))?,
    }
    Ok(Exit::Done)
}

struct Dump<'a> {
    store: &'a KernelStore,
    actual: &'a Actual,
    names: &'a Names,
    filter: Option<&'a ServiceFilter>,
    /// Shards of each counter.
    shards: u32,
}

/// A service port.
#[derive(Debug, Serialize)]
struct ServiceEntry {
    service: String,
    cell: u32,
    sequence: u32,
    affinity_seconds: u32,
    endpoints: usize,
    internal: String,
    cluster: String,
    external: String,
    /// Clients that frontends which check the source let in.
    sources: Vec<String>,
    picked: u64,
    refused: u64,
}

/// An address that clients use.
#[derive(Debug, Serialize)]
struct FrontendEntry {
    frontend: String,
    kind: &'static str,
    /// Whether `loadBalancerSourceRanges` bind it.
    checks_source: bool,
    service: String,
}

/// An endpoint in the maps.
#[derive(Debug, Serialize)]
struct BackendEntry {
    service: String,
    backend: String,
    row: u32,
    generation: u32,
    views: Vec<&'static str>,
}

/// A counter.
#[derive(Debug, Serialize)]
struct CounterEntry {
    counter: String,
    value: u64,
}

impl Dump<'_> {
    fn name(&self, tag: OwnerTag) -> String {
        self.names.label(tag)
    }

    /// Service ports that the filter keeps, sorted by name.
    fn rows(&self) -> Vec<(String, ServiceRow)> {
        let named = render::services(self.actual).into_iter().map(|row| (self.name(row.tag), row));
        let mut rows: Vec<_> = named.filter(|(name, _)| self.keeps(name)).collect();
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }

    fn keeps(&self, name: &str) -> bool {
        self.filter.is_none_or(|filter| filter.matches(name))
    }

    fn services(&self) -> anyhow::Result<Vec<ServiceEntry>> {
        self.rows()
            .into_iter()
            .map(|(service, row)| {
                let [internal, cluster, external] =
                    View::ALL.map(|view| view_text(&row.views[view as usize]));
                Ok(ServiceEntry {
                    service,
                    cell: row.service,
                    sequence: row.sequence,
                    affinity_seconds: row.affinity_seconds,
                    endpoints: row.backends.len(),
                    internal,
                    cluster,
                    external,
                    sources: row.sources.iter().map(render::range_text).collect(),
                    picked: self.service_count(row.service, ServiceCounter::Picked)?,
                    refused: self.service_count(row.service, ServiceCounter::Refused)?,
                })
            })
            .collect()
    }

    fn frontends(&self) -> Vec<FrontendEntry> {
        let rows = render::frontends(self.actual).into_iter();
        rows.map(|row| FrontendEntry {
            frontend: if row.key.is_owned_vip() { row.key.addr.to_string() } else { row.key.to_string() },
            kind: render::kind_name(row.value.kind),
            checks_source: row.value.flags & FrontendValue::CHECK_SOURCE != 0,
            service: if row.key.is_owned_vip() { String::new() } else { self.name(row.tag) },
        })
        .filter(|entry| self.keeps(&entry.service))
        .collect()
    }

    fn backends(&self) -> Vec<BackendEntry> {
        let mut entries = Vec::new();
        for (service, row) in self.rows() {
            entries.extend(row.backends.iter().map(|backend| {
                let views = View::ALL.into_iter().filter(|view| backend.state.in_view(*view));
                let (addr, port) = backend.target;
                BackendEntry {
                    service: service.clone(),
                    backend: std::net::SocketAddr::new(addr.to_ip(), port.get()).to_string(),
                    row: backend.id,
                    generation: backend.generation,
                    views: views.map(render::view_name).collect(),
                }
            }));
        }
        entries
    }

    fn counters(&self) -> anyhow::Result<Vec<CounterEntry>> {
        let mut entries = Vec::new();
        if self.filter.is_none() {
            for reason in DropReason::ALL {
                let first = counter::reason_element(reason as u8, self.shards, 0);
                entries.push(CounterEntry {
                    counter: format!("reason {}", reason.name()),
                    value: self.sum(first)?,
                });
            }
            for what in SocketCounter::ALL {
                let value = self.sum(counter::socket_element(what, self.shards, 0))?;
                entries.push(CounterEntry { counter: format!("socket {}", what.name()), value });
            }
        }
        for (service, row) in self.rows() {
            for (what, counter) in [("picked", ServiceCounter::Picked), ("refused", ServiceCounter::Refused)]
            {
                let value = self.service_count(row.service, counter)?;
                entries.push(CounterEntry { counter: format!("{service} {what}"), value });
            }
        }
        Ok(entries)
    }

    fn service_count(&self, service: u32, counter: ServiceCounter) -> anyhow::Result<u64> {
        self.sum(counter::service_element(service, counter, self.shards, 0))
    }

    fn sum(&self, first: u32) -> anyhow::Result<u64> {
        Ok(sum(self.store, first, self.shards)?)
    }
}

fn view_text(view: &ViewRow) -> String {
    match view.kind {
        ViewKind::Pass => "-".to_owned(),
        ViewKind::Random => view.slots.len().to_string(),
        ViewKind::Reject => "reject".to_owned(),
        ViewKind::Drop => "drop".to_owned(),
    }
}

fn services_table(rows: &[ServiceEntry]) -> String {
    let titles = ["SERVICE", "ENDPOINTS", "INTERNAL", "CLUSTER", "EXTERNAL", "SWITCHED", "PICKED", "REFUSED"];
    columns(
        titles,
        rows.iter().map(|row| {
            [
                row.service.clone(),
                row.endpoints.to_string(),
                row.internal.clone(),
                row.cluster.clone(),
                row.external.clone(),
                row.sequence.to_string(),
                row.picked.to_string(),
                row.refused.to_string(),
            ]
        }),
    )
}

fn frontends_table(rows: &[FrontendEntry]) -> String {
    let cells = rows.iter().map(|row| {
        let flags = if row.checks_source { "check-source" } else { "-" };
        [row.frontend.clone(), row.kind.to_owned(), flags.to_owned(), row.service.clone()]
    });
    columns(["FRONTEND", "KIND", "FLAGS", "SERVICE"], cells)
}

fn backends_table(rows: &[BackendEntry]) -> String {
    let cells = rows.iter().map(|row| {
        [
            row.service.clone(),
            row.backend.clone(),
            row.row.to_string(),
            row.generation.to_string(),
            row.views.join(","),
        ]
    });
    columns(["SERVICE", "BACKEND", "ROW", "GENERATION", "VIEWS"], cells)
}

fn counters_table(rows: &[CounterEntry]) -> String {
    columns(["COUNTER", "VALUE"], rows.iter().map(|row| [row.counter.clone(), row.value.to_string()]))
}
