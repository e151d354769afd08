//! Netns tier: real sockets through real programs, in scratch namespaces and cgroups.

mod proofs_maps;
