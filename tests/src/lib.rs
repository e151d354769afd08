//! Helpers of the test tiers and of the demo: scratch namespaces, cgroups and mounts, and what runs in them.
//!
//! Everything that is made here is named after the process that made it and removed when its guard is dropped;
//! what a killed run left behind is removed by the next one ([`sweep`]). Nothing here asserts: the tests do.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod bpffs;
pub mod cgroup;
pub mod chart;
pub mod churn;
pub mod cluster;
pub mod contents;
pub mod deployment;
pub mod exposition;
pub mod golden;
pub mod hand;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod peer;
pub mod preflight;
pub mod process;
pub mod report;
pub mod rights;
pub mod skip;
pub mod sweep;
pub mod topology;
pub mod wait;

pub use skip::skip;
