//! `/metrics` and the health of the node, of an agent that serves.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tests::agent::Agent;
use tests::exposition::Exposition;
use tests::wait;

use crate::scenario::{IDLE, PORT, Scenario, WEB};

const LIMIT: Duration = Duration::from_secs(10);

fn scrape(agent: &Agent<'_>) -> Exposition {
    let text = agent.scrape("").unwrap();
    Exposition::parse(&text, false).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

/// Labels of the only port of a Service of the scenario.
fn labels(service: &str, is_v6: bool) -> [(&str, &str); 5] {
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    [
        ("namespace", "default"),
        ("service", service),
        ("port", "80"),
        ("protocol", "tcp"),
        ("ip_family", family),
    ]
}

#[test]
fn a_scrape_is_well_formed_and_counts_what_clients_do() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    let open = agent.scrape("application/openmetrics-text;version=1.0.0").unwrap();
    let open = Exposition::parse(&open, true).unwrap_or_else(|error| panic!("{error:#}\n{open}"));
    let before = scrape(&agent);
    // Both formats tell the same families, but for what OpenMetrics leaves out of a name.
    let plain = |name: &String| name.trim_end_matches("_total").trim_end_matches("_info").to_owned();
    let names = |of: &Exposition| of.families.keys().map(plain).collect::<BTreeSet<_>>();
    assert_eq!(names(&open), names(&before));

    let single = |read: &Exposition, name: &str| read.get(name, &[]).unwrap_or_else(|| panic!("no {name}"));
    for (name, value) in
        [("shunt_ready", 1.0), ("shunt_maps_readable", 1.0), ("shunt_batch_failures_total", 0.0)]
    {
        assert!((single(&before, name) - value).abs() < 1e-9, "{name}");
    }
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "shunt_batches_total",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
    ] {
        assert!(single(&before, name) > 0.0, "{name}");
    }
    assert!(before.get("shunt_map_used_elements", &[("map", "SERVICES")]).is_some_and(|cells| cells >= 4.0));

    let client = scenario.cluster.pod(1, 1).place();
    let reached = |ips: [&str; 2], family: usize, times| {
        let target = SocketAddr::new(ips[family].parse().unwrap(), PORT);
        (0..times).filter(|_| client.get(target, &[]).unwrap().error.is_none()).count()
    };
    assert_eq!((reached(WEB, 0, 7), reached(WEB, 1, 3), reached(IDLE, 0, 2)), (7, 3, 0));
    let after = scrape(&agent);
    let gained = |name: &str, labels: &[(&str, &str)]| {
        after.get(name, labels).unwrap() - before.get(name, labels).unwrap()
    };
    let picked = "shunt_service_picked_total";
    assert!((gained(picked, &labels("web", false)) - 7.0).abs() < 1e-9);
    assert!((gained(picked, &labels("web", true)) - 3.0).abs() < 1e-9);
    assert!((gained("shunt_service_refused_total", &labels("idle", false)) - 2.0).abs() < 1e-9);
    assert!((gained("shunt_drops_total", &[("reason", "no-endpoints")]) - 2.0).abs() < 1e-9);
    assert_eq!(agent.http(false, "/proxyMode").unwrap(), (200, "shunt".to_owned()));
    assert!(agent.http(false, "/configz").unwrap().1.contains(&*node.name));
}

#[test]
fn beyond_the_limit_counters_are_added_up() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start_with(node, scenario.manifests.path(), &["--metrics-services", "1"]).unwrap();
    let read = scrape(&agent);
    let series: Vec<_> =
        read.series("shunt_service_picked_total").map(|(labels, _)| labels["service"].clone()).collect();
    assert_eq!((series.len(), series.iter().filter(|name| *name == "(other)").count()), (2, 1), "{series:?}");
}

#[test]
fn a_node_that_the_autoscaler_marks_is_not_eligible_and_still_serves() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    assert_eq!(agent.http(true, "/healthz").unwrap().0, 200);
    let turns = |code: u16| {
        wait::until_ok(LIMIT, "the health of the node to turn", || {
            let answer = agent.http(true, "/healthz").map_err(|error| error.to_string())?;
            if answer.0 == code { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .unwrap();
    };
    let marked = format!(
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: kubernetes}}\n\
         spec: {{cidrs: [10.96.0.0/16]}}\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\n\
         spec: {{taints: [{{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}]}}\n",
        node.name
    );
    scenario.manifests.write("cluster.yaml", &marked).unwrap();
    turns(503);
    let (code, body) = agent.http(true, "/healthz").unwrap();
    assert!(code == 503 && body.contains(r#""nodeEligible":false,"healthy":true"#), "{body}");
    assert_eq!(agent.http(true, "/livez").unwrap().0, 200);
    let target = SocketAddr::new(WEB[0].parse().unwrap(), PORT);
    assert_eq!(scenario.cluster.pod(1, 1).place().get(target, &[]).unwrap().error, None);
    scenario.manifests.write_cluster(&scenario.cluster).unwrap();
    turns(200);
}
