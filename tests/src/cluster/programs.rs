//! Where the real programs lie. `cargo xtask test` builds them and says where.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Directories that are searched, in order, as `PATH` has them.
const DIRECTORIES: [&str; 2] = ["SHUNT_PEERS", "KUBEBUILDER_ASSETS"];

/// The file of the real program `name`.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    DIRECTORIES
        .iter()
        .filter_map(env::var_os)
        .flat_map(|directories| env::split_paths(&directories).collect::<Vec<_>>())
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("no `{name}` in {}; `cargo xtask test` sets them", DIRECTORIES.join(" or ")))
}
