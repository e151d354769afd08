//! Streaming lists: a watch that begins with what there is, on servers that have it and on one that has not.

use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tests::cluster::{Api, ControlPlane, Options};
use tests::topology::Cluster;
use tests::wait;

/// Slices that are there when the watch begins.
const SLICES: usize = 3;
const LIMIT: Duration = Duration::from_secs(20);
const LABELS: &str = "test=streaming";
const STREAMING: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=1&sendInitialEvents=true\
                         &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=5";

#[test]
fn initial_events_are_streamed_in_one_request() {
    let topology = Cluster::new(0, 0).unwrap();
    let options = Options { audit: true, without_controllers: true, ..Options::default() };
    let control = ControlPlane::start(&topology, &options).unwrap();
    let api = control.api().unwrap();
    create_slices(api);
    assert_eq!(streamed(api), Ok(SLICES));
    let requests = requests(&control);
    assert!(requests.iter().all(|(verb, _)| verb == "watch"), "{requests:?}");
    assert!(requests.iter().any(|(_, uri)| uri.contains("sendInitialEvents=true")), "{requests:?}");
    // The control: a list shows in the audit log.
    assert_eq!(listed(api), SLICES);
    wait::until(LIMIT, "the list in the audit log", || {
        Ok(self::requests(&control).iter().any(|(verb, _)| verb == "list").then_some(()))
    })
    .unwrap();
}

#[test]
fn a_server_without_streaming_lists_refuses_them_as_invalid() {
    let topology = Cluster::new(0, 0).unwrap();
    let options =
        Options { feature_gates: "WatchList=false", without_controllers: true, ..Options::default() };
    let mut control = ControlPlane::start(&topology, &options).unwrap();
    let api = control.api().unwrap();
    create_slices(api);
    let (code, body) = api.get_raw(STREAMING).unwrap();
    assert_eq!(code, 422, "{body}");
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["reason"], "Invalid", "{body}");
    assert_eq!(status["details"]["causes"][0]["field"], "sendInitialEvents", "{body}");
    // So a client meets it, and the older way works.
    assert_eq!(streamed(api), Err(422));
    assert_eq!(listed(api), SLICES);
    // The server is replaced by one that has them: the gate was the difference.
    control.restart_api_server("").unwrap();
    assert_eq!(streamed(control.api().unwrap()), Ok(SLICES));
}

fn create_slices(api: &Api) {
    for index in 0..SLICES {
        let name = format!("slice-{index}");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "namespace": "default", "name": name, "labels": { "test": "streaming" } },
            "addressType": "IPv4",
            "ports": [{ "name": "", "port": 80 }],
            "endpoints": [{ "addresses": ["10.244.1.11"] }],
        });
        api.create(slice).unwrap();
    }
}

/// How many slices a watch tells of before it says that this was all; or the status code that it meets.
fn streamed(api: &Api) -> Result<usize, u16> {
    let slices = slices(api);
    api.run(async move {
        let parameters = WatchParams::default().labels(LABELS).initial_events();
        let events = match slices.watch(&parameters, "").await {
            Ok(events) => events,
            Err(kube::Error::Api(status)) => return Err(status.code),
            Err(error) => panic!("{error:?}"),
        };
        let mut events = std::pin::pin!(events);
        let mut count = 0;
        loop {
            match events.try_next().await.unwrap() {
                Some(WatchEvent::Added(_)) => count += 1,
                Some(WatchEvent::Bookmark(mark)) => {
                    assert_eq!(mark.metadata.annotations["k8s.io/initial-events-end"], "true");
                    return Ok(count);
                }
                other => panic!("{other:?} among initial events"),
            }
        }
    })
    .unwrap()
}

/// How many slices a list holds.
fn listed(api: &Api) -> usize {
    let slices = slices(api);
    api.run(async move { slices.list(&ListParams::default().labels(LABELS)).await.unwrap().items.len() })
        .unwrap()
}

fn slices(api: &Api) -> kube::Api<EndpointSlice> {
    kube::Api::namespaced(api.client(), "default")
}

/// Verb and URI of the requests for slices that only read.
fn requests(control: &ControlPlane) -> Vec<(String, String)> {
    let all = control.audit().unwrap();
    let of_slices = all.iter().filter(|event| event["objectRef"]["resource"] == "endpointslices");
    let of_watchers =
        of_slices.filter(|event| event["requestURI"].as_str().is_some_and(|uri| uri.contains("streaming")));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_watchers.map(|event| (text(&event["verb"]), text(&event["requestURI"]))).collect()
}
