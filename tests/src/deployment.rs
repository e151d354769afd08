//! What `deploy` puts into a cluster, as objects: the plain manifests, the overlays over them, and whether an object is
//! one that an API server would take as it is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What stands in the manifests for the address of the API servers, which only the user knows.
pub const UNSET_SERVER: &str = "CHANGE-ME";

/// The directory `deploy` of this repository.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of the plain manifests, in the order in which they are applied.
pub fn plain() -> Result<Vec<Value>> {
    let directory = directory().join("kubernetes");
    let kustomization = one(&directory.join("kustomization.yaml"))?;
    let mut objects = Vec::new();
    for file in strings(&kustomization["resources"])? {
        objects.extend(read(&directory.join(file))?);
    }
    Ok(objects)
}

/// The plain manifests as the overlay in a directory of `deploy` changes them, e.g. `beside-kube-proxy`.
pub fn overlaid(overlay: &str) -> Result<Vec<Value>> {
    let mut objects = plain()?;
    let overlay = one(&directory().join(overlay).join("kustomization.yaml"))?;
    ensure!(strings(&overlay["resources"])? == ["../kubernetes"], "the overlay has another base");
    for patch in overlay["patches"].as_array().context("the overlay has no patches")? {
        let target = &patch["target"];
        let object = objects
            .iter_mut()
            .find(|object| object["kind"] == target["kind"] && object["metadata"]["name"] == target["name"]);
        let object = object.with_context(|| format!("no object {target}"))?;
        let text = patch["patch"].as_str().context("a patch is text")?;
        for change in serde_saphyr::from_str::<Vec<Value>>(text).context("a patch is a list")? {
            apply(object, &change)?;
        }
    }
    Ok(objects)
}

/// One operation of RFC 6902: those that the overlays use, each of which needs something to be there.
fn apply(object: &mut Value, change: &Value) -> Result<()> {
    let path = change["path"].as_str().context("a change has a path")?;
    let old = object.pointer_mut(path).with_context(|| format!("nothing at {path}"))?;
    match change["op"].as_str() {
        Some("replace") => *old = change["value"].clone(),
        Some("remove") => {
            let (parent, key) = path.rsplit_once('/').context("a path begins with a slash")?;
            let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
            parent.with_context(|| format!("{path} is in no map"))?.remove(key);
        }
        _ => bail!("operation {}", change["op"]),
    }
    Ok(())
}

/// The manifests after the user has set the address of the API servers.
pub fn with_server(mut objects: Vec<Value>, server: &str) -> Result<Vec<Value>> {
    let maps = objects.iter_mut().filter(|object| object["kind"] == "ConfigMap");
    for unset in maps.map(|object| &mut object["data"]["SHUNT_API_SERVER"]) {
        ensure!(*unset == UNSET_SERVER, "the address is set to {unset}");
        *unset = server.into();
    }
    Ok(objects)
}

/// API group, resource and verb.
pub type Right = (String, String, String);

/// What a role grants.
pub fn rights(role: &Value) -> Result<BTreeSet<Right>> {
    rights_of(&role["rules"])
}

/// The rights in a list of rules, each of which is about all objects of its resources.
pub fn rights_of(rules: &Value) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for rule in rules.as_array().context("no list of rules")? {
        ensure!(rule["resourceNames"].is_null(), "a rule about single objects: {rule}");
        for group in strings(&rule["apiGroups"])? {
            for resource in strings(&rule["resources"])? {
                let verbs = strings(&rule["verbs"])?.into_iter();
                rights.extend(verbs.map(|verb| (group.to_owned(), resource.to_owned(), verb.to_owned())));
            }
        }
    }
    Ok(rights)
}

/// The documents of a YAML file.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The documents of a YAML text.
pub fn parse(text: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(text)?)
}

fn one(path: &Path) -> Result<Value> {
    let documents = read(path)?;
    ensure!(documents.len() == 1, "{}: {} documents", path.display(), documents.len());
    Ok(documents.into_iter().next().unwrap_or_default())
}

/// The texts of a list.
pub fn strings(list: &Value) -> Result<Vec<&str>> {
    let list = list.as_array().with_context(|| format!("{list} is no list"))?;
    list.iter().map(|item| item.as_str().with_context(|| format!("{item} is no text"))).collect()
}

/// The only object of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (None, _) => bail!("no {kind}"),
        (Some(_), Some(_)) => bail!("more than one {kind}"),
    }
}

/// Whether an API server would take the object with nothing left out: an unknown field is an error, and so is one of
/// another type.
pub fn check(object: &Value) -> Result<()> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "ServiceAccount") => strictly::<ServiceAccount>(object),
        ("v1", "ConfigMap") => strictly::<ConfigMap>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => strictly::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => strictly::<ClusterRoleBinding>(object),
        ("apps/v1", "DaemonSet") => strictly::<DaemonSet>(object),
        (version, kind) => bail!("{version} {kind} is none of the kinds that are deployed"),
    }
}

/// The generated types pass over unknown fields; what they kept is written again and must be all there was.
fn strictly<T: DeserializeOwned + Serialize>(object: &Value) -> Result<()> {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: T = serde_json::from_value(object.clone()).with_context(|| name.clone())?;
    match lost(object, &serde_json::to_value(typed)?, "") {
        None => Ok(()),
        Some(path) => bail!("{name}: unknown field or value at {path}"),
    }
}

/// Where `written` says something that `kept` does not.
pub fn lost(written: &Value, kept: &Value, path: &str) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written.iter().find_map(|(key, value)| {
            lost(value, kept.get(key).unwrap_or(&Value::Null), &format!("{path}/{key}"))
        }),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => {
            let mut pairs = written.iter().zip(kept).enumerate();
            pairs.find_map(|(index, (value, kept))| lost(value, kept, &format!("{path}/{index}")))
        }
        // Also where an empty list or map was written: it says nothing, and does not belong there.
        _ => (written != kept).then(|| path.to_owned()),
    }
}
