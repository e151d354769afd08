//! What the maps hold, as typed rows and as canonical text: no ids, no sequence numbers, no order but the sorted one, so
//! that two stores that serve alike read alike.

use std::fmt::Write;

use proxy_common::addr::{Addr, Port};
use proxy_common::backend::BackendState;
use proxy_common::frontend::{FrontendKey, FrontendKind, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::service::{View, ViewKind};

use crate::plan::actual::Actual;
use crate::plan::tables::OwnerTag;

/// Address and port of a backend.
pub type Target = (Addr, Port);

/// What one view does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRow {
    /// What it does.
    pub kind: ViewKind,
    /// Its slots in order, for [`ViewKind::Random`].
    pub slots: Vec<Target>,
}

/// A service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its cell.
    pub service: u32,
    /// Its identity.
    pub tag: OwnerTag,
    /// How often it was switched.
    pub sequence: u32,
    /// Affinity timeout in seconds; zero: none.
    pub affinity_seconds: u32,
    /// Its views, in the order of [`View::ALL`].
    pub views: [ViewRow; View::COUNT],
    /// Clients that frontends which check the source let in, sorted by address.
    pub sources: Vec<CidrKey>,
    /// Its rows, sorted by address and port.
    pub backends: Vec<BackendRow>,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Its row.
    pub id: u32,
    /// Generation of the row.
    pub generation: u32,
    /// Where it listens.
    pub target: Target,
    /// Its state.
    pub state: BackendState,
}

/// A frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// The key.
    pub key: FrontendKey,
    /// The value.
    pub value: FrontendValue,
    /// Owner of the cell it names; zero for an owned VIP.
    pub tag: OwnerTag,
}

/// Every service port, sorted by identity.
pub fn services(actual: &Actual) -> Vec<ServiceRow> {
    let mut cells: Vec<(OwnerTag, u32)> = actual.cells().collect();
    cells.sort_unstable();
    cells.into_iter().map(|(tag, service)| service_row(actual, tag, service)).collect()
}

/// Every frontend and every owned VIP, sorted by address as people read it.
pub fn frontends(actual: &Actual) -> Vec<FrontendRow> {
    let mut rows: Vec<FrontendRow> = actual
        .frontends()
        .filter(|(key, _)| !key.is_owned_vip())
        .map(|(key, value)| FrontendRow { key, value, tag: actual.owner(value.service) })
        .collect();
    rows.extend(actual.owned_vips().map(|addr| FrontendRow {
        key: FrontendKey::owned_vip(addr),
        value: FrontendValue::new(0, FrontendKind::OwnedVip, 0),
        tag: OwnerTag(0),
    }));
    rows.sort_unstable_by_key(|row| (row.key.addr.to_ip(), row.key.port.get(), row.key.proto));
    rows
}

/// The whole as text. `label` names a service port; one without a name is named by its identity.
pub fn text(actual: &Actual, label: &dyn Fn(OwnerTag) -> Option<String>) -> String {
    let label = |tag: OwnerTag| label(tag).unwrap_or_else(|| format!("{:016x}", tag.0));
    let mut blocks: Vec<String> =
        services(actual).iter().map(|row| service_text(row, &label(row.tag))).collect();
    blocks.sort_unstable();
    let mut out = blocks.concat();
    for row in frontends(actual) {
        let line = frontend_text(&row, &label(row.tag));
        out.push_str(&line);
    }
    let mut addrs: Vec<(Addr, NodeAddrFlags)> =
        actual.node_addrs().iter().map(|(addr, flags)| (*addr, *flags)).collect();
    addrs.sort_unstable_by_key(|(addr, _)| addr.to_ip());
    for (addr, flags) in addrs {
        let node_port = if flags.serves_node_ports() { " node-port" } else { "" };
        let local = if flags.0 & NodeAddrFlags::LOCAL.0 != 0 { " local" } else { "" };
        let _ = writeln!(out, "node {addr}{node_port}{local}");
    }
    let mut ranges: Vec<String> =
        actual.cidrs().iter().map(|key| format!("range {}\n", range_text(key))).collect();
    ranges.sort_unstable();
    out + &ranges.concat()
}

fn service_row(actual: &Actual, tag: OwnerTag, service: u32) -> ServiceRow {
    let head = actual.head(service);
    let target = |id: u32| {
        let row = actual.row(id);
        (row.addr, row.port)
    };
    let views = actual
        .views(service)
        .map(|word| ViewRow { kind: word.kind(), slots: actual.slot_ids(word).map(target).collect() });
    let mut backends: Vec<BackendRow> = actual
        .rows_of(service)
        .map(|id| {
            let row = actual.row(id);
            BackendRow { id, generation: row.generation, target: target(id), state: row.state() }
        })
        .collect();
    backends.sort_unstable_by_key(|row| (row.target.0.to_ip(), row.target.1.get(), row.id));
    let mut sources: Vec<CidrKey> = actual.sources_of(service).collect();
    sources.sort_unstable_by_key(|range| (range.addr.to_ip(), range.prefix_len));
    let (sequence, affinity_seconds) = (head.sequence(), head.affinity_seconds());
    ServiceRow { service, tag, sequence, affinity_seconds, views, sources, backends }
}

fn service_text(row: &ServiceRow, label: &str) -> String {
    let mut out = format!("service {label}");
    if row.affinity_seconds > 0 {
        let _ = write!(out, " affinity={}s", row.affinity_seconds);
    }
    out.push('\n');
    for (view, ViewRow { kind, slots }) in View::ALL.into_iter().zip(&row.views) {
        let kind = match kind {
            ViewKind::Pass => "pass",
            ViewKind::Random => "random",
            ViewKind::Reject => "reject",
            ViewKind::Drop => "drop",
        };
        let mut slots = slots.clone();
        slots.sort_unstable_by_key(|(addr, port)| (addr.to_ip(), port.get()));
        let slots: Vec<String> = slots.into_iter().map(target_text).collect();
        let line = [vec![view_name(view).into(), kind.into()], slots].concat().join(" ");
        let _ = writeln!(out, "  {line}");
    }
    for range in &row.sources {
        let _ = writeln!(out, "  source {}", range_text(range));
    }
    for BackendRow { target, state, .. } in &row.backends {
        let views = View::ALL.into_iter().filter(|view| state.in_view(*view)).map(view_name);
        let words: Vec<String> =
            std::iter::once(target_text(*target)).chain(views.map(String::from)).collect();
        let _ = writeln!(out, "  backend {}", words.join(" "));
    }
    out
}

fn frontend_text(row: &FrontendRow, label: &str) -> String {
    let FrontendKey { addr, port, proto, .. } = row.key;
    if row.key.is_owned_vip() {
        return format!("owned {addr}\n");
    }
    let kind = kind_name(row.value.kind);
    let check = if row.value.flags & FrontendValue::CHECK_SOURCE != 0 { " check-source" } else { "" };
    format!("frontend {}/{proto} {kind}{check} -> {label}\n", target_text((addr, port)))
}

/// A range as people write it.
pub fn range_text(range: &CidrKey) -> String {
    let len = if range.addr.is_v4() { range.prefix_len.saturating_sub(96) } else { range.prefix_len };
    format!("{}/{len}", range.addr)
}

/// The name of a [`FrontendKind`] as stored.
pub fn kind_name(kind: u8) -> &'static str {
    match FrontendKind::from_raw(kind) {
        Some(FrontendKind::ClusterIp) => "cluster-ip",
        Some(FrontendKind::NodePort) => "node-port",
        Some(FrontendKind::LoadBalancer) => "load-balancer",
        Some(FrontendKind::ExternalIp) => "external-ip",
        Some(FrontendKind::OwnedVip) => "owned-vip",
        None => "unknown",
    }
}

/// The name of a view.
pub fn view_name(view: View) -> &'static str {
    match view {
        View::Internal => "internal",
        View::Cluster => "cluster",
        View::External => "external",
    }
}

fn target_text((addr, port): Target) -> String {
    std::net::SocketAddr::new(addr.to_ip(), port.get()).to_string()
}
