//! etcd, the API server and the controllers, as one thing that a test starts and stops.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::api::Api;
use super::credentials::{ADMIN, Credentials, PRIVATE_KEY, PUBLIC_KEY, token};
use super::etcd::{self, Etcd};
use super::objects::{self, Ref};
use super::programs;
use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::process::{Process, placed};
use crate::topology::Cluster;
use crate::wait;

/// The host number of the control plane on the nodes' network.
const HOST: u8 = 250;
const PORT: u16 = 6443;
/// The port of a second API server.
const SIDE_PORT: u16 = 6445;
/// Where cluster IPs are taken from.
const SERVICE_RANGE: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Limit of each start, on a machine that does much else.
pub(super) const START: Duration = Duration::from_mins(3);
/// The controllers that make or remove what a service proxy reads, those that they stand on, and the one that makes the
/// pods of what `deploy` installs.
const CONTROLLERS: &str = "daemonset-controller,endpointslice-controller,endpointslice-mirroring-controller,garbage-collector-controller,\
                           namespace-controller,root-ca-certificate-publisher-controller,service-cidr-controller,\
                           serviceaccount-controller";

/// How a control plane is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Feature gates of the API server, as `Name=false,Other=true`; empty: its own defaults.
    pub feature_gates: &'a str,
    /// Further flags of the API server.
    pub flags: &'a [&'a str],
    /// Whether requests are written to the audit log.
    pub audit: bool,
    /// Whether no controllers run: only what a test writes is there.
    pub without_controllers: bool,
}

/// A real control plane; all of it goes away on drop, processes first.
#[derive(Debug)]
pub struct ControlPlane {
    controllers: Option<Process>,
    /// None while it is stopped.
    api_server: Option<Process>,
    admin: Option<Api>,
    _etcd: Etcd,
    address: IpAddr,
    feature_gates: String,
    flags: Vec<String>,
    has_audit: bool,
    cgroup: Cgroup,
    credentials: Credentials,
    netns: Netns,
}

/// A second API server; it ends when this is dropped.
#[derive(Debug)]
pub struct SideDoor {
    api: Api,
    _process: Process,
}

impl SideDoor {
    /// The API behind it, as the user sees it who may do everything.
    pub fn api(&self) -> &Api {
        &self.api
    }
}

impl ControlPlane {
    /// Starts everything beside the nodes of `topology`, and waits until it is ready.
    pub fn start(topology: &Cluster, options: &Options<'_>) -> Result<Self> {
        let netns = Netns::create("control")?;
        let [address, _] = topology.plug(&netns, HOST)?;
        let (cgroup, credentials) = (Cgroup::create("control")?, Credentials::create()?);
        let etcd = Etcd::start(&netns, &cgroup, &credentials)?;
        let mut control = Self {
            controllers: None,
            api_server: None,
            admin: None,
            _etcd: etcd,
            address,
            feature_gates: options.feature_gates.to_owned(),
            flags: options.flags.iter().map(|flag| (*flag).to_owned()).collect(),
            has_audit: options.audit,
            cgroup,
            credentials,
            netns,
        };
        control.start_api_server()?;
        if !options.without_controllers {
            control.start_controllers()?;
        }
        Ok(control)
    }

    /// The URL of the API server.
    pub fn url(&self) -> String {
        self.url_at(PORT)
    }

    /// The address of the host.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The port of the API server.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The URL of the same API server by another port, from which the host sends connections on to its own.
    pub fn also_at(&self, port: u16) -> Result<String> {
        let rule = format!("tcp dport {port} redirect to :{PORT}");
        let chain = "type nat hook prerouting priority dstnat; policy accept";
        self.netns.run("nft", &[&format!("table inet also {{ chain also {{ {chain}; {rule}; }}; }}")])?;
        Ok(self.url_at(port))
    }

    fn url_at(&self, port: u16) -> String {
        format!("https://{}", SocketAddr::new(self.address, port))
    }

    /// The API as the user sees it who may do everything.
    pub fn api(&self) -> Result<&Api> {
        self.admin.as_ref().context("the API server is stopped")
    }

    /// The API as `user` sees it.
    pub fn api_as(&self, user: &str) -> Result<Api> {
        self.connect(&token(user))
    }

    /// The API as the holder of `token` sees it.
    pub fn connect(&self, token: &str) -> Result<Api> {
        self.connect_at(PORT, token)
    }

    fn connect_at(&self, port: u16, token: &str) -> Result<Api> {
        Api::connect(&self.netns, &self.url_at(port), (&self.credentials.certificate(), token))
    }

    /// The certificates that the API server's own is checked with.
    pub fn certificates(&self) -> Result<String> {
        std::fs::read_to_string(self.credentials.certificate()).context("read the server's certificate")
    }

    /// A kubeconfig file for `user`; it lives as long as the control plane.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        self.credentials.kubeconfig(user, &token(user), &self.url())
    }

    /// A kubeconfig file called `name` for the holder of `token`.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.credentials.kubeconfig(name, token, &self.url())
    }

    /// The network namespace that it runs in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup that it runs in.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What the API server has said since it was last started.
    pub fn api_server_log(&self) -> String {
        self.api_server.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The requests in the audit log, in the order in which they ended.
    pub fn audit(&self) -> Result<Vec<Value>> {
        ensure!(self.has_audit, "this API server was started without an audit log");
        let text =
            std::fs::read_to_string(self.credentials.path("audit.log")).context("read the audit log")?;
        // The last line may be in the middle of being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).context("a line of the audit log")).collect()
    }

    /// Kills the API server (SIGKILL): its clients see connections end, and refusals from then on.
    pub fn stop_api_server(&mut self) -> Result<()> {
        let mut process = self.api_server.take().context("the API server is stopped already")?;
        self.admin = None;
        process.kill()
    }

    /// Starts the API server again with other feature gates, over the same etcd, certificate and address.
    pub fn restart_api_server(&mut self, feature_gates: &str) -> Result<()> {
        if self.api_server.is_some() {
            self.stop_api_server()?;
        }
        feature_gates.clone_into(&mut self.feature_gates);
        self.start_api_server()
    }

    /// Restarts the API server with another certificate, by another issuer.
    pub fn renew_certificate(&mut self) -> Result<()> {
        self.stop_api_server()?;
        // It makes what it does not find.
        self.credentials.remove_certificate()?;
        self.start_api_server()
    }

    /// Forgets what etcd knows of the past: no watch that was away goes on from there.
    pub fn compact(&self) -> Result<u64> {
        etcd::compact(&self.netns)
    }

    /// Starts the API server and waits until it says of itself that it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        ensure!(self.api_server.is_none(), "the API server runs already");
        let mut flags = self.api_server_flags(PORT);
        if self.has_audit {
            let dir = self.credentials.dir().display();
            flags.push(format!("--audit-log-path={dir}/audit.log"));
            flags.push(format!("--audit-policy-file={dir}/audit-policy.yaml"));
        }
        let (process, api) = self.spawn_api_server(PORT, &flags)?;
        (self.api_server, self.admin) = (Some(process), Some(api));
        Ok(())
    }

    /// Starts a second API server over the same etcd, of which nobody else knows: what is written through it while the
    /// first one is away, the first one finds when it is back.
    pub fn side_door(&self) -> Result<SideDoor> {
        let mut flags = self.api_server_flags(SIDE_PORT);
        // The Service `kubernetes` goes on to lead to the first.
        flags.push("--endpoint-reconciler-type=none".to_owned());
        let (process, api) = self.spawn_api_server(SIDE_PORT, &flags)?;
        Ok(SideDoor { api, _process: process })
    }

    fn spawn_api_server(&self, port: u16, flags: &[String]) -> Result<(Process, Api)> {
        let mut command = placed(&programs::find("kube-apiserver")?, &self.netns, &self.cgroup);
        command.args(flags);
        let mut process = Process::spawn("kube-apiserver", command)?;
        process.wait_line(START, |line| line.contains("Serving securely on"))?;
        let api = self.connect_at(port, &token(ADMIN))?;
        let ready = wait::until_ok(START, "the API server to be ready", || match api.get_raw("/readyz") {
            Ok((200, _)) => Ok(()),
            Ok((code, body)) => Err(format!("/readyz answered {code}: {body}")),
            Err(error) => Err(format!("{error:#}")),
        });
        if let Err(error) = ready {
            bail!("{error:#}\n{}", process.log());
        }
        Ok((process, api))
    }

    fn api_server_flags(&self, port: u16) -> Vec<String> {
        let (address, dir) = (self.address, self.credentials.dir().display());
        let mut flags = vec![
            format!("--etcd-servers={}", etcd::url()),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={port}"),
            format!("--cert-dir={dir}"),
            format!("--token-auth-file={dir}/tokens.csv"),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={dir}/{PUBLIC_KEY}"),
            format!("--service-account-signing-key-file={dir}/{PRIVATE_KEY}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        ];
        if !self.feature_gates.is_empty() {
            flags.push(format!("--feature-gates={}", self.feature_gates));
        }
        flags.extend(self.flags.iter().cloned());
        flags
    }

    fn start_controllers(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig(ADMIN)?;
        let mut command = placed(&programs::find("kube-controller-manager")?, &self.netns, &self.cgroup);
        command.args([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--controllers={CONTROLLERS}"),
            format!("--root-ca-file={}", self.credentials.certificate().display()),
            // It serves nothing, and no second one runs that it would have to agree with.
            "--secure-port=0".to_owned(),
            "--leader-elect=false".to_owned(),
            // Its own defaults would have a test wait for the limiter, not for the controllers.
            "--kube-api-qps=400".to_owned(),
            "--kube-api-burst=800".to_owned(),
        ]);
        let process = Process::spawn("kube-controller-manager", command)?;
        let account = Ref { kind: objects::SERVICE_ACCOUNT, namespace: Some("default"), name: "default" };
        let api = self.api()?;
        let ready = wait::until(START, "a service account of namespace default", || api.get(&account));
        if let Err(error) = ready {
            bail!("{error:#}\n{}", process.log());
        }
        self.controllers = Some(process);
        Ok(())
    }
}
