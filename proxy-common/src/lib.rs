//! The contract between Shunt's eBPF programs and its agent.
//!
//! Everything that both sides must agree on lives here once: map layouts, names, limits, drop reasons, and
//! [`lb::translate`], the decision itself. The crate is `no_std`, allocates nothing and has no panic path
//! that the verifier could meet.
//!
//! **Byte order.** [`addr::Addr`] and [`addr::Port`] hold network byte order in memory; every other integer is
//! in host order, since both sides run on the same machine.
//!
//! **Padding.** Map keys are hashed byte by byte, so no type here has implicit padding; `pod.rs` asserts it.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod affinity;
pub mod backend;
pub mod counter;
pub mod draw;
pub mod filter;
pub mod flow;
pub mod frontend;
pub mod lb;
pub mod mark;
pub mod names;
pub mod nat;
pub mod node;
pub mod owned;
pub mod packet;
pub mod place;
mod pod;
pub mod reason;
pub mod registry;
pub mod service;
pub mod shortcut;
pub mod socket;
pub mod source;
pub mod udp;
