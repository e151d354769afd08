//! An agent on a node of the cluster: what it follows is what the real API server and the real controllers say.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tests::agent::Agent;
use tests::cluster::objects::{Pod, Ref, SERVICE, SLICE, Service};
use tests::cluster::{Api, ControlPlane, Options};
use tests::load::{Place, Servers};
use tests::topology::Cluster;
use tests::wait;

const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// Connects often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;
const LIMIT: Duration = Duration::from_secs(20);
const LABELS: [(&str, &str); 1] = [("app", "web")];
const WEB: Service<'static> =
    Service { namespace: "shop", name: "web", selector: &LABELS, port: PORT, target_port: BACKEND_PORT };

/// What kube-proxy's own role lets its user do is all that the agent needs.
const USER: &str = "system:kube-proxy";

fn serve_pods(topology: &Cluster, api: &Api) -> Vec<Servers> {
    let mut servers = Vec::new();
    for node in &topology.nodes {
        api.create_node(node, None).unwrap();
        let pod = &node.pods[1];
        let ips = [pod.v4, pod.v6];
        let at = ips.map(|ip| (SocketAddr::new(ip, BACKEND_PORT), &*pod.name));
        servers.push(pod.place().serve(at).unwrap());
        let object = Pod { namespace: "shop", name: &pod.name, node: &node.name, labels: &LABELS, ips: &ips };
        api.run_pod(&object).unwrap();
    }
    servers
}

#[track_caller]
fn served_by(client: Place<'_>, vip: IpAddr, wanted: &[&str]) {
    let target = SocketAddr::new(vip, PORT);
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    wait::until_ok(LIMIT, &format!("{target} to be served by {wanted:?}"), || {
        let reports = (0..TRIES).map(|_| client.get(target, &["--timeout", "1000"]).unwrap());
        let seen: BTreeSet<String> =
            reports.map(|report| report.name.or(report.error).unwrap_or_default()).collect();
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
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
    let everywhere = || clients.iter().flat_map(|client| vips.iter().map(move |vip| (*client, *vip)));
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
    everywhere().for_each(|(client, vip)| {
        let target = SocketAddr::new(vip, PORT);
        wait::until_ok(LIMIT, "the VIP to be gone", || {
            let report = client.get(target, &["--timeout", "300"]).unwrap();
            report.error.map(drop).ok_or_else(|| "still served".to_owned())
        })
        .unwrap();
    });
}

#[test]
fn what_changed_while_the_api_server_was_down_comes_as_one_difference() {
    let topology = Cluster::new(1, 2).unwrap();
    let mut control =
        ControlPlane::start(&topology, &Options { without_controllers: true, ..Options::default() }).unwrap();
    let node = topology.node(1);
    let api = control.api().unwrap();
    api.create_node(node, None).unwrap();
    let pod = &node.pods[1];
    let _server = pod.place().serve([(SocketAddr::new(pod.v4, BACKEND_PORT), &*pod.name)]).unwrap();
    let vips: Vec<IpAddr> = (0..20).map(|number| put_service(api, number, &pod.v4)).collect();
    let agent = Agent::follow(node, &control.kubeconfig(USER).unwrap(), &[]).unwrap();
    let client = node.pods[0].place();
    served_by(client, vips[0], &[&pod.name]);
    served_by(client, vips[19], &[&pod.name]);
    let stores = |agent: &Agent<'_>| agent.status().unwrap()["sync"]["stores"].as_u64().unwrap();

    control.stop_api_server().unwrap();
    wait::until(LIMIT, "the loss to be known", || {
        let status = agent.status()?;
        Ok(status["sources"][0]["connection"]["lost_since"].as_str().map(drop))
    })
    .unwrap();
    let before = stores(&agent);
    served_by(client, vips[0], &[&pod.name]);
    control.start_api_server().unwrap();
    let api = control.api().unwrap();
    // The agent may be back before or after these changes; a watch that is resumed or a listing brings them.
    api.delete(&Ref { kind: SERVICE, namespace: Some("default"), name: "s0" }).unwrap();
    let new = put_service(api, 20, &pod.v4);
    served_by(client, new, &[&pod.name]);
    served_by(client, vips[19], &[&pod.name]);
    let target = SocketAddr::new(vips[0], PORT);
    wait::until_ok(LIMIT, "the VIP to be gone", || {
        let report = client.get(target, &["--timeout", "300"]).unwrap();
        report.error.map(drop).ok_or_else(|| "still served".to_owned())
    })
    .unwrap();
    let written = stores(&agent) - before;
    assert!(written < 60, "{written} stores for two changes");
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
    assert_ne!(agent.http(true, "/readyz").unwrap().0, 200);
    let subject = json!({ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "shunt" });
    api.create(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "shunt" }, "subjects": [subject],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier" },
    }))
    .unwrap();
    agent.wait_ready().unwrap();
}

/// A Service without a selector, and a slice with one endpoint; its cluster IP.
fn put_service(api: &Api, number: usize, endpoint: &IpAddr) -> IpAddr {
    let name = format!("s{number}");
    let service = api
        .create(json!({
            "apiVersion": SERVICE.api_version, "kind": SERVICE.name,
            "metadata": { "namespace": "default", "name": name },
            "spec": { "ports": [{ "port": PORT, "targetPort": BACKEND_PORT }] },
        }))
        .unwrap();
    api.create(json!({
        "apiVersion": SLICE.api_version, "kind": SLICE.name,
        "metadata": {
            "namespace": "default", "name": format!("{name}-1"), "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4", "ports": [{ "port": BACKEND_PORT }],
        "endpoints": [{ "addresses": [endpoint.to_string()] }],
    }))
    .unwrap();
    service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
}
