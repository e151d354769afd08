//! `shunt cleanup`: takes everything of a pin directory out of the kernel.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, anyhow};

use super::{Exit, write_out};
use crate::cli::CleanupArgs;
use crate::datapath::pin::PinDir;

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
        writeln!(text, "nothing to clean up: {} does not exist", root.display())?;
    }
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}

fn remove(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match stranger(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(anyhow::Error::new(error).context(Exit::Unfit));
        }
        Err(error) => return Err(error.into()),
        Ok(Some(name)) => {
            return Err(
                anyhow!("it holds `{name}`, which is not Shunt's; nothing was removed").context(Exit::Usage)
            );
        }
        Ok(None) => {}
    }
    if !PinDir::is_on_bpffs(root) {
        return Err(anyhow!("it is not on a bpffs, so nothing is pinned there").context(Exit::Usage));
    }
    Ok(PinDir::remove_all(root)?)
}

/// An entry of `root` that no version of Shunt makes.
fn stranger(root: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix('v').and_then(|rest| rest.bytes().next());
        if name != "links" && !version.is_some_and(|first| first.is_ascii_digit()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_of_pins_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        assert_eq!(remove(&root.join("absent")).unwrap(), Vec::<PathBuf>::new());
        for ours in ["links", "v1", "v2.aside0"] {
            fs::create_dir(root.join(ours)).unwrap();
        }
        let plain = remove(root).unwrap_err();
        assert!(Exit::of(&plain) == Exit::Usage && format!("{plain:#}").contains("bpffs"), "{plain:#}");
        fs::write(root.join("letters"), "kept").unwrap();
        let foreign = remove(root).unwrap_err();
        assert!(
            Exit::of(&foreign) == Exit::Usage && format!("{foreign:#}").contains("`letters`"),
            "{foreign:#}"
        );
        assert_eq!(fs::read_dir(root).unwrap().count(), 4);
        assert!(remove(&root.join("letters")).is_err());
    }
}
