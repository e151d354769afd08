//! Who the clients of this node are, and what becomes of their sockets: the registry of network namespaces, the egress
//! guard, connected UDP sockets that have to move, and the table of session affinity.
//!
//! All of it stands beside the tables: no plan says what the programs found out by themselves. It runs on two threads of
//! its own, so that the loop never waits for a process that it looks into, and the other way round.

pub mod guard;
pub mod movement;
pub mod processes;
pub mod registry;
mod threads;

pub use guard::Guard;
pub use threads::{Clients, Parts};
