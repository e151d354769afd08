//! How new connections spread over the endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::agent::Agent;

use crate::churn::{Busy, VIP};
use crate::scenario::{BACKEND_PORT, Scenario};
use crate::shop::{KINDS, ask, endpoint, ingress, laid_over, list, looks, put, slice, tcp, udp, write};

/// Endpoints of the Service.
const ENDPOINTS: u8 = 8;
/// Connections of the look.
const CONNECTS: u64 = 8_000;
/// What chi-squared of seven degrees of freedom exceeds once in five million runs.
const UNLIKELY: f64 = 45.0;

/// How far these counts are from equal ones.
#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn chi_squared(counts: &BTreeMap<String, u64>) -> f64 {
    let expected = counts.values().sum::<u64>() as f64 / counts.len() as f64;
    counts.values().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

#[test]
fn connections_spread_evenly() {
    let busy = Busy::new(ENDPOINTS);
    let mut servers = busy.servers;
    for candidate in &busy.candidates {
        servers[0].open(candidate.address, &candidate.name).unwrap();
    }
    let list = |count: usize| {
        let endpoints: Vec<_> =
            busy.candidates[..count].iter().map(|one| (one.address.ip(), &*one.node)).collect();
        let slice = tests::manifests::Slice {
            service: crate::churn::SERVICE,
            port: busy.candidates[0].address.port(),
            protocol: "TCP",
            endpoints: &endpoints,
        };
        busy.manifests.write_slice(&slice).unwrap();
    };
    list(busy.candidates.len());
    let _agent = Agent::start(busy.cluster.node(1), busy.manifests.path()).unwrap();
    let client = busy.cluster.pod(1, 1).place();
    let vip: SocketAddr = VIP.parse().unwrap();
    let served = |count: u64| {
        let options = ["--count", &*count.to_string(), "--read-every", "1"];
        let report = client.connects(vip, &options).unwrap().wait(Duration::from_secs(30)).unwrap();
        assert_eq!(report.served.values().sum::<u64>(), count, "{report:?}");
        report.served
    };
    let mut counts = served(CONNECTS);
    assert_eq!(counts.len(), usize::from(ENDPOINTS));
    let even = chi_squared(&counts);
    // The control: one of the eight gets every sixth connection.
    list(1);
    std::thread::sleep(Duration::from_millis(500));
    for (name, count) in served(CONNECTS / 20) {
        *counts.get_mut(&name).unwrap() += count;
    }
    let uneven = chi_squared(&counts);
    println!("chi-squared {even:.1}, uneven {uneven:.1}");
    assert!(even < UNLIKELY && uneven > UNLIKELY, "{even:.1} {uneven:.1}");
}

#[test]
fn nobody_tries_a_second_endpoint_for_a_client() {
    let scenario = Scenario::new();
    write(&scenario, json!({}), &ingress());
    list(&scenario, &[]);
    // Two target ports, and only one of them has a listener.
    for family in [0, 1] {
        for (name, number) in [("alive", BACKEND_PORT), ("dead", BACKEND_PORT + 9)] {
            let endpoints = vec![laid_over(endpoint(&scenario, family, (1, 2)), json!({}))];
            let mut slice = slice(("shop", family), &json!([tcp(number), udp(number)]), endpoints);
            slice["metadata"]["name"] = json!(format!("shop-{name}-{family}"));
            put(&scenario, &slice);
        }
    }
    let _agent = Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap();
    // A datagram to the dead one is answered by nobody that its sender would hear.
    for (client, (target, kind)) in looks(&scenario).into_iter().filter(|(_, (_, kind))| *kind != KINDS[2]) {
        let answered = (0..40).filter(|_| ask(client, target, kind).name.is_some()).count();
        assert!((5..=35).contains(&answered), "{target} {kind:?}: {answered} of 40");
    }
}
