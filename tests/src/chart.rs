//! The Helm chart, rendered by the real helm: looked for in the directories of `SHUNT_PEERS`, then on `PATH`.
//!
//! `tests/helm` is the Go module that names its version.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::deployment::{directory, parse};

/// helm, or a counted skip of the calling test.
pub fn helm() -> Option<PathBuf> {
    let directories = ["SHUNT_PEERS", "PATH"].into_iter().filter_map(env::var_os);
    let found = directories
        .flat_map(|list| env::split_paths(&list).collect::<Vec<_>>())
        .map(|directory| directory.join("helm"))
        .find(|file| file.is_file());
    if found.is_none() {
        crate::skip("no helm in SHUNT_PEERS or PATH; `go build` makes one in tests/helm");
    }
    found
}

/// The chart's objects in the order of the plain manifests, or what helm says is wrong.
///
/// # Errors
/// What helm printed as an error, or why it could not be asked.
pub fn render(helm: &PathBuf, values: &[&str]) -> Result<Vec<Value>, String> {
    let chart = directory().join("chart").display().to_string();
    let mut arguments = vec!["template", "shunt", &chart, "--namespace", "kube-system"];
    arguments.extend(values);
    let mut objects = parse(&run(helm, &arguments)?).map_err(|error| format!("{error:#}"))?;
    let kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"];
    objects.sort_by_key(|object| kinds.iter().position(|kind| object["kind"] == *kind));
    Ok(objects)
}

/// What helm prints, or says is wrong. It keeps its own files in a directory of this call.
fn run(helm: &PathBuf, arguments: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new(helm);
    command.env_clear().env("HOME", home.path()).args(arguments);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}
