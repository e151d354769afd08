//! Real Kubernetes in scratch places: etcd, an API server and its controllers beside the nodes of the topology, and
//! kube-proxy on them.
//!
//! The control plane is a host of its own on the nodes' network, `172.30.0.250`; nothing leads out of it. There are no
//! kubelets: a test says itself which nodes and pods there are ([`objects`]), and the real controllers do the rest.

mod api;
mod control_plane;
mod credentials;
mod kube_proxy;
pub mod objects;
mod programs;

pub use api::Api;
pub use control_plane::{ControlPlane, Options};
pub use kube_proxy::KubeProxy;
