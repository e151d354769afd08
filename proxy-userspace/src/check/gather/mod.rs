//! Looks at the host: reads, asks, and changes nothing. The one thing that is made is what a trial needs and ends with it:
//! programs and maps that nothing is attached to, a socket that is bound and closed.

mod datapath;
mod kube_proxy;
mod network;
mod packets;
mod place;

use std::net::SocketAddr;
use std::path::PathBuf;

use proxy_common::names::SCHEMA;

use super::facts::Facts;
use crate::datapath::pin::PinDir;
use crate::datapath::probe;
use crate::devices::Choice;

/// What the user says an agent would run with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The cgroup to hook; none: the root of the tree.
    pub cgroup: Option<PathBuf>,
    /// Where it pins.
    pub pin_dir: PathBuf,
    /// Which devices it hooks.
    pub devices: Choice,
    /// Where it tells its health.
    pub healthz_address: SocketAddr,
    /// Where it tells of itself.
    pub metrics_address: SocketAddr,
}

/// Looks at everything. Must be called inside a runtime; it takes the calling thread's network namespace for the agent's.
pub async fn gather(wanted: &Wanted) -> Facts {
    let host = probe::gather(wanted.cgroup.is_some(), &PinDir::new(&wanted.pin_dir, SCHEMA));
    let (features, programs) = datapath::try_out(&host);
    let cgroup = datapath::Cgroup::open(wanted.cgroup.as_deref());
    let hooks = datapath::hooks(&cgroup, &wanted.pin_dir);
    let network = network::look(&wanted.pin_dir);
    let listeners = vec![
        network::listener("--healthz-address", wanted.healthz_address, wanted.metrics_address).await,
        network::listener("--metrics-address", wanted.metrics_address, wanted.metrics_address).await,
    ];
    Facts {
        release: place::release(),
        features,
        programs,
        cgroup: cgroup.map(|cgroup| cgroup.facts(wanted.cgroup.as_deref())),
        hooks,
        pins: datapath::pins(&wanted.pin_dir),
        place: place::look(),
        network,
        packets: packets::look(wanted).await,
        listeners,
        kube_proxy: kube_proxy::look(),
        host,
    }
}
