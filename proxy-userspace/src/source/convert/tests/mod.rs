//! What objects mean, rule by rule.

mod nodes;
mod services;
mod slices;

use std::fmt::Debug;

use super::{Converted, Outcome};
use crate::source::Warning;

/// The object, and the fields that were warned about, in order.
fn served<T: Debug, N: Debug>((outcome, warnings): Converted<T, N>) -> (T, Vec<String>) {
    match outcome {
        Outcome::Served(object) => (object, fields(&warnings)),
        other => panic!("{other:?} with {warnings:?}"),
    }
}

fn fields(warnings: &[Warning]) -> Vec<String> {
    for warning in warnings {
        assert!(!warning.problem.is_empty() && !warning.object.is_empty(), "{warning:?}");
        assert!(!warning.to_string().contains('\n'), "{warning}");
    }
    warnings.iter().map(|warning| warning.field.clone()).collect()
}
