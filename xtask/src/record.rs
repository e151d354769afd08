//! What the committed eBPF objects were built from: the record beside them, and the hash of the sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::toolchain::Versions;
use crate::tree::Tree;

/// The content of `shunt.bpf.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// SHA-256 over everything in this repository that the objects are built from.
    pub(crate) source_hash: String,
    /// SHA-256 of the programs at sockets.
    pub(crate) object_hash: String,
    /// SHA-256 of the programs at devices.
    pub(crate) packet_hash: String,
    #[serde(flatten)]
    pub(crate) versions: Versions,
}

impl Record {
    /// The hash of a shipped object, by its place in [`crate::ebpf::SHIPPED`].
    pub(crate) fn hashes(&self) -> [&str; 2] {
        [&self.object_hash, &self.packet_hash]
    }

    /// Reads the committed record.
    pub(crate) fn read(tree: &Tree) -> Result<Self> {
        let path = tree.committed_record();
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Writes the record, one field a line.
    pub(crate) fn write(&self, tree: &Tree) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        let path = tree.committed_record();
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// The hash of everything that the objects are built from: each file's path and content, in the order of the paths.
pub(crate) fn source_hash(root: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> =
        ["proxy-ebpf/Cargo.toml", "proxy-ebpf/Cargo.lock", "proxy-common/Cargo.toml"]
            .map(PathBuf::from)
            .into();
    for directory in ["proxy-ebpf/src", "proxy-common/src"] {
        list_files(root, Path::new(directory), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        // The lengths keep the end of one file apart from the start of the next.
        for part in [file.as_os_str().as_encoded_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of `bytes`.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn list_files(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = root.join(directory);
    for entry in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
        let entry = entry?;
        let relative = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list_files(root, &relative, files)?;
        } else {
            files.push(relative);
        }
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Record, source_hash};
    use crate::tree::Tree;

    /// `ebpf --check` asks the same, after a build: here it is said before a commit, whatever tier was run.
    #[test]
    fn the_committed_record_is_of_the_sources_of_this_checkout() {
        let tree = Tree::find().unwrap();
        assert_eq!(
            Record::read(&tree).unwrap().source_hash,
            source_hash(&tree.root).unwrap(),
            "run `cargo xtask ebpf` and commit what it writes"
        );
    }

    #[test]
    fn the_source_hash_sees_contents_names_and_new_files() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = scratch.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            source_hash(scratch.path()).ok()
        };
        for file in ["proxy-ebpf/Cargo.toml", "proxy-ebpf/Cargo.lock", "proxy-common/Cargo.toml"] {
            write(file, "");
        }
        write("proxy-ebpf/src/main.rs", "fn main() {}");
        let first = write("proxy-common/src/lb.rs", "a");
        let mut seen = vec![first.clone()];
        for (file, text) in [
            ("proxy-common/src/lb.rs", "b"),
            ("proxy-ebpf/Cargo.lock", "b"),
            ("proxy-ebpf/src/proofs/main.rs", ""),
        ] {
            let hash = write(file, text);
            assert!(hash.is_some() && !seen.contains(&hash), "{file}");
            seen.push(hash);
        }
        fs::rename(
            scratch.path().join("proxy-common/src/lb.rs"),
            scratch.path().join("proxy-common/src/l.rs"),
        )
        .unwrap();
        assert!(!seen.contains(&source_hash(scratch.path()).ok()));
    }
}
