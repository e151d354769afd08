//! Pods without a kubelet: the real controllers make, change and remove the slices of a Service.

use std::time::Duration;

use serde_json::Value;
use tests::cluster::objects::{Pod, Service};
use tests::cluster::{Api, ControlPlane, Options};
use tests::topology::Cluster;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn slices_follow_the_pods_of_a_service() {
    let topology = Cluster::new(2, 1).unwrap();
    let control = ControlPlane::start(&topology, &Options::default()).unwrap();
    let api = control.api().unwrap();
    api.create_namespace("shop").unwrap();
    let labels = [("app", "web")];
    let service = Service { namespace: "shop", name: "web", selector: &labels, port: 80, target_port: 8080 };
    let cluster_ips = api.create_service(&service).unwrap();
    assert!(cluster_ips[0].is_ipv4() && cluster_ips[1].is_ipv6(), "{cluster_ips:?}");
    let (one, two) = (topology.pod(1, 1), topology.pod(2, 1));
    let ips = [[one.v4, one.v6], [two.v4, two.v6]];
    for (index, node) in topology.nodes.iter().enumerate() {
        api.create_node(node, Some("zone-a")).unwrap();
        api.run_pod(&pod(&node.pods[0].name, &node.name, &ips[index])).unwrap();
    }
    let reference = service.reference();
    api.wait_ready_endpoints(&reference, ips.as_flattened()).unwrap();
    let slices = api.slices(&reference).unwrap();
    assert_eq!(slices.len(), 2, "one of each family: {slices:?}");
    assert!(slices.iter().all(|slice| slice["ports"][0]["port"] == 8080), "{slices:?}");
    let listed = endpoint(api, &service, &one.name).unwrap();
    assert_eq!((&listed["nodeName"], &listed["zone"]), (&"node-1".into(), &"zone-a".into()));

    let first = pod(&one.name, "node-1", &ips[0]);
    api.set_ready(&first.reference(), false).unwrap();
    api.wait_ready_endpoints(&reference, &ips[1]).unwrap();
    api.set_ready(&first.reference(), true).unwrap();
    api.wait_ready_endpoints(&reference, ips.as_flattened()).unwrap();

    // Nobody ends the pod, so it terminates until it is deleted for good.
    api.delete_within(&first.reference(), 60).unwrap();
    api.wait_ready_endpoints(&reference, &ips[1]).unwrap();
    let ending = conditions(api, &service, &one.name);
    assert_eq!((&ending["terminating"], &ending["serving"]), (&true.into(), &true.into()), "{ending}");
    api.delete(&first.reference()).unwrap();
    wait::until(LIMIT, "the endpoint to go", || {
        Ok(endpoint(api, &service, &one.name).is_none().then_some(()))
    })
    .unwrap();

    api.delete(&reference).unwrap();
    wait::until(LIMIT, "the slices to go", || Ok(api.slices(&reference)?.is_empty().then_some(()))).unwrap();
}

fn pod<'a>(name: &'a str, node: &'a str, ips: &'a [std::net::IpAddr]) -> Pod<'a> {
    Pod { namespace: "shop", name, node, labels: &[("app", "web")], ips }
}

/// The conditions of the endpoint that is the pod `name`.
fn conditions(api: &Api, service: &Service<'_>, name: &str) -> Value {
    endpoint(api, service, name).unwrap()["conditions"].clone()
}

/// The endpoint that is the pod `name`, of either family.
fn endpoint(api: &Api, service: &Service<'_>, name: &str) -> Option<Value> {
    let slices = api.slices(&service.reference()).unwrap();
    let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    endpoints.into_iter().find(|endpoint| endpoint["targetRef"]["name"] == name).cloned()
}
