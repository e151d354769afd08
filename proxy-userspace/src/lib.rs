//! Shunt's agent as a library: `source -> state -> plan -> maps -> kernel`.
//!
//! Nothing to the left knows anything to its right. `model`, `state` and `plan` are pure; `maps`, `sys` and
//! `datapath` carry out what they decide.

pub mod agent;
pub mod check;
pub mod cli;
pub mod clients;
pub mod cmd;
pub mod config;
pub mod datapath;
pub mod devices;
pub mod events;
pub mod flows;
pub mod health;
pub mod health_checks;
pub mod kubeproxy;
pub mod logs;
pub mod maps;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod source;
pub mod state;
pub mod status;
pub mod sys;
pub mod trace;
