//! `shunt cleanup`: takes everything of a pin directory out of the kernel.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use proxy_common::nat::Ports;

use super::{Exit, write_out};
use crate::cli::CleanupArgs;
use crate::datapath::DatapathError;
use crate::datapath::packet::pinned_settings;
use crate::datapath::packet::settings::give_ports_back;
use crate::datapath::pin::{self, PinDir, names_in};

/// Detaches the hooks and removes every pin, and says what went. A directory that holds anything else is refused
/// and left as it is: a mistyped path must not cost somebody's files, nor another program's pins.
pub fn run(args: &CleanupArgs) -> anyhow::Result<Exit> {
    let root = &args.pin.pin_dir;
    let ports = ports(root);
    let removed = remove(root).with_context(|| format!("clean up {}", root.display()))?;
    let mut text = String::new();
    for path in &removed {
        writeln!(text, "removed {}", path.display())?;
    }
    if let Some(ports) = ports.filter(|_| !removed.is_empty())
        && give_ports_back(ports).context("give ports back to ip_local_reserved_ports")?
    {
        writeln!(text, "gave {} ports from {} on back to ip_local_reserved_ports", ports.count, ports.first)?;
    }
    if removed.is_empty() {
        writeln!(text, "nothing to clean up in {}", root.display())?;
    }
    write_out(text.as_bytes())?;
    Ok(Exit::Done)
}

/// The ports that were set aside, which the pins alone know. Where they cannot be read, what is wrong with them is told by
/// what follows.
fn ports(root: &Path) -> Option<Ports> {
    let mut schemas = names_in(root).unwrap_or_default();
    schemas.retain(|name| name.starts_with('v'));
    let schemas = schemas.iter().filter_map(|name| name[1..].parse().ok());
    let told = |schema| pinned_settings(&PinDir::new(root, schema)).ok().flatten();
    schemas.into_iter().find_map(told).map(|told| told.ports)
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
