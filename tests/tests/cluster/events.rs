//! Events on the real API server: written by an agent, and read back as kubectl reads them.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use shunt::events::{Limits, Recorder};
use shunt::source::api::Kind;
use shunt::source::kube::{Access, Bounds, Identity};
use shunt::source::{Subject, Warning};
use tests::agent::Agent;
use tests::cluster::objects::{NAMESPACE, Ref, SERVICE, SLICE};
use tests::cluster::{Api, ControlPlane, Options};
use tests::topology::Cluster;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
/// A port that somebody else has on the node.
const HEALTH_CHECK: u16 = 31_999;
const GROUP: &str = "rbac.authorization.k8s.io";

/// A namespace, and in it two Services that want one external IP, and one whose external IP is of a family that it has
/// not.
fn create_services(api: &Api) {
    let namespace = json!({ "apiVersion": NAMESPACE.api_version, "kind": NAMESPACE.name, "metadata": { "name": "shop" } });
    api.create(namespace).unwrap();
    for (name, external) in [("web", "192.0.2.1"), ("wet", "192.0.2.1"), ("wit", "2001:db8::1")] {
        api.create(json!({
            "apiVersion": SERVICE.api_version, "kind": SERVICE.name,
            "metadata": { "namespace": "shop", "name": name },
            "spec": {
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalIPs": [external],
                "ports": [{ "port": 80 }],
            },
        }))
        .unwrap();
    }
}

/// A Service whose load balancer asks nodes at this port.
fn create_balanced(api: &Api, number: u16) {
    api.create(json!({
        "apiVersion": SERVICE.api_version, "kind": SERVICE.name,
        "metadata": { "namespace": "shop", "name": "wut" },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": number,
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{ "port": 80 }],
        },
    }))
    .unwrap();
}

fn create_slice(api: &Api, labels: &Value) {
    api.create(json!({
        "apiVersion": SLICE.api_version, "kind": SLICE.name,
        "metadata": { "namespace": "shop", "name": "web-names", "labels": labels },
        "addressType": "FQDN", "ports": [{ "port": 80 }], "endpoints": [{ "addresses": ["web.example"] }],
    }))
    .unwrap();
}

/// Our Events on an object, asked for by what `kubectl describe` asks for. (A slow API server has some of its own about
/// cluster IPs, which it repairs.)
fn events_on(
    api: &Api,
    kind: &str,
    (namespace, name, uid): (&str, &str, &str),
) -> Result<Vec<Value>, String> {
    let selector =
        format!("involvedObject.kind%3D{kind},involvedObject.name%3D{name},involvedObject.uid%3D{uid}");
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}");
    let (code, body) = api.get_raw(&path).map_err(|error| format!("{error:#}"))?;
    let list: Value = serde_json::from_str(&body).map_err(|error| format!("{code}: {error}: {body}"))?;
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.retain(|event| event["reportingInstance"].as_str().is_some_and(|name| name.starts_with("shunt-")));
    Ok(events)
}

/// Waits until the Events on an object have these reasons.
#[track_caller]
fn told(api: &Api, kind: &str, object: (&str, &str, &str), reasons: &[&str]) -> Vec<Value> {
    let wanted: BTreeSet<&str> = reasons.iter().copied().collect();
    wait::until_ok(LIMIT, &format!("Events on {kind} {object:?}"), || {
        let events = events_on(api, kind, object)?;
        let seen: BTreeSet<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
        if seen == wanted { Ok(events) } else { Err(format!("{events:#?}")) }
    })
    .unwrap()
}

#[test]
fn what_is_not_served_is_told_where_a_user_looks() {
    let topology = Cluster::new(1, 0).unwrap();
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(&topology, &options).unwrap();
    let api = control.api().unwrap();
    api.create_node(topology.node(1), None).unwrap();
    create_services(api);
    create_slice(api, &json!({ "kubernetes.io/service-name": "web" }));
    create_balanced(api, HEALTH_CHECK);
    let [own, _] = topology.node(1).addresses();
    let _holder = topology.node(1).netns.inside(|| TcpListener::bind((own, HEALTH_CHECK)).unwrap()).unwrap();
    let _agent =
        Agent::follow(topology.node(1), &control.kubeconfig("system:kube-proxy").unwrap(), &[]).unwrap();

    let uid = |kind, name| {
        let object = api.get(&Ref { kind, namespace: Some("shop"), name }).unwrap().unwrap();
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let conflict = told(api, "Service", ("shop", "wet", &uid(SERVICE, "wet")), &["FrontendTaken"]);
    let note = "192.0.2.1:80/tcp is not served for shop/wet:80/tcp on node node-1: shop/web:80/tcp has it";
    assert_eq!((&conflict[0]["message"], &conflict[0]["type"]), (&note.into(), &"Warning".into()));
    assert_eq!(conflict[0]["reportingInstance"], "shunt-node-1");
    let skipped = told(api, "Service", ("shop", "wit", &uid(SERVICE, "wit")), &["InvalidField"]);
    assert!(skipped[0]["message"].as_str().unwrap().starts_with("spec.externalIPs[0]: "), "{skipped:?}");
    told(api, "EndpointSlice", ("shop", "web-names", &uid(SLICE, "web-names")), &["InvalidField"]);
    let deaf = ("shop", "wut", &*uid(SERVICE, "wut"));
    let deaf = told(api, "Service", deaf, &["FailedToStartServiceHealthcheck"]);
    let note = format!(
        "node node-1 cannot answer the health checks of shop/wut at {own}:{HEALTH_CHECK}: Address already in use"
    );
    assert_eq!((&deaf[0]["type"], &deaf[0]["reportingComponent"]), (&"Warning".into(), &"shunt".into()));
    assert!(deaf[0]["message"].as_str().unwrap().starts_with(&note), "{deaf:?}");
    told(api, "Service", ("shop", "web", &uid(SERVICE, "web")), &[]);
    // As kube-proxy's and the kubelet's, which kubectl asks for beside those of the true uid.
    told(api, "Node", ("default", "node-1", "node-1"), &["Starting", "Ready"]);
}

/// The agent does this five minutes later, so it is the writer of its Events that is asked here.
#[test]
fn what_comes_again_counts_up_the_event() {
    let topology = Cluster::new(1, 0).unwrap();
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(&topology, &options).unwrap();
    let api = control.api().unwrap();
    create_services(api);
    let kubeconfig = control.kubeconfig("system:kube-proxy").unwrap();
    let access = Access::resolve(&[], Identity::Kubeconfig(kubeconfig)).unwrap();
    let limits = Limits { repeat: Duration::from_millis(100), spread: Duration::ZERO, ..Limits::default() };
    let start = || Recorder::start(access, (Bounds::default(), limits), "node-1").unwrap();
    let mut recorder = topology.node(1).netns.inside(start).unwrap();
    let about = Subject { kind: Kind::Service, namespace: "shop".into(), name: "web".into() };
    let warning = [Warning {
        object: about.to_string(),
        field: "spec.x".to_owned(),
        problem: "makes no sense".to_owned(),
        about: Some(about),
    }];
    let service = api.get(&Ref { kind: SERVICE, namespace: Some("shop"), name: "web" }).unwrap().unwrap();
    let object = ("shop", "web", service["metadata"]["uid"].as_str().unwrap());
    recorder.skipped(&warning);
    let first = told(api, "Service", object, &["InvalidField"]);
    assert!(first[0]["series"].is_null(), "{first:?}");
    recorder.skipped(&warning);
    wait::until_ok(LIMIT, "the Event to be counted up", || {
        let events = events_on(api, "Service", object)?;
        if events.len() == 1 && events[0]["series"]["count"] == 2 {
            Ok(())
        } else {
            Err(format!("{events:#?}"))
        }
    })
    .unwrap();
}

#[test]
fn an_agent_that_may_not_write_events_is_as_ready_as_any() {
    let topology = Cluster::new(1, 0).unwrap();
    let options = Options { without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(&topology, &options).unwrap();
    let api = control.api().unwrap();
    api.create_node(topology.node(1), None).unwrap();
    create_services(api);
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] });
    api.create(json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": { "name": "shunt-reads" },
        "rules": [
            rule("", &["services", "nodes"]), rule("discovery.k8s.io", &["endpointslices"]),
            rule("networking.k8s.io", &["servicecidrs"]),
        ],
    }))
    .unwrap();
    api.create(json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": "shunt-reads" },
        "subjects": [{ "kind": "User", "apiGroup": GROUP, "name": "shunt" }],
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": "shunt-reads" },
    }))
    .unwrap();
    let agent = Agent::follow(topology.node(1), &control.kubeconfig("shunt").unwrap(), &[]).unwrap();
    wait::until_ok(LIMIT, "the missing right to be named", || {
        let log = agent.log();
        let is_named =
            log.contains("Events cannot be written") && log.contains("events.events.k8s.io is forbidden");
        if is_named { Ok(()) } else { Err(log) }
    })
    .unwrap();
    assert_eq!(agent.log().matches("Events cannot be written").count(), 1, "{}", agent.log());
    assert_eq!(events_on(api, "Node", ("default", "node-1", "node-1")), Ok(Vec::new()));
}
