//! The Kubernetes API as a test uses it: objects as JSON, one call at a time, from inside the cluster's network.
//!
//! A thread of its own lives in the network namespace and drives the client; calls hand it their work and wait.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kube::api::{Api as Objects, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Client, Config};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::objects::{Kind, Ref};
use crate::netns::Netns;

/// Limit of one call.
const LIMIT: Duration = Duration::from_secs(30);
/// The name under which fields are owned that a test applies.
const MANAGER: &str = "test";

/// A user's way to the API server.
pub struct Api {
    client: Client,
    runtime: Handle,
    /// The thread ends when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Talks to the server at `url` from inside `netns`, trusting the certificates of the file and showing the token.
    pub(super) fn connect(netns: &Netns, url: &str, (certificate, token): (&Path, &str)) -> Result<Self> {
        let namespace = File::open(netns.path()).with_context(|| format!("open {}", netns.name()))?;
        let mut config = Config::new(url.parse().with_context(|| format!("URL {url}"))?);
        let certificates = pem::parse_many(fs::read(certificate).context("read the server's certificate")?)?;
        config.root_cert = Some(certificates.into_iter().map(pem::Pem::into_contents).collect());
        config.auth_info.token = Some(token.to_owned().into());
        // A test wants to see the first answer.
        config.default_retry = false;
        let (stop, stopped) = oneshot::channel();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let made = make(&namespace, config);
            let (runtime, client) = match made {
                Ok((runtime, client)) => (runtime, client),
                Err(error) => return drop(sender.send(Err(error))),
            };
            if sender.send(Ok((runtime.handle().clone(), client))).is_ok() {
                // Ends with an error when the sender is dropped, which is how it is meant.
                let _ = runtime.block_on(stopped);
            }
        });
        let (runtime, client) = receiver.recv().context("the client's thread ended")??;
        Ok(Self { client, runtime, stop: Some(stop), thread: Some(thread) })
    }

    /// The client, for work that [`Api::run`] does.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Does `work` on the thread that lives in the cluster's network, and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let task = self.runtime.spawn(async move { sender.send(work.await) });
        let outcome = receiver.recv_timeout(LIMIT);
        task.abort();
        outcome.map_err(|error| anyhow!("no answer within {LIMIT:?}: {error}"))
    }

    /// Creates an object; what the server made of it.
    pub fn create(&self, object: Value) -> Result<Value> {
        let (objects, object) = self.place(object)?;
        let what = describe(&object);
        let made = self.run(async move { objects.create(&PostParams::default(), &object).await })?;
        into_value(made, &format!("create {what}"))
    }

    /// Applies an object on the server's side, taking over fields of others; a field that the server does not know is an
    /// error.
    pub fn apply(&self, object: Value) -> Result<Value> {
        let (objects, object) = self.place(object)?;
        let what = describe(&object);
        let name = object.metadata.name.clone().context("an object to apply needs a name")?;
        let parameters = PatchParams::apply(MANAGER).force().validation_strict();
        let made =
            self.run(async move { objects.patch(&name, &parameters, &Patch::Apply(&object)).await })?;
        into_value(made, &format!("apply {what}"))
    }

    /// Merges `fields` into an object.
    pub fn patch(&self, object: &Ref<'_>, fields: Value) -> Result<Value> {
        let (objects, name) = self.find(object);
        let patch = Patch::Merge(fields);
        let made = self.run(async move { objects.patch(&name, &PatchParams::default(), &patch).await })?;
        into_value(made, &format!("patch {object}"))
    }

    /// Merges `status` into the status of an object, as what runs it would.
    pub fn patch_status(&self, object: &Ref<'_>, status: &Value) -> Result<Value> {
        let (objects, name) = self.find(object);
        let patch = Patch::Merge(json!({ "status": status }));
        let made =
            self.run(async move { objects.patch_status(&name, &PatchParams::default(), &patch).await })?;
        into_value(made, &format!("patch the status of {object}"))
    }

    /// An object, if it exists.
    pub fn get(&self, object: &Ref<'_>) -> Result<Option<Value>> {
        let (objects, name) = self.find(object);
        let found = self.run(async move { objects.get_opt(&name).await })?;
        match found.transpose() {
            Some(found) => into_value(found, &format!("get {object}")).map(Some),
            None => Ok(None),
        }
    }

    /// The objects of a kind in a namespace, or in all, that `labels` selects.
    pub fn list(&self, kind: Kind, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>> {
        let objects = self.objects(kind, namespace);
        let parameters = ListParams::default().labels(labels);
        let found = self.run(async move { objects.list(&parameters).await })?;
        let found = found.with_context(|| format!("list {kind:?} of {namespace:?}"))?;
        found.items.into_iter().map(|object| into_value(Ok(object), "list")).collect()
    }

    /// Deletes an object; it is gone at once, without any time of grace.
    pub fn delete(&self, object: &Ref<'_>) -> Result<()> {
        self.delete_within(object, 0)
    }

    /// Asks for an object to end within `grace` seconds. A pod stays, and terminates, until it is deleted again.
    pub fn delete_within(&self, object: &Ref<'_>, grace: u32) -> Result<()> {
        let (objects, name) = self.find(object);
        let parameters = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
        let outcome = self.run(async move { objects.delete(&name, &parameters).await })?;
        outcome.map(drop).with_context(|| format!("delete {object}"))
    }

    /// A token of a service account, for kubeconfig files of what runs as it.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let objects = self.objects(super::objects::SERVICE_ACCOUNT, Some(namespace));
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let account = name.to_owned();
        let answer = self.run(async move {
            objects
                .create_subresource::<Value, Value>("token", &account, &PostParams::default(), &request)
                .await
        })?;
        let answer = answer.with_context(|| format!("a token of {namespace}/{name}"))?;
        answer["status"]["token"].as_str().map(str::to_owned).context("the answer holds no token")
    }

    /// Status code and body of a GET of `path`, as they come; a watch ends by its own time limit.
    pub fn get_raw(&self, path: &str) -> Result<(u16, String)> {
        let request = hyper::Request::get(path).body(Body::empty())?;
        let client = self.client();
        self.run(async move {
            let answer = client.send(request).await?;
            let code = answer.status().as_u16();
            let body = answer.into_body().collect_bytes().await?;
            Ok((code, String::from_utf8_lossy(&body).into_owned()))
        })?
    }

    /// Where an object belongs, and the object as the client takes it.
    fn place(&self, object: Value) -> Result<(Objects<DynamicObject>, DynamicObject)> {
        let object: DynamicObject = serde_json::from_value(object).context("an object has its metadata")?;
        let types = object.types.as_ref().context("an object names apiVersion and kind")?;
        let kind = Kind { api_version: &types.api_version, name: &types.kind };
        Ok((self.objects(kind, object.metadata.namespace.as_deref()), object))
    }

    fn find(&self, object: &Ref<'_>) -> (Objects<DynamicObject>, String) {
        (self.objects(object.kind, object.namespace), object.name.to_owned())
    }

    fn objects(&self, kind: Kind<'_>, namespace: Option<&str>) -> Objects<DynamicObject> {
        let resource = kind.resource();
        match namespace {
            Some(namespace) => Objects::namespaced_with(self.client(), namespace, &resource),
            None => Objects::all_with(self.client(), &resource),
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has no way to panic that would not have been told by a call before.
            let _ = thread.join();
        }
    }
}

/// The client and what drives it, made on the calling thread after it has entered `namespace` for good.
fn make(namespace: &File, config: Config) -> Result<(tokio::runtime::Runtime, Client)> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = {
        let _guard = runtime.enter();
        Client::try_from(config)?
    };
    Ok((runtime, client))
}

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("?", |types| &types.kind);
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    format!("{kind} {namespace}/{}", metadata.name.as_deref().unwrap_or_default())
}

fn into_value(made: kube::Result<DynamicObject>, what: &str) -> Result<Value> {
    Ok(serde_json::to_value(made.with_context(|| what.to_owned())?)?)
}
