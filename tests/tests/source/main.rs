//! The Kubernetes source against the stand-in of an API server: what it asks, what it says, and what faults do to it.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]

mod access;
mod events;
mod faults;
mod lists;
mod memory;
mod node;
mod rig;
mod rights;
