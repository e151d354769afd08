//! EndpointSlices.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{fields, served};
use crate::model::{Endpoint, EndpointSlice, Family, Hints, ObjectName, Protocol, SlicePort};
use crate::source::api;
use crate::source::convert::{Converted, Interner, Outcome, Unserved, slice};

/// A slice `default/web-1` of the Service `web`, with these fields besides or instead.
fn of(more: &Value) -> Converted<EndpointSlice> {
    let mut object = json!({
        "metadata": {
            "namespace": "default", "name": "web-1", "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
    });
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    let object: api::EndpointSlice = serde_json::from_value(object).unwrap();
    slice(&object, &mut Interner::default())
}

#[test]
fn a_plain_slice_is_served_whole() {
    let (slice, warned) = served(of(&json!({
        "endpoints": [
            {
                "addresses": ["10.0.0.1", "10.0.0.99"], "nodeName": "a", "zone": "not-read",
                "conditions": { "ready": false, "serving": true, "terminating": true },
                "hints": { "forZones": [{ "name": "z1" }, { "name": "z2" }], "forNodes": [{ "name": "a" }] },
            },
            { "addresses": ["010.0.0.2"], "hostname": "x", "targetRef": { "kind": "Pod" } },
        ],
        "ports": [{ "name": "http", "port": 8080 }, { "name": "dns", "protocol": "UDP", "port": 53 }],
    })));
    let names = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
    let expected = EndpointSlice {
        name: ObjectName::new("default", "web-1"),
        service: "web".into(),
        family: Family::V4,
        endpoints: vec![
            Endpoint {
                addr: [10, 0, 0, 1].into(),
                node: Some("a".into()),
                ready: false,
                serving: true,
                terminating: true,
                hints: Hints { zones: names(&["z1", "z2"]), nodes: names(&["a"]) }.boxed(),
            },
            Endpoint {
                addr: [10, 0, 0, 2].into(),
                node: None,
                ready: true,
                serving: true,
                terminating: false,
                hints: None,
            },
        ],
        ports: vec![
            SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 },
            SlicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53 },
        ],
        triggered_at: None,
    };
    assert_eq!((slice, warned), (expected, vec![]));
}

#[test]
fn the_trigger_time_is_carried_and_makes_no_difference() {
    let key = "endpoints.kubernetes.io/last-change-trigger-time";
    let at = |time: &str| {
        let metadata = json!({
            "name": "web-1", "labels": { "kubernetes.io/service-name": "web" }, "annotations": { key: time },
        });
        served(of(&json!({ "metadata": metadata }))).0
    };
    let (one, other) = (at("2026-07-29T08:00:00.25Z"), at("2026-07-29T10:00:01+02:00"));
    assert_eq!((one.triggered_at, other.triggered_at), (Some(1_785_312_000_250), Some(1_785_312_001_000)));
    assert_eq!(at("yesterday").triggered_at, None);
    assert_eq!(one, other);
}

#[test]
fn every_field_may_be_null_as_the_api_server_writes_it() {
    let (slice, warned) = served(of(&json!({
        "endpoints": null, "ports": [{ "name": null, "port": 80, "protocol": null }],
    })));
    assert_eq!((slice.endpoints.len(), slice.ports.len(), warned.len()), (0, 1, 0));
    let (slice, warned) = served(of(&json!({
        "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": {}, "nodeName": null, "hints": null }],
        "ports": null,
    })));
    let endpoint = &slice.endpoints[0];
    assert!(endpoint.ready && endpoint.serving && !endpoint.terminating);
    assert_eq!((endpoint.node.clone(), warned.len()), (None, 0));
}

#[test]
fn nil_conditions_mean_ready_and_serving_and_not_terminating() {
    let (slice, _) = served(of(&json!({
        "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }],
    })));
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (false, true, false));
}

#[test]
fn slices_that_are_not_for_a_node() {
    let label = |key: &str, value: &str| json!({ "name": "web-1", "labels": { key: value } });
    for (more, reason, warned) in [
        (json!({ "metadata": label("service.kubernetes.io/headless", "") }), Unserved::Headless, vec![]),
        (
            json!({ "metadata": { "name": "web-1" } }),
            Unserved::NoService,
            vec!["metadata.labels[kubernetes.io/service-name]"],
        ),
        (json!({ "addressType": "FQDN" }), Unserved::Fqdn, vec!["addressType"]),
    ] {
        let (outcome, warnings) = of(&more);
        let expected = Outcome::Unserved(ObjectName::new("default", "web-1"), reason);
        assert_eq!((outcome, fields(&warnings)), (expected, warned.into_iter().map(String::from).collect()));
    }
    for kind in [json!("IPv5"), json!(""), json!(null)] {
        let (outcome, warnings) = of(&json!({ "addressType": kind }));
        assert_eq!((outcome, fields(&warnings)), (Outcome::Rejected, vec!["addressType".to_owned()]));
    }
}

#[test]
fn a_bad_endpoint_costs_itself_only() {
    let bad = ["x", "", "10.0.0.300", "fd00::1", "127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1"];
    let mut endpoints: Vec<_> = bad.iter().map(|text| json!({ "addresses": [text] })).collect();
    endpoints.push(json!({ "addresses": [] }));
    endpoints.push(json!({ "addresses": ["10.0.0.7"] }));
    let (slice, warned) = served(of(&json!({ "endpoints": endpoints })));
    assert_eq!(slice.endpoints.len(), 1);
    let expected: Vec<_> = (0..=bad.len()).map(|index| format!("endpoints[{index}].addresses[0]")).collect();
    assert_eq!(warned, expected);

    let v6 = ["fe80::1", "::1", "::", "ff02::1", "::ffff:10.0.0.1", "10.0.0.1", "fd00::2"];
    let endpoints: Vec<_> = v6.iter().map(|text| json!({ "addresses": [text] })).collect();
    let (slice, warned) = served(of(&json!({ "addressType": "IPv6", "endpoints": endpoints })));
    assert_eq!((slice.endpoints.len(), warned.len()), (1, 6));
}

/// The same address twice, here or over slices, is for `plan` to judge: only it knows which copy wins.
#[test]
fn equal_endpoints_stay() {
    let endpoint = json!({ "addresses": ["10.0.0.1"] });
    let (slice, warned) = served(of(&json!({ "endpoints": [endpoint, endpoint] })));
    assert_eq!((slice.endpoints.len(), warned.len()), (2, 0));
}

#[test]
fn ports_without_a_number_do_not_count_and_are_no_fault() {
    let (slice, warned) = served(of(&json!({ "ports": [{ "name": "a" }, { "name": "b", "port": 0 }] })));
    assert_eq!((slice.ports.len(), warned.len()), (0, 0));
}

/// The API server defaults a nil name to the empty one before anyone sees it; a manifest has no server in front.
#[test]
fn an_absent_port_name_is_the_empty_one() {
    for ports in
        [json!([{ "port": 80 }]), json!([{ "name": null, "port": 80 }]), json!([{ "name": "", "port": 80 }])]
    {
        let (slice, warned) = served(of(&json!({ "ports": ports })));
        assert_eq!((&*slice.ports[0].name, slice.ports[0].port, warned.len()), ("", 80, 0));
    }
}

#[test]
fn a_bad_port_costs_itself_only() {
    let (slice, warned) = served(of(&json!({ "ports": [
        { "name": "a", "port": 65_536 },
        { "name": "b", "port": -1 },
        { "name": "c", "port": 80, "protocol": "tcp" },
        { "name": "d", "port": 80 },
        { "name": "d", "port": 81 },
        { "name": "d", "port": 81, "protocol": "UDP" },
    ] })));
    assert_eq!(slice.ports.len(), 2);
    assert_eq!(warned, ["ports[0].port", "ports[1].port", "ports[2].protocol", "ports[4].name"]);
}

#[test]
fn more_endpoints_than_the_api_allows_are_served_and_reported() {
    let endpoints: Vec<_> = (0..10_000_u32)
        .map(|number| json!({ "addresses": [format!("10.1.{}.{}", number / 256, number % 256)] }))
        .collect();
    let (outcome, warnings) = of(&json!({ "endpoints": endpoints }));
    let Outcome::Served(slice) = outcome else { panic!("{warnings:?}") };
    assert_eq!((slice.endpoints.len(), fields(&warnings)), (10_000, vec!["endpoints".to_owned()]));
    assert!(warnings[0].to_string().starts_with("EndpointSlice default/web-1: endpoints: 10000 "));
}

#[test]
fn endpoints_share_the_names_of_their_nodes() {
    let endpoint =
        |ip: &str| json!({ "addresses": [ip], "nodeName": "a", "hints": { "forNodes": [{ "name": "a" }] } });
    let (slice, _) = served(of(&json!({ "endpoints": [endpoint("10.0.0.1"), endpoint("10.0.0.2")] })));
    let [one, two] = &slice.endpoints[..] else { panic!("{slice:?}") };
    assert!(Arc::ptr_eq(one.node.as_ref().unwrap(), two.node.as_ref().unwrap()));
    assert!(Arc::ptr_eq(one.node.as_ref().unwrap(), &two.node_hints()[0]));
}
