//! Helpers of the test tiers.

pub mod skip;

pub use skip::skip;
