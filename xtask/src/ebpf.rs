//! `cargo xtask ebpf`: builds the eBPF objects, alike on every machine with the same toolchain.
//!
//! The objects that the agent embeds are committed, so that nobody needs this toolchain to build the agent.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use object::build::elf::{Builder, SectionData};

use crate::record::{self, Record};
use crate::toolchain::{self, Toolchain};
use crate::tree::Tree;
use crate::wrapper;

/// The objects that the agent embeds: programs at sockets, and programs at devices.
pub(crate) const SHIPPED: [&str; 2] = ["shunt", "packet"];
/// Those, and the programs that only prove something in the tests.
const OBJECTS: [&str; 3] = ["shunt", "packet", "proofs"];

/// What `check` found, beyond failures.
pub(crate) enum Check {
    /// Sources and bytes are the recorded ones.
    Same,
    /// The sources are the recorded ones; the bytes could not be compared, for this reason.
    NotCompared(String),
}

/// Builds all objects, and commits the shipped ones with their record to the working tree.
pub(crate) fn build(tree: &Tree) -> Result<()> {
    let toolchain = Toolchain::find(tree)?;
    compile(tree, &toolchain)?;
    let source_hash = record::source_hash(&tree.root)?;
    let [object_hash, packet_hash] = [commit(tree, SHIPPED[0])?, commit(tree, SHIPPED[1])?];
    Record { source_hash, object_hash, packet_hash, versions: toolchain.versions }.write(tree)
}

/// Puts the object of that name where the agent embeds it from, and returns its hash.
fn commit(tree: &Tree, name: &str) -> Result<String> {
    let (bytes, path) = (fs::read(tree.fresh_object(name))?, tree.committed_object(name));
    fs::create_dir_all(path.parent().context("the object lies in a directory")?)?;
    fs::write(&path, &bytes)?;
    println!("{}: {} bytes", path.display(), bytes.len());
    Ok(record::hash(&bytes))
}

/// Compares the committed objects with the sources, and with a fresh build where the toolchain is the recorded one.
///
/// Leaves the fresh objects behind, wherever there is a toolchain, and none of an earlier build where there is not.
pub(crate) fn check(tree: &Tree) -> Result<Check> {
    for name in OBJECTS {
        remove(&tree.fresh_object(name))?;
    }
    let toolchain = Toolchain::find(tree);
    if let Ok(toolchain) = &toolchain {
        compile(tree, toolchain)?;
    }
    let record = Record::read(tree)?;
    if record.source_hash != record::source_hash(&tree.root)? {
        bail!(
            "the committed eBPF objects are stale: their sources have changed; run `cargo xtask ebpf` and commit"
        );
    }
    for (name, recorded) in SHIPPED.iter().zip(record.hashes()) {
        let committed = fs::read(tree.committed_object(name)).context("read the committed object")?;
        if recorded != record::hash(&committed) {
            bail!(
                "the committed eBPF object {name} is not the recorded one; run `cargo xtask ebpf` and commit"
            );
        }
    }
    let toolchain = match toolchain {
        Ok(toolchain) => toolchain,
        Err(error) => {
            return Ok(Check::NotCompared(format!("recorded: {}; here: none, {error:#}", record.versions)));
        }
    };
    if toolchain.versions != record.versions {
        return Ok(Check::NotCompared(format!(
            "recorded: {}; here: {}",
            record.versions, toolchain.versions
        )));
    }
    for name in SHIPPED {
        if fs::read(tree.committed_object(name))? != fs::read(tree.fresh_object(name))? {
            bail!(
                "the committed eBPF object {name} differs from a fresh build with the same toolchain; run `cargo xtask ebpf`"
            );
        }
    }
    Ok(Check::Same)
}

fn compile(tree: &Tree, toolchain: &Toolchain) -> Result<()> {
    let mut fetch = command(tree, toolchain);
    // The registry's source directory must exist before its path can be mapped away.
    run(fetch.args(["fetch", "--locked"]))?;
    let mut build = command(tree, toolchain);
    wrapper::install(&mut build)?;
    build.args([
        "build",
        "--locked",
        "--release",
        "--bins",
        "-Zbuild-std=core",
        "--target=bpfel-unknown-none",
    ]);
    run(build
        .arg("--target-dir")
        .arg(&tree.ebpf_target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(tree, toolchain)?))?;
    for name in OBJECTS {
        let linked = fs::read(tree.ebpf_target.join("bpfel-unknown-none/release").join(name))?;
        let path = tree.fresh_object(name);
        fs::create_dir_all(path.parent().context("the object lies in a directory")?)?;
        fs::write(&path, strip(&linked).map_err(|error| anyhow!("strip {name}: {error}"))?)?;
    }
    Ok(())
}

/// Cargo in the eBPF crate, without the settings of the user or of the cargo that runs this.
fn command(tree: &Tree, toolchain: &Toolchain) -> Command {
    let foreign = |name: &OsStr| {
        let name = name.to_string_lossy();
        ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_"].iter().any(|prefix| name.starts_with(prefix))
            || name == "RUSTFLAGS"
    };
    let mut command = toolchain::cargo();
    for (name, _) in env::vars_os().filter(|(name, _)| foreign(name)) {
        command.env_remove(name);
    }
    command
        .current_dir(tree.root.join("proxy-ebpf"))
        .env("PATH", &toolchain.path)
        .env("RUSTC", &toolchain.rustc)
        // Lets a stable compiler build `core`.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0")
        // Empty overrides what a configuration file sets.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

/// The compiler's flags, separated as cargo wants them. No path of this machine may reach the object.
fn flags(tree: &Tree, toolchain: &Toolchain) -> Result<OsString> {
    // Cargo does not look at its wrapper: the name of this setting keeps crates apart that were compiled without it.
    let mut flags: Vec<OsString> = [
        "--cfg=shunt_stable_names",
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Ctarget-cpu=v3",
    ]
    .map(OsString::from)
    .into();
    let mut remap = |from: &Path, to: &str| -> Result<()> {
        // The compiler sees either name, depending on who names the file.
        for from in [from.to_owned(), fs::canonicalize(from)?] {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flags.push(flag);
        }
        Ok(())
    };
    remap(&toolchain.sysroot.join("lib/rustlib/src/rust"), "/rust")?;
    for registry in
        fs::read_dir(tree.cargo_home.join("registry/src")).context("list the registry's sources")?
    {
        remap(&registry?.path(), "/cargo")?;
    }
    remap(&tree.root, "/shunt")?;
    Ok(flags.join(OsStr::new("\u{1f}")))
}

/// `object` without DWARF. BTF stays: the kernel shows source lines from it.
fn strip(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // The linker keeps section names among the symbol names; the writer wants them apart.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("run cargo in proxy-ebpf")?;
    if !status.success() {
        bail!("the eBPF crate does not build: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use object::build::elf::Builder;

    use super::{SHIPPED, record};
    use crate::record::Record;
    use crate::tree::Tree;

    /// This checkout; nothing is built in it here.
    fn tree() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let nowhere = root.join("nowhere");
        Tree { root, target: nowhere.clone(), ebpf_target: nowhere.clone(), cargo_home: nowhere }
    }

    #[test]
    fn the_committed_objects_have_btf_and_no_dwarf() {
        for name in SHIPPED {
            let object = fs::read(tree().committed_object(name)).unwrap();
            let builder = Builder::read(object.as_slice()).unwrap();
            let has = |prefix: &[u8]| builder.sections.iter().any(|section| section.name.starts_with(prefix));
            assert!(has(b".BTF"), "{name}");
            assert!(!has(b".debug_"), "{name}");
        }
    }

    #[test]
    fn the_record_has_the_hash_of_each_committed_object() {
        let tree = tree();
        let record = Record::read(&tree).unwrap();
        let hashes = SHIPPED.map(|name| record::hash(&fs::read(tree.committed_object(name)).unwrap()));
        assert_eq!(hashes, record.hashes());
        assert_ne!(hashes[0], hashes[1]);
    }
}
