//! The versus tier: the agent beside a real kube-proxy, on the same cluster, with the same configuration. Needs root, the
//! real parts of Kubernetes, and one thread.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod endpoints;
mod health_checks;
mod name;
mod pair;
mod udp;
