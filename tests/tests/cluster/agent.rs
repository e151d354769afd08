//! An agent on a node of the cluster: what it follows is what the real API server and the real controllers say.

use serde_json::json;
use tests::agent::Agent;
use tests::cluster::bulk::{self, BACKEND_PORT, PORT};
use tests::cluster::objects::{NODE, Pod, Ref, SLICE, Service};
use tests::cluster::{Api, ControlPlane, Options};
use tests::load::Servers;
use tests::topology::Cluster;
use tests::wait;

use crate::rig::{LIMIT, USER, at, not_served, serve, served_by, uncontrolled, verified};

const LABELS: [(&str, &str); 1] = [("app", "web")];
const WEB: Service<'static> =
    Service { namespace: "shop", name: "web", selector: &LABELS, port: PORT, target_port: BACKEND_PORT };
/// The label by which a node says where it is.
const ZONE: &str = "topology.kubernetes.io/zone";

fn serve_pods(topology: &Cluster, api: &Api) -> Vec<Servers> {
    let mut servers = Vec::new();
    for node in &topology.nodes {
        api.create_node(node, None).unwrap();
        let pod = &node.pods[1];
        servers.push(serve(pod));
        let ips = [pod.v4, pod.v6];
        let object = Pod { namespace: "shop", name: &pod.name, node: &node.name, labels: &LABELS, ips: &ips };
        api.run_pod(&object).unwrap();
    }
    servers
}

#[test]
fn services_and_pods_are_followed_through_the_real_controllers() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = ControlPlane::start(&topology, &Options::default()).unwrap();
    let api = control.api().unwrap();
    api.create_namespace("shop").unwrap();
    let vips = api.create_service(&WEB).unwrap();
    let _servers = serve_pods(&topology, api);
    let (one, two) = (topology.pod(1, 2), topology.pod(2, 2));
    api.wait_ready_endpoints(&WEB.reference(), &[one.v4, one.v6, two.v4, two.v6]).unwrap();

    let node = topology.node(1);
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let clients = [node.pods[0].place(), node.host()];
    let everywhere = || clients.iter().flat_map(|client| vips.iter().map(move |vip| (*client, at(*vip))));
    everywhere().for_each(|(client, vip)| served_by(client, vip, &[&one.name, &two.name]));

    let first = Pod { namespace: "shop", name: &one.name, node: "node-1", labels: &LABELS, ips: &[] };
    api.set_ready(&first.reference(), false).unwrap();
    everywhere().for_each(|(client, vip)| served_by(client, vip, &[&two.name]));
    api.set_ready(&first.reference(), true).unwrap();
    everywhere().for_each(|(client, vip)| served_by(client, vip, &[&one.name, &two.name]));

    let status = agent.status().unwrap();
    let watching =
        status["sources"].as_array().unwrap().iter().filter(|source| source["connection"].is_object());
    assert_eq!(watching.count(), 4, "{status}");
    let dump = agent.shunt(&["dump", "backends", "--service", "shop/web"]).unwrap();
    assert!(dump.contains(&one.v4.to_string()), "{dump}");

    api.delete(&WEB.reference()).unwrap();
    everywhere().for_each(|(client, vip)| not_served(client, vip));
}

#[test]
fn too_few_rights_are_named_and_cured_without_a_restart() {
    let topology = Cluster::new(1, 1).unwrap();
    let control =
        ControlPlane::start(&topology, &Options { without_controllers: true, ..Options::default() }).unwrap();
    let node = topology.node(1);
    let api = control.api().unwrap();
    api.create_node(node, None).unwrap();
    let mut agent = Agent::spawn(node, &control.kubeconfig("shunt").unwrap(), &[]).unwrap();
    wait::until_ok(LIMIT, "the missing right to be named", || {
        let log = agent.log();
        let is_named = log.contains("endpointslices") && log.contains("forbidden");
        if is_named { Ok(()) } else { Err(log) }
    })
    .unwrap();
    // The source speaks first: the agent listens once its programs are loaded.
    let ready = || agent.http(true, "/readyz").map_err(|error| error.to_string());
    let (code, _) = wait::until_ok(LIMIT, "an answer about being ready", ready).unwrap();
    assert_ne!(code, 200);
    let subject = json!({ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "shunt" });
    api.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "shunt" }, "subjects": [subject],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier" },
    }))
    .unwrap();
    agent.wait_ready().unwrap();
}

#[test]
fn a_node_that_moves_to_another_zone_is_served_there_without_a_restart() {
    let topology = Cluster::new(1, 3).unwrap();
    let control = uncontrolled(&topology);
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (here, there) = (topology.pod(1, 2), topology.pod(1, 3));
    let _servers = [serve(here), serve(there)];
    let api = control.api().unwrap();
    let move_to = |zone: Option<&str>| {
        let node = Ref { kind: NODE, namespace: None, name: &node.name };
        api.patch(&node, json!({ "metadata": { "labels": { ZONE: zone } } })).unwrap();
    };
    let vip = at(api.create_services(0..1, |_| vec![here.v4, there.v4]).unwrap()[0]);
    let name = bulk::name(0);
    let slice = Ref { kind: SLICE, namespace: Some(bulk::NAMESPACE), name: &name };
    let hinted = [(here, "zone-a"), (there, "zone-b")].map(|(pod, zone)| {
        let hints = json!({ "forZones": [{ "name": zone }] });
        json!({ "addresses": [pod.v4], "conditions": { "ready": true }, "zone": zone, "hints": hints })
    });
    api.patch(&slice, json!({ "endpoints": hinted })).unwrap();

    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let pid = agent.pid();
    // Without a zone hints mean nothing.
    served_by(client, vip, &[&here.name, &there.name]);
    for (zone, pods) in [
        (Some("zone-a"), &[&*here.name][..]),
        (Some("zone-b"), &[&there.name]),
        // Where nobody is meant, all are.
        (Some("zone-c"), &[&here.name, &there.name]),
        (Some("zone-a"), &[&here.name]),
        (None, &[&here.name, &there.name]),
    ] {
        move_to(zone);
        served_by(client, vip, pods);
        verified(&agent);
    }
    assert_eq!(agent.pid(), pid);
}
