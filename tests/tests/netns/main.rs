//! The netns tier: real sockets through real programs, in scratch namespaces and cgroups. Needs root, and one
//! thread.
//!
//! `cargo xtask test netns`, or `cargo test -p tests --test netns -- --test-threads=1` with the binaries built.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod affinity;
mod balance;
mod calls;
mod capabilities;
mod choosing;
mod chunks;
mod churn;
mod cluster;
mod commands;
mod crowd;
mod devices;
mod dump_flows;
mod events;
mod foreign;
mod from_outside;
mod frontends;
mod full;
mod golden_store;
mod half_open;
mod health_checks;
mod kube_source;
mod lasting;
mod local_vips;
mod metrics;
mod mirror;
mod moving;
mod netfilter;
mod node_addresses;
mod overlap;
mod overlay;
mod packet_path;
mod peers;
mod preflight;
mod proofs_cgroup;
mod proofs_maps;
mod proofs_moving;
mod proofs_nat;
mod proofs_object;
mod proofs_registry;
mod proofs_rig;
mod proofs_watcher;
mod ranges;
mod reach;
mod real_clients;
mod restart;
mod scenario;
mod scratch;
mod senders;
mod shop;
mod sockets_model;
mod sticky;
mod storm;
mod trace;
mod traffic;
mod turning;
mod udp;
mod unfit;
mod verify;
mod wire;
mod witness;
