//! The bench program behind `cargo xtask bench`; see `tests::bench`.

use anyhow::Result;
use clap::Parser;

fn main() -> Result<()> {
    tests::bench::run(tests::bench::BenchArguments::parse())
}
