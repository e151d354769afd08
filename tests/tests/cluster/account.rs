//! A pod's service account: its files alone let the agent in, and what changes in them counts at once.

use std::time::Duration;

use serde_json::json;
use shunt::model::Listing;
use tests::agent::{Agent, Launch, pin_dir};
use tests::cluster::objects::{NODE, Ref, SERVICE};
use tests::cluster::{AccountFiles, ControlPlane, mounted};
use tests::deployment::plain;
use tests::topology::{Cluster, Node};
use tests::wait;

use crate::rig::{LIMIT, at, serve, served_by, uncontrolled};

/// Until the agent gives up an address that it was not told to use.
const PATIENCE: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "kube-system";

/// The files of the account that `deploy` makes, with its role.
fn account(control: &ControlPlane) -> AccountFiles {
    let api = control.api().unwrap();
    let of_rights = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
    for object in plain().unwrap() {
        if of_rights.iter().any(|kind| object["kind"] == *kind) {
            wait::until(LIMIT, "the namespace of the account", || api.apply(object.clone()).map(Some))
                .unwrap();
        }
    }
    let token = api.service_account_token(NAMESPACE, "shunt").unwrap();
    AccountFiles::create(NAMESPACE, &token, &control.certificates().unwrap()).unwrap()
}

/// An agent in a pod with these files, told about the API server by these arguments and variables only.
fn in_pod(node: &Node, files: &AccountFiles, arguments: &[&str], variables: &[(&str, &str)]) -> Launch {
    let (cgroup, pins) = (node.cgroup.path().display().to_string(), pin_dir(node).display().to_string());
    let words = ["agent", "--node-name", &node.name, "--cgroup", &cgroup, "--pin-dir", &pins];
    let words = words.iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Launch::plain(words, variables).under(mounted(&[(files.path(), AccountFiles::PLACE)], false))
}

#[test]
fn a_fresh_node_needs_the_account_and_an_address_that_is_no_cluster_ip() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = uncontrolled(&topology);
    let files = account(&control);
    let api = control.api().unwrap();
    let pod = topology.pod(1, 2);
    let _server = serve(pod);
    let vip = at(api.create_services(0..1, |_| vec![pod.v4]).unwrap()[0]);
    let (node, other) = (topology.node(1), topology.node(2));
    let service = Ref { kind: SERVICE, namespace: Some("default"), name: "kubernetes" };
    let service = wait::until(LIMIT, "the Service `kubernetes`", || api.get(&service)).unwrap();
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();

    // A pod is told this address; nobody serves it on a node without a proxy, and a packet to it goes astray.
    other.netns.add_route("default dev eth0").unwrap();
    let told = [("KUBERNETES_SERVICE_HOST", cluster_ip), ("KUBERNETES_SERVICE_PORT", "443")];
    let mut lost = Agent::spawn_as(other, in_pod(other, &files, &[], &told)).unwrap();

    assert!(!pin_dir(node).exists());
    let given = ["--api-server", &control.url()];
    let agent = Agent::start_as(node, in_pod(node, &files, &given, &told)).unwrap();
    served_by(topology.pod(1, 1).place(), vip, &[&pod.name]);
    assert_eq!(agent.watch(Listing::Services).unwrap().server, format!("{}/", control.url()));
    agent.clean_up().unwrap();

    let code = lost.wait_end(PATIENCE * 2).unwrap().code();
    assert_eq!(code, Some(4), "{}", lost.log());
    let log = lost.log();
    assert!(log.contains(&format!("https://{cluster_ip}:443 (KUBERNETES_SERVICE_HOST)")), "{log}");
    assert!(log.contains("name its own address with --api-server"), "{log}");
    assert!(!pin_dir(other).exists(), "it has left something behind");

    // Where it is a real address, it does.
    let (address, port) = (control.address().to_string(), control.port().to_string());
    let told = [("KUBERNETES_SERVICE_HOST", &*address), ("KUBERNETES_SERVICE_PORT", &*port)];
    let _agent = Agent::start_as(other, in_pod(other, &files, &[], &told)).unwrap();
    served_by(topology.pod(2, 1).place(), vip, &[&pod.name]);
}

#[test]
fn another_certificate_of_the_server_is_trusted_once_it_is_in_the_file() {
    let topology = Cluster::new(1, 3).unwrap();
    let mut control = uncontrolled(&topology);
    let files = account(&control);
    let (node, client) = (topology.node(1), topology.pod(1, 1).place());
    let (before, after) = (topology.pod(1, 2), topology.pod(1, 3));
    let _servers = [serve(before), serve(after)];
    let vip = at(control.api().unwrap().create_services(0..1, |_| vec![before.v4]).unwrap()[0]);
    let launch = in_pod(node, &files, &["--api-server", &control.url()], &[]);
    let agent = Agent::start_as(node, launch).unwrap();
    let (pid, old) = (agent.pid(), control.certificates().unwrap());

    control.renew_certificate().unwrap();
    let new = control.certificates().unwrap();
    assert_ne!(new, old);
    control.api().unwrap().point_services(0..1, |_| vec![after.v4]).unwrap();
    wait::until_ok(LIMIT, "the certificate to be refused", || {
        let watch = agent.watch(Listing::EndpointSlices).map_err(|error| format!("{error:#}"))?;
        let error = watch.last_error.unwrap_or_default();
        if error.contains("certificate") && watch.lost_since.is_some() { Ok(()) } else { Err(error) }
    })
    .unwrap();
    served_by(client, vip, &[&before.name]);

    files.write("ca.crt", &new).unwrap();
    served_by(client, vip, &[&after.name]);
    assert_eq!(agent.pid(), pid);
    // A watch counts as open once it has said something, and of what stands still the server speaks once a minute.
    let api = control.api().unwrap();
    api.create_services(1..2, |_| vec![after.v4]).unwrap();
    let object = Ref { kind: NODE, namespace: None, name: &node.name };
    api.patch(&object, json!({ "metadata": { "labels": { "changed": "yes" } } })).unwrap();
    wait::until(LIMIT, "all to be followed", || {
        let all = [Listing::Services, Listing::EndpointSlices, Listing::Node];
        Ok(all
            .iter()
            .all(|kind| agent.watch(*kind).is_ok_and(|it| it.watching_since.is_some()))
            .then_some(()))
    })
    .unwrap();
    let pins = pin_dir(node).display().to_string();
    let words = ["verify", "--node-name", &node.name, "--api-server", &control.url(), "--pin-dir", &pins];
    let output = agent.exec(&words).unwrap();
    assert!(output.status.success(), "{output:?}");
}
