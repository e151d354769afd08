//! Netns tier: real sockets through real programs, in scratch namespaces and cgroups.

mod proofs_cgroup;
mod proofs_maps;
mod proofs_moving;
mod proofs_object;
mod proofs_registry;
mod proofs_rig;
mod proofs_watcher;
