//! The cluster tier: a real API server, etcd and controllers in scratch namespaces. Needs root, one thread, and the
//! programs that `cargo xtask test cluster` builds with Go.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod account;
mod agent;
mod deploy;
mod endpoints;
mod events;
mod kube_proxy;
mod lifetime;
mod many;
mod outage;
mod relist;
mod rig;
mod streaming;
