//! What the agent says of itself: build, readiness, batches, sources.

use jiff::Timestamp;

use super::family::{Family, Kind, Value};
use crate::status::{AgentStatus, ClientStatus, Flows, Measures, SourceStatus};

/// All of it.
pub(super) fn families(status: &AgentStatus, measures: &Measures) -> Vec<Family> {
    let mut families = vec![build(status)];
    families.extend(state(status));
    families.extend(batches(status, measures));
    families.extend(sources(status));
    families.extend(clients(&status.clients));
    families.extend(flows(measures.flows));
    families
}

fn flows(flows: Flows) -> [Family; 3] {
    let mut counted = Family::new(
        Kind::Gauge,
        "shunt_flows",
        "Flows of the packet path when last swept, by state: settled once the client has answered an answer, opening before.",
    );
    for (state, count) in [("settled", flows.settled), ("opening", flows.opening)] {
        counted.push(vec![("state", state.to_owned())], Value::Whole(count));
    }
    let removed = (
        "shunt_flow_records_removed_total",
        "Records of flows that the sweep has removed; a flow has two or three.",
    );
    let took = ("shunt_flow_sweep_seconds", "How long the last sweep of the tables of flows took.");
    [
        counted,
        Family::single(Kind::Counter, removed, Value::Whole(flows.removed)),
        Family::single(Kind::Gauge, took, Value::Real(flows.sweep_seconds)),
    ]
}

fn build(status: &AgentStatus) -> Family {
    let labels = [
        ("version", status.agent.version.clone()),
        ("schema", status.agent.schema.to_string()),
        ("object", status.agent.object_hash.clone()),
    ];
    let mut family = Family::new(
        Kind::Info,
        "shunt_build_info",
        "Version of the agent, version of its map layouts, and SHA-256 of its eBPF object.",
    );
    family.push(labels.into(), Value::Whole(1));
    family
}

fn clients(clients: &ClientStatus) -> [Family; 5] {
    let mut sockets = Family::new(
        Kind::Counter,
        "shunt_udp_sockets_total",
        "Connected UDP sockets whose backend was gone, by what became of them: moved to another, sent to wait for one, destroyed \
         since their descriptor could not be had, lost if that failed too.",
    );
    for (outcome, count) in [
        ("moved", clients.udp_moved),
        ("sent-to-wait", clients.udp_sent_to_wait),
        ("destroyed", clients.udp_destroyed),
        ("lost", clients.udp_lost),
    ] {
        sockets.push(vec![("outcome", outcome.to_owned())], Value::Whole(count));
    }
    let gauge = |name, help, value| Family::single(Kind::Gauge, (name, help), Value::Whole(value));
    [
        sockets,
        gauge(
            "shunt_udp_sockets_waiting",
            "Connected UDP sockets that wait for a backend.",
            clients.udp_waiting,
        ),
        gauge(
            "shunt_network_namespaces",
            "Network namespaces whose addresses are known.",
            clients.namespaces,
        ),
        gauge(
            "shunt_affinity_entries",
            "Clients remembered by service ports with affinity.",
            clients.affinity,
        ),
        gauge(
            "shunt_egress_guard",
            "1 while the egress guard is in force, which drops what must time out.",
            u64::from(clients.is_guarded),
        ),
    ]
}

fn state(status: &AgentStatus) -> [Family; 9] {
    let gauge = |name, help, value| Family::single(Kind::Gauge, (name, help), Value::Whole(value));
    [
        gauge(
            "shunt_ready",
            "1 once every source has listed and the maps have held it, else 0.",
            u64::from(status.ready_at.is_some()),
        ),
        gauge(
            "shunt_node_eligible",
            "1 if load balancers may choose this node; 0 once its Node is going.",
            u64::from(status.node_eligible),
        ),
        gauge(
            "shunt_pending_changes",
            "What waits to be written: 0 if nothing does, else at least 1; what was refused does not count.",
            status.sync.pending,
        ),
        gauge(
            "shunt_refused_service_ports",
            "Service ports that the maps have no room for.",
            status.refused.count as u64,
        ),
        gauge(
            "shunt_frontend_conflicts",
            "Frontends that a service port goes without, since another has them.",
            status.conflicts.count as u64,
        ),
        gauge(
            "shunt_health_check_sockets",
            "Sockets that answer health checks of Services.",
            status.health_checks.listening as u64,
        ),
        gauge(
            "shunt_health_check_sockets_failed",
            "Sockets for health checks of Services that cannot be opened, and are tried again.",
            status.health_checks.failed.count as u64,
        ),
        gauge(
            "shunt_local_vips",
            "Cluster IPs that are left alone, since they are addresses of this node.",
            status.local_vips.count as u64,
        ),
        Family::single(
            Kind::Counter,
            ("shunt_warnings_total", "Warnings about the input or the host."),
            Value::Whole(status.warnings.count),
        ),
    ]
}

fn batches(status: &AgentStatus, measures: &Measures) -> [Family; 4] {
    let counter = |name, help, value| Family::single(Kind::Counter, (name, help), Value::Whole(value));
    [
        counter("shunt_batches_total", "Batches, also those that ended early.", status.sync.batches),
        counter(
            "shunt_batch_failures_total",
            "Batches that ended early; what they left was tried again.",
            measures.failed_batches,
        ),
        counter("shunt_map_operations_total", "Map operations executed.", status.sync.ops),
        counter("shunt_map_stores_total", "Words stored into mapped arrays.", status.sync.stores),
    ]
}

/// What one series of a source is made of.
type Read = fn(&SourceStatus) -> Option<Value>;

fn sources(status: &AgentStatus) -> Vec<Family> {
    let rows: [(Kind, &'static str, &'static str, Read); 5] = [
        (Kind::Gauge, "shunt_source_listed", "1 once the source has listed, else 0.", |source| {
            Some(Value::Whole(u64::from(source.listed_at.is_some())))
        }),
        (Kind::Gauge, "shunt_source_connected", "1 while the API server is watched, else 0.", |source| {
            let connection = source.connection.as_ref()?;
            Some(Value::Whole(u64::from(connection.watching_since.is_some())))
        }),
        (
            Kind::Gauge,
            "shunt_source_lost_seconds",
            "For how long the API server has not been watched; 0 while it is.",
            |source| source.connection.as_ref().map(|watch| Value::Real(lost_for(watch.lost_since))),
        ),
        (
            Kind::Counter,
            "shunt_source_lists_total",
            "Listings of the API server that were completed: the first, and each relist.",
            |source| source.connection.as_ref().map(|watch| Value::Whole(watch.listings)),
        ),
        (Kind::Counter, "shunt_source_faults_total", "Faults of watching the API server.", |source| {
            source.connection.as_ref().map(|watch| Value::Whole(watch.faults))
        }),
    ];
    let filled = |(kind, name, help, read): (Kind, &'static str, &'static str, Read)| {
        let mut family = Family::new(kind, name, help);
        for source in &status.sources {
            if let Some(value) = read(source) {
                family.push(vec![("source", source.name.clone())], value);
            }
        }
        family
    };
    rows.into_iter().map(filled).collect()
}

fn lost_for(since: Option<Timestamp>) -> f64 {
    since.map_or(0.0, |since| Timestamp::now().duration_since(since).as_secs_f64().max(0.0))
}
