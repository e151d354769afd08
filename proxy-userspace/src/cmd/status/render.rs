//! The form of `shunt status` for people.

use std::fmt::Write;

use jiff::SignedDuration;

use super::{ObservedDevice, ObservedHook, ObservedShortcuts, StatusReport};
use crate::cmd::{columns, plain};
use crate::maps::fill::MapFill;
use crate::source::kube::Connection;
use crate::status::{AgentStatus, ClientStatus, PacketStatus, SyncStatus};

/// The whole report.
pub(super) fn table(report: &StatusReport) -> String {
    let mut text = String::new();
    let status = report.agent.status.as_ref();
    match (status, &report.agent.absent) {
        (Some(status), _) => agent(&mut text, status),
        (None, reason) => {
            line(&mut text, "agent", &format!("not running ({})", reason.as_deref().unwrap_or("no answer")));
        }
    }
    line(&mut text, "pins", &report.pin_dir.display().to_string());
    for note in &report.notes {
        line(&mut text, "note", note);
    }
    text.push('\n');
    text.push_str(&hooks(report, status));
    if !(report.devices.is_empty() && report.missing_devices.is_empty()) {
        text.push('\n');
        text.push_str(&devices(report));
    }
    if !report.maps.is_empty() {
        text.push('\n');
        text.push_str(&columns(["MAP", "USED", "ALLOCATED", "LIMIT", "BYTES"], report.maps.iter().map(map)));
    }
    if let Some(status) = status {
        text.push('\n');
        text.push_str(&sources(status));
        troubles(&mut text, status);
    }
    text
}

fn agent(text: &mut String, status: &AgentStatus) {
    let agent = &status.agent;
    let uptime = SignedDuration::from_secs(i64::try_from(status.uptime_seconds).unwrap_or(i64::MAX));
    let running = format!(
        "running on {}, pid {}, version {}, up {uptime:#}",
        agent.node_name, agent.pid, agent.version
    );
    line(text, "agent", &running);
    let ready = match status.ready_at {
        Some(at) => format!("since {at:.3}"),
        None => format!("no: {}", status.reasons_not_ready().join("; ")),
    };
    line(text, "ready", &ready);
    line(text, "object", &format!("{}, schema {}", agent.object_hash, agent.schema));
    if let Some(cgroup) = &status.cgroup {
        line(text, "cgroup", &format!("{} ({})", cgroup.path, cgroup.id));
    }
    line(text, "client", &clients(&status.clients));
    if let Some(packet) = &status.packet {
        let PacketStatus { means, flows, ports, devices, settled, opening, shortcuts } = packet;
        let devices = devices.len();
        let words = format!(
            "{devices} devices by {means}, {settled} flows and {opening} opening, {flows} records at most, ports {ports}, \
             shortcuts {shortcuts}"
        );
        line(text, "packet", &words);
    }
    line(text, "sync", &sync(&status.sync));
    if let Some(error) = &status.sync.last_error {
        line(text, "failed", error);
    }
    if status.health_checks.listening > 0 {
        line(text, "checks", &format!("{} sockets answer health checks", status.health_checks.listening));
    }
    if !status.node_eligible {
        line(text, "node", "going: load balancers are told to avoid it");
    }
    for limitation in &status.limitations {
        line(text, "limit", limitation);
    }
}

fn clients(clients: &ClientStatus) -> String {
    let ClientStatus { namespaces, udp_moved, udp_waiting, udp_destroyed, udp_lost, affinity, .. } = clients;
    let guard = if clients.is_guarded { "on" } else { "off" };
    let mut text = format!(
        "{namespaces} network namespaces, {affinity} remembered, egress guard {guard}; UDP sockets: {udp_moved} moved, \
         {udp_waiting} waiting"
    );
    if clients.is_host_only {
        text += ", pods left to others";
    }
    for (count, what) in [(udp_destroyed, "destroyed"), (udp_lost, "out of reach")] {
        if *count > 0 {
            // Writing into a text cannot fail.
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

fn sync(sync: &SyncStatus) -> String {
    let last = sync.last_at.map(|at| {
        let (millis, micros) = (sync.last_micros / 1000, sync.last_micros % 1000);
        format!("; last at {at:.3} in {millis}.{micros:03} ms")
    });
    let since = sync.pending_since.map(|since| format!(" since {since:.3}"));
    format!(
        "{} batches, {} ops, {} stores{}; {} pending{}",
        sync.batches,
        sync.ops,
        sync.stores,
        last.unwrap_or_default(),
        sync.pending,
        since.unwrap_or_default()
    )
}

fn hooks(report: &StatusReport, status: Option<&AgentStatus>) -> String {
    let is_intended = |name: &str| status.is_some_and(|status| status.hooks.iter().any(|hook| hook == name));
    let present = report.hooks.iter().map(hook);
    let absent = report.missing_hooks.iter().map(|name| {
        let state = if is_intended(name) { "MISSING" } else { "not attached" };
        [(*name).to_owned(), state.to_owned(), String::new(), String::new(), String::new()]
    });
    columns(["HOOK", "STATE", "PROGRAM", "TAG", "CGROUP"], present.chain(absent))
}

fn hook(hook: &ObservedHook) -> [String; 5] {
    let (state, cgroup) = match (hook.cgroup_id, &hook.path) {
        (0, _) => ("DETACHED", "gone".to_owned()),
        (id, Some(path)) => ("attached", format!("{} ({id})", path.display())),
        (id, None) => ("attached", id.to_string()),
    };
    [hook.name.to_owned(), state.to_owned(), hook.program_id.to_string(), hook.program_tag.clone(), cgroup]
}

fn devices(report: &StatusReport) -> String {
    let present = report.devices.iter().map(device);
    let absent = report.missing_devices.iter().map(|name| {
        let mut row: [String; 7] = Default::default();
        name.clone_into(&mut row[0]);
        "MISSING".clone_into(&mut row[2]);
        row
    });
    let titles = ["DEVICE", "HOOK", "STATE", "PROGRAM", "TAG", "SHORTCUTS", "OTHERS"];
    columns(titles, present.chain(absent))
}

fn device(side: &ObservedDevice) -> [String; 7] {
    let (device, state) = match &side.device {
        Some(name) => (name.clone(), format!("attached ({})", side.means)),
        None => (side.index.to_string(), "GONE".to_owned()),
    };
    let others = side.others.iter().map(|other| {
        let place = if other.is_outside { "before" } else { "behind" };
        format!("{} ({}) {place} it", plain(&other.name), other.id)
    });
    let others = others.collect::<Vec<_>>().join(", ");
    let (program, tag) = (side.program_id.to_string(), side.program_tag.clone());
    let shortcuts = side.shortcuts.as_ref().map(shortcuts).unwrap_or_default();
    [device, side.hook.to_owned(), state, program, tag, shortcuts, others]
}

fn shortcuts(found: &ObservedShortcuts) -> String {
    let ago = found.seconds_ago.map(|seconds| format!(" {seconds:.1} s ago")).unwrap_or_default();
    let who = found.in_the_way.join(", ");
    let state = found.state;
    if who.is_empty() { format!("{state}{ago}") } else { format!("{state}{ago}: {who}") }
}

fn map(fill: &MapFill) -> [String; 5] {
    let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    [
        fill.map.to_owned(),
        number(fill.used),
        fill.allocated.to_string(),
        number(fill.limit),
        number(fill.bytes),
    ]
}

fn sources(status: &AgentStatus) -> String {
    let row = |source: &crate::status::SourceStatus| {
        let listed = source.listed_at.map_or_else(|| "not yet".to_owned(), |at| format!("{at:.3}"));
        [source.name.clone(), listed]
    };
    if status.sources.iter().all(|source| source.connection.is_none()) {
        return columns(["SOURCE", "LISTED"], status.sources.iter().map(row));
    }
    let rows = status.sources.iter().map(|source| {
        let [name, listed] = row(source);
        let mut watch = String::new();
        if let Some(connection) = &source.connection {
            watch.push_str(&plain(&connection_words(connection)));
        }
        [name, listed, watch]
    });
    columns(["SOURCE", "LISTED", "WATCH"], rows)
}

fn connection_words(connection: &Connection) -> String {
    let Connection { server, peer, watching_since, lost_since, last_error, listings, faults, absent } =
        connection;
    let counts = format!("{listings} listings, {faults} faults");
    let state = match (absent, watching_since, lost_since) {
        (Some(reason), ..) => format!("none: {reason}"),
        (None, Some(since), _) => format!("watching since {since:.3}"),
        (None, None, Some(since)) => {
            format!("LOST since {since:.3}: {}", last_error.as_deref().unwrap_or("no answer yet"))
        }
        (None, None, None) => "not tried yet".to_owned(),
    };
    // Where a name stands for it.
    let peer = peer.map(|peer| peer.ip().to_string()).filter(|ip| !server.contains(ip));
    let peer = peer.map(|ip| format!(" at {ip}")).unwrap_or_default();
    format!("{server}{peer} {state} ({counts})")
}

fn troubles(text: &mut String, status: &AgentStatus) {
    let refused = status.refused.first.iter();
    let refused: Vec<_> =
        refused.map(|refusal| format!("{}: {} is full", refusal.service, refusal.table)).collect();
    section(text, "service ports refused", status.refused.count as u64, &refused);
    let conflicts = status.conflicts.first.iter();
    let conflicts: Vec<_> = conflicts
        .map(|conflict| format!("{}: {} is held by {}", conflict.service, conflict.frontend, conflict.holder))
        .collect();
    section(text, "frontends claimed twice", status.conflicts.count as u64, &conflicts);
    let vips = status.local_vips.first.iter();
    let vips: Vec<_> = vips.map(|vip| format!("{} of {}", vip.address, vip.service)).collect();
    let title = "cluster IPs left alone, being addresses of this node";
    section(text, title, status.local_vips.count as u64, &vips);
    let failed = status.health_checks.failed.first.iter();
    let failed: Vec<_> =
        failed.map(|one| format!("{}: listen on {}: {}", one.service, one.address, one.problem)).collect();
    section(text, "health checks not answered", status.health_checks.failed.count as u64, &failed);
    let warnings = status.warnings.last.iter();
    let warnings: Vec<_> = warnings.map(|warning| format!("{:.3} {}", warning.at, warning.text)).collect();
    section(text, "warnings", status.warnings.count, &warnings);
}

/// A heading with the full count, and the items that were kept of it; nothing where there are none.
fn section(text: &mut String, title: &str, count: u64, items: &[String]) {
    if count == 0 {
        return;
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{count} {title}");
    if (items.len() as u64) < count {
        let _ = write!(text, ", {} shown", items.len());
    }
    text.push('\n');
    for item in items {
        text.push_str("  ");
        text.push_str(&plain(item));
        text.push('\n');
    }
}

fn line(text: &mut String, title: &str, value: &str) {
    let _ = write!(text, "{:<8}", format!("{title}:"));
    text.push_str(&plain(value));
    text.push('\n');
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
