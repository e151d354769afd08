//! The agent as a pod has it: what a kubelet and a container runtime would give the container, as far as an agent can
//! notice, in a mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::api::Api;
use super::objects::{CONFIG_MAP, Ref, SERVICE};
use crate::agent::Launch;
use crate::deployment::strings;
use crate::topology::Node;
use crate::{rights, sweep};

/// Mounts directories in pairs of `from` and `to` up to `--`, and becomes the program after it.
///
/// What is mounted below /var/run stands on a file system that is made here, so that no directory is left on the machine.
const MOUNT: &str = r#"
mount -t tmpfs tmpfs /var/run
while [ "$1" != -- ]; do mkdir -p "$2"; mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"#;
/// The same before it: nothing on the file system of the root can be written.
const READ_ONLY: &str = "mount -o remount,bind,ro /";
/// The shipped place of the pins, which is a directory of the host.
const BPFFS: &str = "/sys/fs/bpf";

/// Words that run a program where these directories lie at these other places too.
pub fn mounted(mounts: &[(&Path, &str)], is_read_only: bool) -> Vec<String> {
    let script = if is_read_only { format!("{READ_ONLY}{MOUNT}") } else { MOUNT.to_owned() };
    let mut words: Vec<String> =
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]
            .map(str::to_owned)
            .into();
    words.extend(mounts.iter().flat_map(|(from, to)| [from.display().to_string(), (*to).to_owned()]));
    words.push("--".to_owned());
    words
}

/// The files of a service account as a pod sees them; removed on drop.
#[derive(Debug)]
pub struct AccountFiles {
    dir: PathBuf,
}

impl AccountFiles {
    /// Where the kubelet mounts them.
    pub const PLACE: &'static str = "/var/run/secrets/kubernetes.io/serviceaccount";

    /// Those of an account in `namespace`.
    pub fn create(namespace: &str, token: &str, certificates: &str) -> Result<Self> {
        let files = Self { dir: sweep::scratch_dir("account").context("make a directory")? };
        for (name, text) in [("namespace", namespace), ("token", token), ("ca.crt", certificates)] {
            files.write(name, text)?;
        }
        Ok(files)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Puts another text into a file at once, as the kubelet does: readers see the old one or the new one, whole.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.draft")));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("write {name}"))
    }
}

impl Drop for AccountFiles {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("directory {} stays: {error}", self.dir.display());
        }
    }
}

/// The container of a pod that is bound to a node.
#[derive(Debug)]
pub struct Container {
    files: AccountFiles,
    launch: Launch,
    capabilities: Vec<String>,
}

impl Container {
    /// The only container of `pod`, which is an object as the API server holds it. It hooks the cgroup of `node`, and
    /// the node's own bpffs is its host's.
    pub fn of(api: &Api, pod: &Value, node: &Node) -> Result<Self> {
        let spec = &pod["spec"];
        ensure!(spec["nodeName"] == *node.name, "the pod is not bound to {}", node.name);
        ensure!(spec["hostNetwork"] == true, "the agent serves the network that it is in");
        let [container] = spec["containers"].as_array().map_or(&[][..], |all| all) else {
            bail!("not one container")
        };
        let rights = &container["securityContext"];
        ensure!(rights["capabilities"]["drop"] == serde_json::json!(["ALL"]), "capabilities are kept");
        let capabilities = strings(&rights["capabilities"]["add"])?;
        let files = account(api, pod)?;
        let mounts = mounts(pod, container, (files.path(), node.bpffs.path()))?;
        let mut wrapper = mounted(&mounts, rights["readOnlyRootFilesystem"] == true);
        wrapper.extend(rights::only(&capabilities));
        let mut variables = variables(api, pod, container)?;
        variables.push(("SHUNT_CGROUP".to_owned(), node.cgroup.path().display().to_string()));
        let arguments = strings(&container["args"])?.into_iter().map(str::to_owned).collect();
        let launch = Launch::plain(arguments, variables).under(wrapper);
        let capabilities = capabilities.into_iter().map(str::to_owned).collect();
        Ok(Self { files, launch, capabilities })
    }

    /// How its program is started; its files must live as long as that.
    pub fn launch(&self) -> Launch {
        self.launch.clone()
    }

    /// The capabilities that it asks for.
    pub fn capabilities(&self) -> Vec<&str> {
        self.capabilities.iter().map(|name| &**name).collect()
    }

    /// The files of its service account.
    pub fn account(&self) -> &AccountFiles {
        &self.files
    }
}

/// A token of the pod's account, and the certificates that the controllers publish in its namespace.
fn account(api: &Api, pod: &Value) -> Result<AccountFiles> {
    let namespace = pod["metadata"]["namespace"].as_str().context("a pod has a namespace")?;
    let account = pod["spec"]["serviceAccountName"].as_str().context("a pod has an account")?;
    let token = api.service_account_token(namespace, account)?;
    let published = Ref { kind: CONFIG_MAP, namespace: Some(namespace), name: "kube-root-ca.crt" };
    let published = api.get(&published)?.with_context(|| format!("no {published}"))?;
    let certificates = published["data"]["ca.crt"].as_str().context("nothing is published")?;
    AccountFiles::create(namespace, &token, certificates)
}

/// What lies where, by the volumes behind the container's mounts: the account's files, or the host's bpffs.
fn mounts<'a>(
    pod: &Value,
    container: &'a Value,
    (account, bpffs): (&'a Path, &'a Path),
) -> Result<Vec<(&'a Path, &'a str)>> {
    let volumes = pod["spec"]["volumes"].as_array().context("no volumes")?;
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().context("no mounts")? {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume of {mount}"))?;
        let to = mount["mountPath"].as_str().context("a mount has a path")?;
        let is_account = volume["projected"]["sources"].as_array().is_some_and(|sources| {
            sources.iter().any(|source| source["serviceAccountToken"]["path"] == "token")
        });
        match volume["hostPath"]["path"].as_str() {
            Some(BPFFS) => mounts.push((bpffs, to)),
            None if is_account => mounts.push((account, to)),
            _ => bail!("a volume that no test knows: {volume}"),
        }
    }
    Ok(mounts)
}

/// The container's variables: those it names, those of its ConfigMaps, and those that every container is given.
fn variables(api: &Api, pod: &Value, container: &Value) -> Result<Vec<(String, String)>> {
    let namespace = pod["metadata"]["namespace"].as_str();
    let text =
        |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"));
    let service = Ref { kind: SERVICE, namespace: Some("default"), name: "kubernetes" };
    let service = api.get(&service)?.context("no Service `kubernetes`")?;
    let mut variables = vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), text(&service["spec"]["clusterIP"])?),
        ("KUBERNETES_SERVICE_PORT".to_owned(), service["spec"]["ports"][0]["port"].to_string()),
    ];
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let name = source["configMapRef"]["name"].as_str().context("a ConfigMap")?;
        let map = api.get(&Ref { kind: CONFIG_MAP, namespace, name })?.context("the ConfigMap is there")?;
        for (key, value) in map["data"].as_object().into_iter().flatten() {
            variables.push((key.clone(), text(value)?));
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = match field.as_str() {
            Some("spec.nodeName") => &pod["spec"]["nodeName"],
            Some(field) => bail!("a field that no test knows: {field}"),
            None => &variable["value"],
        };
        variables.push((text(&variable["name"])?, text(value)?));
    }
    Ok(variables)
}
