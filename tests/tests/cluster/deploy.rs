//! What `deploy` holds, on a real API server: it takes every object as it is written, and the pod that comes of them
//! works with the rights that they give, uses each of these and asks for nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Request;
use serde_json::{Value, json};
use shunt::events::{Limits, Recorder};
use shunt::model::Listing;
use shunt::source::kube::{Access, Bounds, Identity};
use shunt::source::{Subject, Warning};
use tests::agent::Agent;
use tests::chart::{helm, render};
use tests::cluster::bulk::name;
use tests::cluster::objects::{DAEMON_SET, Kind, POD, Ref, SERVICE_ACCOUNT};
use tests::cluster::{Api, Container, ControlPlane, Options};
use tests::deployment::{Right, lost, of_kind, plain, rights, rights_of, with_server};
use tests::topology::{Cluster, Node};
use tests::{rights as capabilities, wait};

use crate::rig::{LIMIT, at, serve, served_by, uncontrolled};

const NAMESPACE: &str = "kube-system";
/// The user that the API server sees in the account's token.
const ACCOUNT: &str = "system:serviceaccount:kube-system:shunt";

/// Applies the objects, which the server must take as they are, with nothing left out, and twice alike.
fn apply(api: &Api, objects: &[Value]) {
    for object in objects {
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let first = wait::until(LIMIT, &what, || api.apply(object.clone()).map(Some)).unwrap();
        assert_eq!(lost(object, &first, ""), None, "{what}: the server has left something out");
        let second = api.apply(object.clone()).unwrap();
        assert_eq!(meaning(second), meaning(first), "{what}: applied again it is another");
    }
}

/// An object without what its controllers keep up to date, and who wrote it when.
fn meaning(mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("status");
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["resourceVersion", "managedFields"] {
        metadata.remove(field);
    }
    object
}

/// Rights that the API server says the holder of a token has.
fn may(api: &Api) -> BTreeSet<Right> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": NAMESPACE },
    });
    let answer = api.create(review).unwrap();
    assert_eq!(answer["status"]["incomplete"], false, "{answer}");
    rights_of(&answer["status"]["resourceRules"]).unwrap()
}

/// Requests of the account in the audit log: what each needed, and the whole entry.
fn asked(control: &ControlPlane) -> Vec<(Right, Value)> {
    let all = control.audit().unwrap().into_iter().filter(|entry| entry["user"]["username"] == ACCOUNT);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let needed = |entry: &Value| {
        let object = &entry["objectRef"];
        (text(&object["apiGroup"]), text(&object["resource"]), text(&entry["verb"]))
    };
    let all = all.map(|entry| (needed(&entry), entry));
    // Asked by the test in the agent's name.
    all.filter(|(right, _)| right.1 != "selfsubjectrulesreviews").collect()
}

fn used(control: &ControlPlane) -> BTreeSet<Right> {
    asked(control).into_iter().map(|(right, _)| right).collect()
}

/// The pod that the controller of DaemonSets has made for `node`, bound to it as a scheduler does.
fn pod(api: &Api, node: &Node) -> Value {
    let labels = "app.kubernetes.io/name=shunt";
    let pod =
        wait::until(LIMIT, "the pod", || Ok(api.list(POD, Some(NAMESPACE), labels)?.into_iter().next()));
    let name = pod.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node.name },
    });
    let post = Request::post(format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding"));
    let post =
        post.header("content-type", "application/json").body(binding.to_string().into_bytes()).unwrap();
    api.send_all(vec![post]).unwrap();
    api.get(&Ref { kind: POD, namespace: Some(NAMESPACE), name: &name }).unwrap().unwrap()
}

#[test]
fn the_pod_of_the_manifests_uses_each_of_its_rights_and_asks_for_no_other() {
    let topology = Cluster::new(1, 2).unwrap();
    let mut control = ControlPlane::start(&topology, &Options { audit: true, ..Options::default() }).unwrap();
    let node = topology.node(1);
    let backend = topology.pod(1, 2);
    let _server = serve(backend);
    let api = control.api().unwrap();
    let objects = with_server(plain().unwrap(), &control.url()).unwrap();
    apply(api, &objects);
    api.create_node(node, None).unwrap();
    let vip = at(api.create_services(0..1, |_| vec![backend.v4]).unwrap()[0]);
    let granted = rights(of_kind(&objects, "ClusterRole").unwrap()).unwrap();
    assert_eq!(own_rights(&control), granted);

    let container = Container::of(api, &pod(api, node), node).unwrap();
    let mut agent = Agent::start_as(node, container.launch()).unwrap();
    served_by(topology.pod(1, 1).place(), vip, &[&backend.name]);
    let rights = container.capabilities();
    assert_eq!(Some(capabilities::effective(agent.pid()).unwrap()), capabilities::mask(&rights));
    // A server of today says what there is by the watch itself, so that nothing is ever listed.
    let streamed = used(&control);
    assert!(!streamed.iter().any(|(_, _, verb)| verb == "list"), "{streamed:?}");
    let status = agent.exec(&["status"]).unwrap();
    assert!(status.status.success(), "{status:?}");

    agent.terminate().unwrap();
    control.restart_api_server("WatchList=false").unwrap();
    agent.start_again().unwrap();
    assert_eq!(agent.watch(Listing::Services).unwrap().listings, 1);
    served_by(topology.pod(1, 1).place(), vip, &[&backend.name]);
    let verdict = agent.exec(&["verify"]).unwrap();
    assert!(verdict.status.success(), "{verdict:?}");
    count_up_an_event(&control, node);
    every_right_is_used(&control, &granted);
    // It asked for the stream, was told that there is none, and listed.
    let requests = asked(&control);
    let refused = |entry: &Value| entry["responseStatus"]["code"] == 422;
    assert!(requests.iter().any(|(_, entry)| refused(entry)), "no stream was refused");
    for (right, entry) in &requests {
        assert_eq!(entry["annotations"]["authorization.k8s.io/decision"], "allow", "{right:?}: {entry}");
    }
}

/// Rights of the account itself, without those that every account has.
fn own_rights(control: &ControlPlane) -> BTreeSet<Right> {
    let api = control.api().unwrap();
    let other = Ref { kind: SERVICE_ACCOUNT, namespace: Some(NAMESPACE), name: "default" };
    wait::until(LIMIT, "another account", || api.get(&other)).unwrap();
    let of = |name| may(&control.connect(&api.service_account_token(NAMESPACE, name).unwrap()).unwrap());
    let everybody = of("default");
    of("shunt").difference(&everybody).cloned().collect()
}

/// Tells the same twice, by the agent's own writer of Events and with its token: the agent waits five minutes before it
/// counts an Event up.
fn count_up_an_event(control: &ControlPlane, node: &Node) {
    let api = control.api().unwrap();
    let token = api.service_account_token(NAMESPACE, "shunt").unwrap();
    let kubeconfig = control.kubeconfig_with_token("account", &token).unwrap();
    let access = Access::resolve(&[], Identity::Kubeconfig(kubeconfig)).unwrap();
    let limits = Limits { repeat: Duration::from_millis(100), spread: Duration::ZERO, ..Limits::default() };
    let start = || Recorder::start(access, (Bounds::default(), limits), &node.name).unwrap();
    let mut recorder = node.netns.inside(start).unwrap();
    let about = Subject {
        kind: shunt::source::api::Kind::Service,
        namespace: "default".into(),
        name: name(0).into(),
    };
    let warning = [Warning {
        object: about.to_string(),
        field: "spec.x".to_owned(),
        problem: "makes no sense".to_owned(),
        about: Some(about),
    }];
    let patched = || used(control).iter().any(|(_, resource, verb)| resource == "events" && verb == "patch");
    wait::until_ok(LIMIT, "an Event to be counted up", || {
        recorder.skipped(&warning);
        if patched() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .unwrap();
}

fn every_right_is_used(control: &ControlPlane, granted: &BTreeSet<Right>) {
    // Events are told of when there is time for it.
    wait::until_ok(LIMIT, "every right to be used", || {
        let used = used(control);
        if used == *granted { Ok(()) } else { Err(format!("used: {used:?}\ngranted: {granted:?}")) }
    })
    .unwrap();
}

#[test]
fn a_field_that_the_server_does_not_know_is_no_object_of_ours() {
    let topology = Cluster::new(0, 0).unwrap();
    let control = uncontrolled(&topology);
    let mut set = of_kind(&plain().unwrap(), "DaemonSet").unwrap().clone();
    set["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    let api = control.api().unwrap();
    let error = wait::until_ok(LIMIT, "the namespace", || match api.apply(set.clone()) {
        Err(error) if format!("{error:#}").contains("not found") => Err(format!("{error:#}")),
        answer => Ok(answer),
    });
    let error = format!("{:#}", error.unwrap().unwrap_err());
    assert!(error.contains("hostNetwrok"), "{error}");
}

#[test]
fn the_chart_is_taken_too_and_installs_the_same_set() {
    let Some(helm) = helm() else { return };
    let topology = Cluster::new(0, 0).unwrap();
    let control = uncontrolled(&topology);
    let api = control.api().unwrap();
    let server = format!("apiServers={{{}}}", control.url());
    let set = Ref { kind: DAEMON_SET, namespace: Some(NAMESPACE), name: "shunt" };
    apply(api, &with_server(plain().unwrap(), &control.url()).unwrap());
    let by_manifests = api.get(&set).unwrap().unwrap();
    apply(api, &render(&helm, &["--set", &server]).unwrap());
    let mut by_chart = api.get(&set).unwrap().unwrap();
    // Only the sum that restarts agents after a change of settings is the chart's own.
    let template = &mut by_chart["spec"]["template"]["metadata"];
    assert!(template["annotations"]["checksum/config"].is_string(), "{template}");
    template.as_object_mut().unwrap().remove("annotations");
    assert_eq!(by_chart["spec"], by_manifests["spec"]);
    let role = Kind { api_version: "rbac.authorization.k8s.io/v1", name: "ClusterRole" };
    let role = api.get(&Ref { kind: role, namespace: None, name: "shunt" }).unwrap().unwrap();
    assert_eq!(rights(&role).unwrap(), rights(of_kind(&plain().unwrap(), "ClusterRole").unwrap()).unwrap());
}
