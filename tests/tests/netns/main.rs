//! The netns tier: real sockets through real programs, in scratch namespaces and cgroups. Needs root, and one
//! thread.
//!
//! `cargo xtask test netns`, or `cargo test -p tests --test netns -- --test-threads=1` with the binaries built.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod proofs_maps;
mod scratch;
