//! Real Kubernetes in scratch places: etcd, an API server and its controllers beside the nodes of the topology, and
//! kube-proxy on them.
//!
//! The control plane is a host of its own on the nodes' network, `172.30.0.250`; nothing leads out of it. There are no
//! kubelets: a test says itself which nodes and pods there are ([`objects`]), and the real controllers do the rest.

mod api;
pub mod bulk;
mod container;
mod control_plane;
mod credentials;
mod cut;
mod etcd;
mod kube_proxy;
pub mod objects;
mod programs;

pub use api::Api;
pub use container::{AccountFiles, Container, mounted};
pub use control_plane::{ControlPlane, Options, SideDoor};
pub use cut::Cut;
pub use kube_proxy::KubeProxy;
