//! `shunt cleanup`: takes everything of a pin directory out of the kernel.

use std::fmt::Write;

use anyhow::Context;

use super::{Exit, write_out};
use crate::cli::CleanupArgs;
use crate::datapath::pin::PinDir;

/// Detaches the hooks and removes every pin, and says what went.
pub fn run(args: &CleanupArgs) -> anyhow::Result<Exit> {
    let root = &args.pin.pin_dir;
    let removed = PinDir::remove_all(root).with_context(|| format!("clean up {}", root.display()))?;
    let mut text = String::new();
    for path in &removed {
        writeln!(text, "removed {}", path.display())?;
    }
    if removed.is_empty() {
        writeln!(text, "nothing to clean up: {} does not exist", root.display())?;
    }
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}
