//! Traces for people: one port at length, or a line for each of many.

use crate::cmd::columns;
use crate::trace::{AffinityFound, BackendFound, Destination, SourceFound, SourcesFound, Trace};

/// Backends that are shown; the rest is counted.
const SHOWN: usize = 20;

/// The text of all traces.
pub(super) fn text(traces: &[Trace], asked: Destination) -> String {
    match (traces, asked.port) {
        ([trace], Some(_)) => full(trace),
        _ => list(traces),
    }
}

/// A line for each port of an address.
fn list(traces: &[Trace]) -> String {
    let rows = traces.iter().map(|trace| {
        let frontend = trace.frontend.as_ref();
        [
            // An address without a service port was asked for as such.
            trace.destination.replace(":0/", ":any/"),
            frontend.map_or_else(dash, |found| found.kind.to_owned()),
            frontend.map_or_else(dash, |found| found.service.clone()),
            trace.view.as_ref().map_or_else(dash, |found| found.view.to_owned()),
            trace.verdict.text.clone(),
        ]
    });
    let mut out = columns(["DESTINATION", "KIND", "SERVICE", "VIEW", "VERDICT"], rows);
    if let Some(trace) = traces.first() {
        out = format!("from {}: {}\n\n{out}", trace.origin, trace.origin_reason);
    }
    let mut notes: Vec<&String> = traces.iter().flat_map(|trace| &trace.notes).collect();
    notes.sort_unstable();
    notes.dedup();
    out + &note_lines(&notes)
}

fn dash() -> String {
    "-".to_owned()
}

/// One port, with all that led to the verdict.
fn full(trace: &Trace) -> String {
    let mut lines = vec![
        ("from", format!("{}: {}", trace.origin, trace.origin_reason)),
        ("to", trace.destination.clone()),
        ("verdict", trace.verdict.text.clone()),
    ];
    if let Some(found) = &trace.frontend {
        let text =
            format!("{} ({}, cell {}), by its {}", found.service, found.family, found.cell, found.kind);
        lines.push(("service", text));
    }
    if let Some(found) = &trace.view {
        let text =
            format!("{}: {} (half {}, sequence {})", found.view, found.reason, found.half, found.sequence);
        lines.push(("view", text));
        lines.push(("affinity", affinity(trace.affinity.as_ref())));
        lines.push(("sources", sources(trace.source_ranges.as_ref())));
    }
    lines.extend(trace.open_sockets.iter().map(|text| ("open sockets", text.clone())));
    lines.extend(trace.seen_as.map(|text| ("seen as", text.to_owned())));
    let mut out: String = lines.iter().map(|(title, text)| line(title, text)).collect();
    let notes: Vec<&String> = trace.notes.iter().collect();
    out += &note_lines(&notes);
    let steps = trace.steps.iter().map(|step| [step.table.to_owned(), step.key.clone(), step.found.clone()]);
    out = format!("{out}\n{}", columns(["LOOKED INTO", "FOR", "FOUND"], steps));
    if trace.backends.is_empty() { out } else { format!("{out}\n{}", backends(&trace.backends)) }
}

fn note_lines(notes: &[&String]) -> String {
    notes.iter().map(|note| line("note", note)).collect()
}

fn line(title: &str, text: &str) -> String {
    format!("{title:<14}{text}\n")
}

fn affinity(found: Option<&AffinityFound>) -> String {
    let Some(AffinityFound { timeout_seconds, remembered }) = found else { return "none".to_owned() };
    let Some(memory) = remembered else {
        return format!("timeout {timeout_seconds} s; the client is not remembered");
    };
    let backend = memory.backend.as_deref().unwrap_or("a row that is another endpoint's by now");
    let use_of = match (memory.decides, memory.standing) {
        (true, _) => "decides".to_owned(),
        (false, "fresh") => "does not decide: the view does not have that backend".to_owned(),
        (false, standing) => format!("does not decide: {standing}"),
    };
    format!(
        "timeout {timeout_seconds} s; {} was given {backend} {} s ago, which {use_of}",
        memory.client, memory.age_seconds
    )
}

fn sources(found: Option<&SourcesFound>) -> String {
    let Some(SourcesFound { clients, admission }) = found else { return "any".to_owned() };
    let words = |found: &SourceFound| {
        format!("{} within {}", found.address, if found.allowed { "a range" } else { "none" })
    };
    let clients: Vec<String> = clients.iter().map(words).collect();
    if clients.is_empty() {
        format!("ranges, {admission}")
    } else {
        format!("ranges, {admission}: {}", clients.join(", "))
    }
}

fn backends(found: &[BackendFound]) -> String {
    let rows = found.iter().take(SHOWN).map(|backend| {
        let mut states = backend.views.clone();
        states.insert(0, if backend.serving { "serving" } else { "not serving" });
        [
            backend.backend.clone(),
            if backend.candidate { "yes" } else { "no" }.to_owned(),
            backend.row.to_string(),
            backend.generation.to_string(),
            states.join(","),
        ]
    });
    let text = columns(["BACKEND", "CANDIDATE", "ROW", "GENERATION", "STATE"], rows);
    let rest = found.get(SHOWN..).unwrap_or_default();
    if rest.is_empty() {
        return text;
    }
    let candidates = rest.iter().filter(|backend| backend.candidate).count();
    format!("{text}and {} more, {candidates} of them candidates\n", rest.len())
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
