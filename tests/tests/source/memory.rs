//! What the source costs in memory, measured in a process of its own.

use std::process::Command;

use serde_json::json;
use shunt::source::kube::{Access, Bounds, Identity};
use tests::apiserver::{ApiServer, NODES, SERVICES, SLICES};

use crate::rig::{NODE, Rig, service};

/// Set for the process that follows: the address of the server.
const CHILD: &str = "SHUNT_TEST_FOLLOW";
const SERVICES_COUNT: u32 = 10_000;
const ENDPOINTS: u32 = 5;
/// Of the whole agent; the source and the state are the larger part of it.
const LIMIT_KB: u64 = 40 << 10;

fn anonymous_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn fill(server: &ApiServer) {
    for index in 0..SERVICES_COUNT {
        let name = format!("service-{index}");
        let ip = |first: u8, number: u32| {
            format!("{first}.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)
        };
        let fields: Vec<_> = (0..20).map(|field| json!({ format!("f:{field}"): { "f:x": {} } })).collect();
        let mut object = service(&name, &ip(10, index + 256));
        object["metadata"]["managedFields"] = json!(fields);
        server.put(SERVICES, object);
        let endpoint = |ordinal| {
            json!({
                "addresses": [ip(11, index * ENDPOINTS + ordinal)], "nodeName": format!("node-{}", ordinal * 7),
                "conditions": { "ready": true, "serving": true, "terminating": false }, "zone": "z",
                "targetRef": { "kind": "Pod", "name": format!("{name}-{ordinal}"), "namespace": "default" },
            })
        };
        let slice = json!({
            "metadata": {
                "name": format!("{name}-x7fk2"), "namespace": "default", "managedFields": fields,
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4", "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        });
        server.put(SLICES, slice);
    }
    server.put(NODES, json!({ "metadata": { "name": NODE } }));
}

#[test]
fn ten_thousand_services_fit_in_forty_megabytes() {
    if let Ok(url) = std::env::var(CHILD) {
        let access = Access::resolve(&[url], Identity::ServiceAccount("/absent".into())).unwrap();
        let mut rig = Rig::follow(access, Bounds::default());
        // The events are the state's alone here, as in the agent.
        rig.until("everything is listed", |rig| rig.state.is_listed());
        rig.events = Vec::new();
        println!("services={} anonymous={}", rig.state.service_names().count(), anonymous_kb());
        return;
    }
    let server = ApiServer::start().unwrap();
    fill(&server);
    for streams in [true, false] {
        server.behave(|manners| manners.streams_lists = streams);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::ten_thousand_services_fit_in_forty_megabytes", "--nocapture"])
            .env(CHILD, server.url())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let rest = text.split("services=10000 anonymous=").nth(1).unwrap_or_else(|| panic!("{text}"));
        let kilobytes: u64 = rest.split_whitespace().next().unwrap().parse().unwrap();
        println!("streaming {streams}: {kilobytes} kB");
        assert!(kilobytes < LIMIT_KB, "streaming {streams}: {kilobytes} kB");
    }
}
