//! The Helm chart, rendered by the real helm: by default it says what the plain manifests say.
//!
//! Without helm each test is a counted skip.

#![expect(clippy::unwrap_used, reason = "tests panic where something is wrong")]

use serde_json::Value;
use tests::chart::{helm, render};
use tests::deployment::{check, directory, of_kind, overlaid, plain, with_server};

const SERVER: &str = "https://192.0.2.1:6443";

/// The objects without what only a chart has: its marks, and the sum that restarts agents after a change of settings.
fn without_marks(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        let labels = object["metadata"]["labels"].as_object_mut().unwrap();
        for mark in ["app.kubernetes.io/managed-by", "helm.sh/chart"] {
            assert!(labels.remove(mark).is_some(), "no label {mark}");
        }
        if object["kind"] == "DaemonSet" {
            let metadata = object["spec"]["template"]["metadata"].as_object_mut().unwrap();
            let sums = metadata.remove("annotations").unwrap();
            assert!(sums["checksum/config"].is_string() && sums.as_object().unwrap().len() == 1, "{sums}");
        }
    }
    objects
}

#[test]
fn by_default_the_chart_is_the_plain_manifests() {
    let Some(helm) = helm() else { return };
    let server = format!("apiServers={{{SERVER}}}");
    let rendered = render(&helm, &["--set", &server]).unwrap();
    for object in &rendered {
        check(object).unwrap();
    }
    assert_eq!(without_marks(rendered), with_server(plain().unwrap(), SERVER).unwrap());

    let values = directory().join("chart/beside-kube-proxy.yaml");
    let beside = render(&helm, &["--set", &server, "--values", values.to_str().unwrap()]).unwrap();
    assert_eq!(without_marks(beside), with_server(overlaid("beside-kube-proxy").unwrap(), SERVER).unwrap());
}

#[test]
fn an_address_is_required_and_a_cluster_ip_by_name_refused() {
    let Some(helm) = helm() else { return };
    let none = render(&helm, &[]).unwrap_err();
    assert!(none.contains("apiServers is not set") && none.contains("it would wait for itself"), "{none}");
    let name = render(&helm, &["--set", "apiServers={https://kubernetes.default.svc:443}"]).unwrap_err();
    assert!(name.contains("behind which is a cluster IP"), "{name}");
    let bare = render(&helm, &["--set", "apiServers={192.0.2.1}"]).unwrap_err();
    assert!(bare.contains("/apiServers/0"), "{bare}");
    let typo = render(&helm, &["--set", "apiserver=x"]).unwrap_err();
    assert!(typo.contains("apiserver"), "{typo}");
}

#[test]
fn values_reach_the_objects() {
    let Some(helm) = helm() else { return };
    let set = "apiServers={https://192.0.2.1:6443,https://[2001:db8::1]:6443},image.repository=images.example/shunt,\
               image.tag=1.2.3,image.pullSecrets={pull},extraArgs={--bpf-log-level=warn},nodePortAddresses={all},\
               healthCheckNodePorts=false,serveLocalVips=true,\
               healthz.address=::,kubeProxyConfigMap=kube-proxy,serviceAccount.name=agent,serviceAccount.create=false,rbac.create=false";
    let resources = r#"resources={"limits":{"memory":"1Gi"}}"#;
    let objects = render(&helm, &["--set", set, "--set-json", resources]).unwrap();
    let kinds: Vec<&Value> = objects.iter().map(|object| &object["kind"]).collect();
    assert_eq!(kinds, ["ConfigMap", "DaemonSet"]);
    for object in &objects {
        check(object).unwrap();
    }
    let settings = &of_kind(&objects, "ConfigMap").unwrap()["data"];
    assert_eq!(settings["SHUNT_API_SERVER"], "https://192.0.2.1:6443,https://[2001:db8::1]:6443");
    assert_eq!(settings["SHUNT_HEALTHZ_ADDRESS"], "[::]:10256");
    assert_eq!(settings["SHUNT_NODEPORT_ADDRESSES"], "all");
    assert_eq!(settings["SHUNT_HEALTH_CHECK_NODE_PORTS"], "false");
    assert_eq!(settings["SHUNT_SERVE_LOCAL_VIPS"], "true");
    let pod = &of_kind(&objects, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "agent");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "images.example/shunt:1.2.3");
    let file = "/var/lib/kube-proxy/config.conf";
    assert_eq!(container["args"], serde_json::json!(["agent", "--config", file, "--bpf-log-level=warn"]));
    let (mount, volume) = (&container["volumeMounts"][1], &pod["volumes"][1]);
    assert_eq!((&mount["name"], &mount["mountPath"]), (&volume["name"], &"/var/lib/kube-proxy".into()));
    assert_eq!(volume["configMap"]["name"], "kube-proxy");
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
}
