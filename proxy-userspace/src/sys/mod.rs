//! The raw system calls: everything that needs `unsafe` outside the shared layouts and the mapped store, behind
//! small safe interfaces. Nothing here knows what the maps mean.

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod diag;
pub mod files;
pub mod iter;
pub mod link;
pub mod map;
pub mod mapping;
pub mod netns;
pub mod nftables;
pub mod oom;
pub mod pidfd;
pub mod schedule;
pub mod socket;
pub mod tc;
