//! The metrics that kube-proxy has too, by its names.

use proxy_common::service::View;

use super::family::{Family, Kind, Value};
use super::seconds;
use crate::maps::reading::Reading;
use crate::status::Measures;

/// All of them; those of the maps only where the maps could be read.
pub(super) fn families(measures: &Measures, reading: Option<&Reading>) -> Vec<Family> {
    let mut families = Vec::from(batches(measures));
    families.extend(changes(measures));
    families.extend(answers(measures));
    families.extend(reading.map(no_local_endpoints));
    families
}

fn batches(measures: &Measures) -> [Family; 4] {
    let mut programming = Family::new(
        Kind::Histogram,
        "kubeproxy_network_programming_duration_seconds",
        "From the cause of an endpoint change, as its EndpointSlice dates it, to the end of the batch that put it into \
         the maps; causes before the agent's start do not count.",
    );
    for (family, histogram) in ["IPv4", "IPv6"].into_iter().zip(&measures.programming_seconds) {
        programming.push(vec![("ip_family", family.to_owned())], Value::Observed(histogram.clone()));
    }
    [
        Family::single(
            Kind::Histogram,
            (
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "How long batches took, also those that ended early; one batch writes both IP families.",
            ),
            Value::Observed(measures.sync_seconds.clone()),
        ),
        Family::single(
            Kind::Gauge,
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When a batch last ended well, in seconds since 1970; 0 before the first.",
            ),
            Value::Real(seconds(measures.last_applied)),
        ),
        Family::single(
            Kind::Gauge,
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change was last taken in to be written, in seconds since 1970; 0 before the first.",
            ),
            Value::Real(seconds(measures.last_queued)),
        ),
        programming,
    ]
}

fn changes(measures: &Measures) -> [Family; 4] {
    let changes = measures.changes;
    let one = |kind, about, value| Family::single(kind, about, Value::Whole(value));
    [
        one(
            Kind::Gauge,
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices since the last batch that ended well.",
            ),
            changes.slices_pending,
        ),
        one(
            Kind::Counter,
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
            changes.slices,
        ),
        one(
            Kind::Gauge,
            (
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services since the last batch that ended well.",
            ),
            changes.services_pending,
        ),
        one(
            Kind::Counter,
            ("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services."),
            changes.services,
        ),
    ]
}

fn answers(measures: &Measures) -> [Family; 2] {
    let family = |name, help, counts: [u64; 2]| {
        let mut family = Family::new(Kind::Counter, name, help);
        for (code, count) in ["200", "503"].into_iter().zip(counts) {
            family.push(vec![("code", code.to_owned())], Value::Whole(count));
        }
        family
    };
    let [healthz, livez] = measures.answers;
    [
        family("kubeproxy_proxy_healthz_total", "Answers of /healthz on the health address.", healthz),
        family("kubeproxy_proxy_livez_total", "Answers of /livez on the health address.", livez),
    ]
}

fn no_local_endpoints(reading: &Reading) -> Family {
    let mut family = Family::new(
        Kind::Gauge,
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Service ports with a Local traffic policy and endpoints on other nodes only, of both IP families.",
    );
    for (policy, view) in [("internal", View::Internal), ("external", View::External)] {
        let count = reading.dropping[view as usize];
        family.push(vec![("traffic_policy", policy.to_owned())], Value::Whole(count));
    }
    family
}
