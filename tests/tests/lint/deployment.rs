//! What `deploy` installs: objects that an API server takes, settings that the agent knows, numbers that agree.

use clap::{Arg, CommandFactory};
use serde_json::{Map, Value, json};
use shunt::cli::Cli;
use tests::deployment::{UNSET_SERVER, check, directory, of_kind, overlaid, plain, read, strings};

/// The one container of the DaemonSet.
fn container(objects: &[Value]) -> &Value {
    &of_kind(objects, "DaemonSet").unwrap()["spec"]["template"]["spec"]["containers"][0]
}

/// The variables of the ConfigMap.
fn settings(objects: &[Value]) -> &Map<String, Value> {
    of_kind(objects, "ConfigMap").unwrap()["data"].as_object().unwrap()
}

fn port(address: &Value) -> u64 {
    address.as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn manifests_are_objects_that_an_api_server_takes() {
    for objects in [plain(), overlaid("beside-kube-proxy"), overlaid("cleanup")].map(Result::unwrap) {
        let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"]);
        for object in &objects {
            check(object).unwrap();
        }
    }
}

#[test]
fn an_unknown_field_and_a_wrong_type_are_noticed() {
    let changed = |path: &str, key: &str, value: Value| {
        let mut object = of_kind(&plain().unwrap(), "DaemonSet").unwrap().clone();
        object.pointer_mut(path).unwrap()[key] = value;
        format!("{:#}", check(&object).unwrap_err())
    };
    let unknown = changed("/spec/template/spec/containers/0", "livenessprobe", json!({}));
    assert!(unknown.contains("/spec/template/spec/containers/0/livenessprobe"), "{unknown}");
    let nested = changed("/spec/template/spec", "hostNetwrok", json!(true));
    assert!(nested.contains("/spec/template/spec/hostNetwrok"), "{nested}");
    let wrong = changed("/spec/template/spec", "hostNetwork", json!("true"));
    assert!(wrong.contains("boolean"), "{wrong}");
}

#[test]
fn objects_name_each_other() {
    let objects = plain().unwrap();
    let account = &of_kind(&objects, "ServiceAccount").unwrap()["metadata"];
    let binding = of_kind(&objects, "ClusterRoleBinding").unwrap();
    let (name, namespace) = (&account["name"], &account["namespace"]);
    let subject = json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace });
    assert_eq!(binding["subjects"], json!([subject]));
    assert_eq!(binding["roleRef"]["name"], of_kind(&objects, "ClusterRole").unwrap()["metadata"]["name"]);
    let set = of_kind(&objects, "DaemonSet").unwrap();
    let template = &set["spec"]["template"];
    assert_eq!(template["spec"]["serviceAccountName"], *name);
    assert_eq!(set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let config = &of_kind(&objects, "ConfigMap").unwrap()["metadata"];
    assert_eq!(container(&objects)["envFrom"], json!([{ "configMapRef": { "name": config["name"] } }]));
    for metadata in [account, config, &set["metadata"]] {
        assert_eq!(metadata["namespace"], "kube-system");
    }
    let (mount, volume) = (&container(&objects)["volumeMounts"][0], &template["spec"]["volumes"][0]);
    assert_eq!((&mount["name"], &mount["mountPath"]), (&volume["name"], &volume["hostPath"]["path"]));
}

#[test]
fn each_setting_is_a_flag_of_the_agent_with_a_value_that_it_takes() {
    let command = Cli::command();
    let agent = command.find_subcommand("agent").unwrap();
    let objects = plain().unwrap();
    let settings = settings(&objects);
    assert_eq!(settings["SHUNT_API_SERVER"], UNSET_SERVER);
    let mut words = vec!["shunt".to_owned(), "agent".to_owned()];
    for (name, value) in settings {
        let is_meant = |argument: &&Arg| argument.get_env().is_some_and(|variable| variable == &**name);
        let argument = agent.get_arguments().find(is_meant);
        let flag = argument.unwrap_or_else(|| panic!("{name} is no variable of `shunt agent`"));
        words.extend([format!("--{}", flag.get_long().unwrap()), value.as_str().unwrap().to_owned()]);
    }
    assert!(words.len() > 10, "{words:?}");
    command.clone().try_get_matches_from(words).unwrap();
}

#[test]
fn probes_ask_where_the_agent_answers() {
    let (alone, beside) = (plain().unwrap(), overlaid("beside-kube-proxy").unwrap());
    for objects in [&alone, &beside] {
        let container = container(objects);
        let open = &container["ports"][0];
        assert_eq!(open["containerPort"], port(&settings(objects)["SHUNT_HEALTHZ_ADDRESS"]));
        let probes = [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")];
        for (probe, path) in probes {
            let get = &container[probe]["httpGet"];
            assert_eq!((&get["path"], &get["port"]), (&json!(path), &open["name"]), "{probe}");
        }
    }
    for (name, of_kube_proxy) in [("SHUNT_HEALTHZ_ADDRESS", 10256), ("SHUNT_METRICS_ADDRESS", 10249)] {
        assert_eq!(port(&settings(&alone)[name]), of_kube_proxy, "{name} in its place");
        assert_ne!(port(&settings(&beside)[name]), of_kube_proxy, "{name} beside it");
    }
    let answers = |objects| settings(objects)["SHUNT_HEALTH_CHECK_NODE_PORTS"].clone();
    assert_eq!((answers(&alone), answers(&beside)), (json!("true"), json!("false")));
}

#[test]
fn the_pod_starts_before_the_network_and_has_the_rights_that_it_needs() {
    let objects = plain().unwrap();
    let pod = &of_kind(&objects, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&json!(true), &json!(true)));
    assert_eq!(pod["dnsPolicy"], "Default");
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let rights = &container(&objects)["securityContext"];
    assert_eq!((&rights["privileged"], &rights["readOnlyRootFilesystem"]), (&Value::Null, &json!(true)));
    assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]));
    let added = strings(&rights["capabilities"]["add"]).unwrap();
    assert_eq!(added, ["BPF", "NET_ADMIN", "PERFMON", "DAC_READ_SEARCH", "SYS_ADMIN", "SYS_PTRACE"]);
}

#[test]
fn cleaning_up_asks_for_nothing_that_an_ended_agent_could_not_answer() {
    let objects = overlaid("cleanup").unwrap();
    let container = container(&objects);
    Cli::command().try_get_matches_from(["shunt", container["args"][0].as_str().unwrap()]).unwrap();
    assert_eq!(container["args"], json!(["cleanup"]));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe], Value::Null, "{probe}");
    }
    let set = of_kind(&objects, "DaemonSet").unwrap();
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
}

#[test]
fn versions_are_those_of_the_workspace() {
    let version = env!("CARGO_PKG_VERSION");
    let objects = plain().unwrap();
    assert_eq!(container(&objects)["image"], format!("shunt:{version}"));
    let chart = &read(&directory().join("chart/Chart.yaml")).unwrap()[0];
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
}
