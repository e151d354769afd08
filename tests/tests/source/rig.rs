//! A source under test, the state that it feeds, and objects to put into the server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt::model::{Event, Listing, ObjectName};
use shunt::source::kube::{Access, Bounds, Connection, Identity, Kube};
use shunt::source::{Batch, Warning};
use shunt::state::State;
use tests::apiserver::{ApiServer, NODES, SERVICE_CIDRS, SERVICES, SLICES};
use tokio::sync::mpsc;

/// For anything that must happen.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at what sends no event.
const LOOK: Duration = Duration::from_millis(10);
pub(crate) const NODE: &str = "node-1";
pub(crate) const LISTINGS: [Listing; 4] =
    [Listing::Services, Listing::EndpointSlices, Listing::Node, Listing::ServiceCidrs];

/// A source and all that it has said.
pub(crate) struct Rig {
    pub(crate) kube: Kube,
    batches: mpsc::Receiver<Batch>,
    pub(crate) state: State,
    /// Events since they were last taken.
    pub(crate) events: Vec<Event>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// Bounds with waits that are short for a test, and limits that a busy machine does not meet.
pub(crate) fn bounds() -> Bounds {
    Bounds {
        connect: Duration::from_secs(10),
        answer: Duration::from_secs(10),
        silence: Duration::from_secs(10),
        page: Duration::from_secs(10),
        listing: Duration::from_mins(1),
        page_bytes: 32 << 20,
        keepalive: Duration::from_secs(3),
        node: Duration::from_millis(300),
        absent: Duration::from_millis(200),
        backoff: (Duration::from_millis(10), Duration::from_millis(100)),
    }
}

/// Bounds that a silent server meets soon.
pub(crate) fn short_bounds() -> Bounds {
    let soon = Duration::from_millis(500);
    Bounds { answer: soon, silence: soon, ..bounds() }
}

/// Access without credentials.
pub(crate) fn anonymous(servers: &[&ApiServer]) -> Access {
    let servers: Vec<String> = servers.iter().map(|server| server.url()).collect();
    Access::resolve(&servers, Identity::ServiceAccount(PathBuf::from("/absent"))).unwrap()
}

impl Rig {
    pub(crate) fn follow(access: Access, bounds: Bounds) -> Self {
        let (sender, batches) = mpsc::channel(64);
        let kube = Kube::follow(access, bounds, NODE, sender).unwrap();
        Self {
            kube,
            batches,
            state: State::new(NODE, LISTINGS),
            events: Vec::new(),
            warnings: Vec::new(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// Follows one server, and waits until it has listed all.
    pub(crate) fn listed(server: &ApiServer) -> Self {
        let mut rig = Self::follow(anonymous(&[server]), bounds()).until_listed();
        rig.events.clear();
        rig
    }

    /// Waits until it has listed all.
    pub(crate) fn until_listed(mut self) -> Self {
        self.until("everything is listed", |rig| rig.state.is_listed());
        self
    }

    /// Takes batches in until `is_so`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !is_so(self) {
            let unlisted: Vec<_> = self.state.unlisted().collect();
            assert!(
                Instant::now() < deadline,
                "{what}: not within {LIMIT:?}; unlisted {unlisted:?}; warnings {:?}; watches {:?}",
                self.warnings,
                self.kube.connections()
            );
            self.take_in();
        }
    }

    /// Takes batches in for so long.
    pub(crate) fn for_a_while(&mut self, long: Duration) {
        let end = Instant::now() + long;
        while Instant::now() < end {
            self.take_in();
        }
    }

    /// Takes in what comes within a moment.
    fn take_in(&mut self) {
        let next = async { tokio::time::timeout(LOOK, self.batches.recv()).await };
        if let Ok(batch) = self.runtime.block_on(next) {
            let batch = batch.expect("the source has ended");
            self.warnings.extend(batch.warnings);
            self.events.extend(batch.events.iter().cloned());
            for event in batch.events {
                self.state.apply(event);
            }
        }
    }

    /// How the watch of a kind of object stands.
    pub(crate) fn watch(&self, listing: Listing) -> Connection {
        self.kube.connections().get(listing).unwrap_or_default()
    }

    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.state.service(&ObjectName::new("default", name)).is_some()
    }

    pub(crate) fn service_ip(&self, name: &str) -> Option<IpAddr> {
        self.state.service(&ObjectName::new("default", name)).map(|service| service.cluster_ips[0])
    }

    /// Whether no event since the last look deletes a single object: a relist never does.
    pub(crate) fn has_no_deletion(&self) -> bool {
        !self.events.iter().any(|event| {
            matches!(event, Event::ServiceDeleted(_) | Event::SliceDeleted(_) | Event::ServiceCidrDeleted(_))
        })
    }
}

/// A server with a Node, a ServiceCIDR, and a Service `web` with a slice.
pub(crate) fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    server.put(
        NODES,
        json!({ "metadata": { "name": NODE, "labels": { "topology.kubernetes.io/zone": "z" } } }),
    );
    server.put(NODES, json!({ "metadata": { "name": "node-2" } }));
    server.put(SERVICE_CIDRS, json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.96.0.0/12"] } }));
    server.put(SERVICES, service("web", "10.96.0.10"));
    server.put(SLICES, slice("web", &["10.0.0.1", "10.0.0.2"]));
    server
}

/// A Service in `default`.
pub(crate) fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default", "managedFields": [{ "fieldsV1": { "f:a": {} } }] },
        "spec": { "clusterIP": ip, "clusterIPs": [ip], "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

/// The slice of a Service in `default`.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({ "addresses": [address], "nodeName": NODE });
    json!({
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
    })
}
