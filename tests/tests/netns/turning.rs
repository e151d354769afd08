//! Services that are turned into what is not served here, and back.

use serde_json::{Value, json};
use tests::agent::Agent;

use crate::scenario::{BACKEND_PORT, Scenario};
use crate::shop::{
    comes_to_be_unserved, endpoint, ingress, list, looks, put, service, settles, slice, tcp, udp,
};

fn shop() -> Scenario {
    let scenario = Scenario::new();
    put(&scenario, &service(json!({}), &ingress()));
    list(&scenario, &[2]);
    scenario
}

fn agent(scenario: &Scenario) -> Agent<'_> {
    Agent::start(scenario.cluster.node(1), scenario.manifests.path()).unwrap()
}

fn all_get(scenario: &Scenario, wanted: &str) {
    for (client, look) in looks(scenario) {
        settles(client, look, wanted);
    }
}

/// Writes these Services in turn: none of them is served, and the usual one is again.
fn turns_into(scenario: &Scenario, others: impl IntoIterator<Item = Value>) {
    all_get(scenario, "pod-2-2");
    for other in others {
        put(scenario, &other);
        for (client, look) in looks(scenario) {
            comes_to_be_unserved(client, look);
        }
        put(scenario, &service(json!({}), &ingress()));
        all_get(scenario, "pod-2-2");
    }
}

#[test]
fn a_service_of_another_type_is_nobodys_until_it_is_changed_back() {
    let scenario = shop();
    let _agent = agent(&scenario);
    // What an API server leaves of a Service that is only a name, and one that has no address yet.
    let name = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "default", "name": "shop" },
        "spec": { "type": "ExternalName", "externalName": "shop.example" },
    });
    let without = service(json!({ "clusterIP": "", "clusterIPs": [] }), &ingress());
    let headless =
        service(json!({ "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"] }), &json!([]));
    turns_into(&scenario, [name, without, headless]);
}

#[test]
fn a_service_of_another_proxy_is_left_to_it() {
    let scenario = shop();
    let labelled = |value: &str| {
        let mut service = service(json!({}), &ingress());
        service["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": value });
        service
    };
    // It starts so, and only the presence of the label counts.
    put(&scenario, &labelled("other"));
    let _agent = agent(&scenario);
    for (client, look) in looks(&scenario) {
        comes_to_be_unserved(client, look);
    }
    put(&scenario, &service(json!({}), &ingress()));
    turns_into(&scenario, [labelled("")]);
}

#[test]
fn a_headless_slice_feeds_nobody() {
    let scenario = shop();
    let _agent = agent(&scenario);
    let write = |is_headless: bool| {
        for family in [0, 1] {
            let ports = json!([tcp(BACKEND_PORT), udp(BACKEND_PORT)]);
            let mut slice = slice(("shop", family), &ports, vec![endpoint(&scenario, family, (2, 2))]);
            if is_headless {
                slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
            }
            put(&scenario, &slice);
        }
    };
    for (is_headless, wanted) in [(true, "ECONNREFUSED"), (false, "pod-2-2")] {
        write(is_headless);
        all_get(&scenario, wanted);
    }
}
