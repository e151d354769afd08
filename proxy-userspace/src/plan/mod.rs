//! From meaning to tables, without I/O: which endpoints serve a service port on this node, under which frontends,
//! and which ordered writes bring the maps there. Nothing here can fail; bad input was reported by `source`.

pub mod actual;
pub mod claims;
pub mod desired;
pub mod diff;
pub mod eligible;
pub mod extents;
pub mod frontends;
pub mod health_checks;
pub mod ids;
pub mod local_vips;
pub mod node;
pub mod ops;
pub mod owned;
pub mod quarantine;
pub mod rules;
pub mod sources;
pub mod tables;
