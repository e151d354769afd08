//! Where the API servers are and how to show who we are. Files are read again for every connection, so that tokens,
//! certificates and a kubeconfig that change count without a restart.

use std::io;
use std::path::{Path, PathBuf};

use hyper::Uri;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{Cluster, Context, Kubeconfig, KubeconfigError, NamedCluster, NamedContext};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::Bounds;

/// Servers and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Addresses that were given; none: the one in the kubeconfig.
    given: Vec<Uri>,
    identity: Identity,
    /// The same addresses as text, or the kubeconfig's when it was first read.
    servers: Vec<String>,
}

/// Whose credentials are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Those of the current context of a kubeconfig.
    Kubeconfig(PathBuf),
    /// Those in the directory of a pod's service account: `token` and `ca.crt`. One without a token is nobody.
    ServiceAccount(PathBuf),
}

/// Why an API server cannot even be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A field makes no sense, or names a file that does not.
    #[error("{file}: {field}: {problem}")]
    Field {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the address of a server.
    #[error("`{server}` is not the URL of an API server, like https://192.0.2.1:6443")]
    Server {
        /// As given.
        server: String,
    },
    /// TLS or credentials make no sense together.
    #[error("{file}: {problem}")]
    Unfit {
        /// Where they come from.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Access {
    /// Reads and checks all there is, without asking a server. Without `servers` the kubeconfig must name one.
    pub fn resolve(servers: &[String], identity: Identity) -> Result<Self, AccessError> {
        let given = servers.iter().map(|server| parse_server(server)).collect::<Result<Vec<_>, _>>()?;
        let mut access = Self { given, identity, servers: servers.to_vec() };
        if access.servers.is_empty() {
            access.servers.push(access.config(0)?.cluster_url.to_string());
        }
        for server in 0..access.servers.len() {
            let config = access.config(server)?;
            config.rustls_client_config().map_err(|error| access.unfit(&error))?;
            config.auth_layer().map_err(|error| access.unfit(&error))?;
        }
        Ok(access)
    }

    /// The addresses, in the order in which they are tried.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// A client of one server with the credentials of this moment, and the address that it asks.
    pub(super) fn client(&self, server: usize, bounds: Bounds) -> Result<(Client, String), AccessError> {
        let config = self.config(server)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(bounds.connect));
        // A host that is gone answers no probe: half of the bound until the first, the rest for three of them.
        tcp.set_keepalive(Some(bounds.keepalive / 2));
        tcp.set_keepalive_interval(Some(bounds.keepalive / 6));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(bounds.keepalive));
        let unfit = |error| self.unfit(&error);
        let tls = config.rustls_https_connector_with_connector(tcp).map_err(unfit)?;
        let http = legacy::Client::builder(TokioExecutor::new()).build(tls);
        let headers = config.extra_headers_layer().map_err(unfit)?;
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(unfit)?)
            .layer(headers)
            .map_err(BoxError::from)
            .service(http);
        let client = Client::new(service, config.default_namespace.clone());
        Ok((client, config.cluster_url.to_string()))
    }

    fn config(&self, server: usize) -> Result<Config, AccessError> {
        let (kubeconfig, file) = match &self.identity {
            Identity::Kubeconfig(path) => (read_kubeconfig(path)?, path),
            Identity::ServiceAccount(directory) => (service_account(directory), directory),
        };
        refuse_unserved(file, &kubeconfig)?;
        let mut kubeconfig = kubeconfig;
        if let Some(given) = self.given.get(server) {
            set_server(&mut kubeconfig, given);
        }
        let mut config = Config::try_from(kubeconfig).map_err(|error| bad_field(file, &error))?;
        if let Identity::ServiceAccount(directory) = &self.identity {
            config.auth_info.token_file =
                Some(directory.join("token").display().to_string()).filter(|path| Path::new(path).exists());
        }
        if let Some(path) = config.auth_info.token_file.take() {
            let path = PathBuf::from(path);
            let token = std::fs::read_to_string(&path)
                .map_err(|source| AccessError::File { path: path.clone(), source })?;
            // As in client-go a file beats a token beside it, and may end in a newline.
            config.auth_info.token = Some(token.trim().to_owned().into());
        }
        if config.cluster_url.scheme_str() == Some("http") {
            // The system's own roots are not needed, and may not be there.
            config.root_cert.get_or_insert_default();
        } else if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            let field = "cluster.certificate-authority";
            return Err(AccessError::Field {
                file: file.clone(),
                field,
                problem: "holds no certificate".into(),
            });
        }
        Ok(config)
    }

    fn unfit(&self, error: &kube::Error) -> AccessError {
        let (Identity::Kubeconfig(file) | Identity::ServiceAccount(file)) = &self.identity;
        AccessError::Unfit { file: file.clone(), problem: error.to_string() }
    }
}

fn parse_server(server: &str) -> Result<Uri, AccessError> {
    let uri: Option<Uri> = server.trim().parse().ok();
    let is_url = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    uri.filter(is_url).ok_or_else(|| AccessError::Server { server: server.to_owned() })
}

fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, AccessError> {
    Kubeconfig::read_from(path).map_err(|error| match error {
        KubeconfigError::ReadConfig(source, path) => AccessError::File { path, source },
        error => bad_field(path, &error),
    })
}

/// A kubeconfig that says what a pod's service account does. No certificate is the case only outside a pod.
fn service_account(directory: &Path) -> Kubeconfig {
    let (name, mut cluster) = ("pod", Cluster::default());
    let authority = directory.join("ca.crt");
    cluster.certificate_authority = authority.exists().then(|| authority.display().to_string());
    let context = Context { cluster: name.into(), ..Context::default() };
    let cluster = NamedCluster { name: name.into(), cluster: Some(cluster), ..NamedCluster::default() };
    let context = NamedContext { name: name.into(), context: Some(context), ..NamedContext::default() };
    Kubeconfig {
        clusters: vec![cluster],
        contexts: vec![context],
        current_context: Some(name.into()),
        ..Kubeconfig::default()
    }
}

/// Names what would otherwise be ignored, or not be waited for: only what the current context leads to is looked at.
fn refuse_unserved(file: &Path, kubeconfig: &Kubeconfig) -> Result<(), AccessError> {
    let current = kubeconfig.current_context.as_deref().unwrap_or_default();
    let context = kubeconfig.contexts.iter().find(|named| named.name == current);
    let Some(context) = context.and_then(|named| named.context.as_ref()) else { return Ok(()) };
    let refused = |field, problem: &str| {
        Err(AccessError::Field { file: file.to_owned(), field, problem: problem.to_owned() })
    };
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let proxy = cluster.and_then(|named| named.cluster.as_ref()?.proxy_url.as_deref());
    if proxy.is_some_and(|url| !url.is_empty()) {
        return refused("cluster.proxy-url", "proxies are not served; name an address that needs none");
    }
    let user = kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    let Some(user) = user.and_then(|named| named.auth_info.as_ref()) else { return Ok(()) };
    // A program that hangs would hold up every watch, and kill -9 is all that ends it. What gives a node its credentials
    // writes them into files, which are read again for every connection.
    let problem = "no program is run for credentials; use tokenFile, or client-certificate and client-key";
    if user.exec.is_some() {
        return refused("user.exec", problem);
    }
    if user.auth_provider.is_some() {
        return refused("user.auth-provider", problem);
    }
    Ok(())
}

/// Puts the address into every cluster: only the current one is looked at.
fn set_server(kubeconfig: &mut Kubeconfig, server: &Uri) {
    for named in &mut kubeconfig.clusters {
        if let Some(cluster) = &mut named.cluster {
            cluster.server = Some(server.to_string());
        }
    }
}

fn bad_field(file: &Path, error: &KubeconfigError) -> AccessError {
    let field = match error {
        KubeconfigError::CurrentContextNotSet => "current-context",
        KubeconfigError::LoadContext(_) => "contexts",
        KubeconfigError::LoadClusterOfContext(_) => "clusters",
        KubeconfigError::MissingClusterUrl | KubeconfigError::ParseClusterUrl(_) => "cluster.server",
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "cluster.certificate-authority"
        }
        KubeconfigError::LoadClientCertificate(_) => "user.client-certificate",
        KubeconfigError::LoadClientKey(_) => "user.client-key",
        // That of the kubeconfig has been refused before it was read.
        KubeconfigError::ParseProxyUrl(_) => "variable HTTPS_PROXY",
        _ => "content",
    };
    AccessError::Field { file: file.to_owned(), field, problem: error.to_string() }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
