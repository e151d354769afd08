//! Connections that are established stay as they are, whatever becomes of their Service.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::mirror::{Seen, Way, agent, app, ask, leads_to, list_mirrors, mirror, say};
use crate::proofs_object::App;
use crate::scenario::{PORT, Scenario};
use crate::shop::{CLUSTER_IPS, LB_IPS, at, frontends, ingress, put, service, write};

/// Connections of one application, each through a frontend of its own.
struct Kept {
    app: App,
    before: Vec<(String, Seen)>,
}

impl Kept {
    fn open(scenario: &Scenario, place: Option<usize>) -> Self {
        let mut app = app(scenario.cluster.node(1), place);
        let before = frontends(scenario).into_iter().enumerate().map(|(index, (target, _))| {
            let name = format!("kept-{index}");
            let seen = ask(&mut app, &name, Way::Tcp, target).unwrap();
            assert_eq!(seen.peer, target);
            (name, seen)
        });
        let before = before.collect();
        Self { app, before }
    }

    #[track_caller]
    fn stay(&mut self, event: &str) {
        for (name, before) in &self.before {
            let seen =
                say(&mut self.app, name).unwrap_or_else(|error| panic!("{event}: {before:?}: {error:#}"));
            assert_eq!(seen, *before, "{event}");
        }
    }
}

#[test]
fn established_connections_stay_whatever_becomes_of_their_service() {
    let scenario = Scenario::new();
    write(&scenario, json!({}), &ingress());
    let mut mirrors = [1, 2].map(|node| mirror(&scenario, node));
    let ready = || json!({});
    list_mirrors(&scenario, &[(1, ready())]);
    let _agent = agent(&scenario);
    let mut kept = [Some(1), None].map(|place| Kept::open(&scenario, place));
    let mut probe = app(scenario.cluster.node(1), Some(1));
    let other = || scenario.cluster.pod(2, 2).v4;
    let (inside, outside) = (at(CLUSTER_IPS, PORT)[0], at(LB_IPS, PORT)[0]);
    let mut after = |event: &str, to: SocketAddr, wanted: Result<_, &str>| {
        leads_to(&mut probe, to, wanted);
        for one in &mut kept {
            one.stay(event);
        }
    };
    let conditions = |serving: bool, terminating: bool| json!({ "conditions": { "ready": false, "serving": serving, "terminating": terminating } });
    list_mirrors(&scenario, &[(1, conditions(false, false))]);
    after("it is not ready", inside, Err("ECONNREFUSED"));
    list_mirrors(&scenario, &[(1, conditions(true, true)), (2, ready())]);
    after("it terminates", inside, Ok(other()));
    list_mirrors(&scenario, &[(2, ready())]);
    after("it is gone from the slice", inside, Ok(other()));
    let local = json!({ "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local" });
    write(&scenario, local, &ingress());
    after("the policy wants another", inside, Err("timeout"));
    write(&scenario, ranges(&["192.0.2.0/24", "2001:db8:f::/48"]), &ingress());
    after("ranges shut it out", outside, Err("timeout"));
    write(&scenario, json!({ "sessionAffinity": "ClientIP" }), &ingress());
    after("affinity", outside, Ok(other()));
    write(&scenario, json!({ "type": "ClusterIP", "externalIPs": [] }), &json!([]));
    after("its frontends are taken away", inside, Ok(other()));
    let mut foreign = service(json!({}), &ingress());
    foreign["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "other" });
    put(&scenario, &foreign);
    after("another proxy's", inside, Err("timeout"));
    scenario.manifests.remove("shop.json").unwrap();
    after("its Service is deleted", inside, Err("timeout"));
    // The control: they would notice if anything became of the backend.
    mirrors[0].kill().unwrap();
    for kept in &mut kept {
        for (name, _) in &kept.before {
            assert!(say(&mut kept.app, name).is_err());
        }
    }
}

fn ranges(ranges: &[&str]) -> Value {
    json!({ "loadBalancerSourceRanges": ranges })
}
