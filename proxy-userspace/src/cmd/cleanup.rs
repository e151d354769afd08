//! `shunt cleanup`: takes everything of a pin directory out of the kernel.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{Exit, write_out};
use crate::cli::CleanupArgs;
use crate::datapath::DatapathError;
use crate::datapath::pin::{self, PinDir};

/// Detaches the hooks and removes every pin, and says what went. A directory that holds anything else is refused
/// and left as it is: a mistyped path must not cost somebody's files, nor another program's pins.
pub fn run(args: &CleanupArgs) -> anyhow::Result<Exit> {
    let root = &args.pin.pin_dir;
    let removed = remove(root).with_context(|| format!("clean up {}", root.display()))?;
    let mut text = String::new();
    for path in &removed {
        writeln!(text, "removed {}", path.display())?;
    }
    if removed.is_empty() {
        writeln!(text, "nothing to clean up in {}", root.display())?;
    }
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}

fn remove(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !root.try_exists().map_err(refused)? {
        return Ok(Vec::new());
    }
    if !PinDir::is_on_bpffs(root) {
        return Err(anyhow!("it is not on a bpffs, so nothing is pinned there").context(Exit::Usage));
    }
    pin::remove_all(root).map_err(|error| match error {
        DatapathError::Path { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            anyhow::Error::new(error).context(Exit::Unfit)
        }
        DatapathError::Stranger(_) => anyhow::Error::new(error).context(Exit::Usage),
        other => other.into(),
    })
}

fn refused(error: io::Error) -> anyhow::Error {
    let is_right = error.kind() == io::ErrorKind::PermissionDenied;
    let error = anyhow::Error::new(error);
    if is_right { error.context(Exit::Unfit) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pins_are_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        assert_eq!(remove(&root.join("absent")).unwrap(), Vec::<PathBuf>::new());
        std::fs::create_dir(root.join("v1")).unwrap();
        let plain = remove(root).unwrap_err();
        assert!(Exit::of(&plain) == Exit::Usage && format!("{plain:#}").contains("bpffs"), "{plain:#}");
        assert!(root.join("v1").exists());
    }
}
