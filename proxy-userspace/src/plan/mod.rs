//! From meaning to tables, without I/O: which endpoints serve a service port on this node, under which frontends,
//! and which ordered writes bring the maps there. Nothing here can fail; bad input was reported by `source`.

pub mod desired;
pub mod eligible;
pub mod frontends;
pub mod node;
pub mod tables;
