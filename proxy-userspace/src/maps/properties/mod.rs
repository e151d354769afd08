//! Properties of the writer as a whole: planner, mirror and store under readers, faults, kills and full tables.

mod cases;
mod controls;
mod invariants;
mod limits;
mod live;
mod observed;
mod readers;
mod scale;
mod sources;
mod text;
mod world;
