//! Properties of the writer as a whole: planner, mirror and store under readers, faults, kills and full tables.

mod controls;
mod cases;
mod invariants;
mod limits;
mod readers;
mod scale;
mod world;
