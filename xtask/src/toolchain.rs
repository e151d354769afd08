//! The eBPF compiler: which rustc and linker build the object on this machine, and their versions.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clients;
use crate::tree::Tree;

/// The stable Rust release whose compiler builds the object where the distribution has none, and whose rustfmt and
/// clippy judge this repository: a later clippy has further lints.
pub(crate) const PINNED_RUST: &str = "1.95.0";
/// The major version of LLVM that compiler and linker must agree on.
pub(crate) const LLVM_MAJOR: &str = "22";
/// The version of bpf-linker.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// A rustc with the sources of `core`, and a linker for its bitcode.
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) sysroot: PathBuf,
    /// `PATH` with cargo's `bin` in front, so that rustc finds the linker that set-up installed.
    pub(crate) path: OsString,
    pub(crate) versions: Versions,
}

/// The versions that decide the bytes of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    pub(crate) rustc: String,
    pub(crate) llvm: String,
    pub(crate) linker: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, LLVM {}, {}", self.rustc, self.llvm, self.linker)
    }
}

impl Toolchain {
    /// The first usable toolchain; the error says what is missing.
    pub(crate) fn find(tree: &Tree) -> Result<Self> {
        let path = search_path(tree)?;
        let linker = first_line(Command::new(linker(tree)?).arg("--version"))?;
        let rustc = rustc().context("no rustc with LLVM 22 and the sources of core")?;
        let verbose = output(Command::new(&rustc).arg("-vV"))?;
        let llvm = field(&verbose, "LLVM version: ").context("rustc -vV names no LLVM")?.to_owned();
        let release = verbose.lines().next().context("rustc -vV says nothing")?.to_owned();
        let sysroot = PathBuf::from(first_line(Command::new(&rustc).args(["--print", "sysroot"]))?);
        Ok(Self { rustc, sysroot, path, versions: Versions { rustc: release, llvm, linker } })
    }
}

/// The compiler: the distribution's, because its sources come with it, else the pinned one of rustup.
pub(crate) fn rustc() -> Option<PathBuf> {
    let distribution = PathBuf::from("/usr/bin/rustc");
    let pinned = pinned_rust().map(|toolchain| toolchain.join("bin/rustc"));
    [Some(distribution), pinned].into_iter().flatten().find(|rustc| is_usable(rustc))
}

/// The pinned release, where rustup keeps it.
///
/// Looks for the directory itself, because `rustup which` installs a toolchain that it is asked for and does not find.
pub(crate) fn pinned_rust() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")))?;
    let prefix = format!("{PINNED_RUST}-{}-unknown-linux-", env::consts::ARCH);
    let toolchains = fs::read_dir(home.join("toolchains")).ok()?;
    toolchains
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
}

/// Cargo with the rustfmt and the clippy of the pinned release: the cargo that runs this, else rustup's.
pub(crate) fn lint_cargo() -> Option<Command> {
    let own = PathBuf::from(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let pinned = pinned_rust().map(|toolchain| toolchain.join("bin/cargo"));
    [Some(own), pinned].into_iter().flatten().find(|cargo| can_lint(cargo)).map(|cargo| lint_command(&cargo))
}

fn can_lint(cargo: &Path) -> bool {
    let says = |arguments: &[&str], start: &str| {
        first_line(lint_command(cargo).args(arguments)).is_ok_and(|line| line.starts_with(start))
    };
    // rustup puts a stub in the place of a component that is not installed, so only running it tells.
    says(&["--version"], &format!("cargo {PINNED_RUST} "))
        && says(&["fmt", "--version"], "rustfmt ")
        && says(&["clippy", "--version"], "clippy ")
}

/// `cargo`, which finds its subcommands and compiler through rustup if it is one of rustup's.
fn lint_command(cargo: &Path) -> Command {
    let mut command = without_package(Command::new(cargo));
    if let Some(toolchain) = pinned_rust().filter(|toolchain| cargo.starts_with(toolchain)) {
        command.env("RUSTUP_TOOLCHAIN", toolchain.file_name().unwrap_or_default());
    }
    command
}

/// The installed bpf-linker, if it is of the version that the object is built with.
pub(crate) fn linker(tree: &Tree) -> Result<PathBuf> {
    let path = search_path(tree)?;
    let linker = find_program("bpf-linker", &path).context("bpf-linker is not installed")?;
    let version = first_line(Command::new(&linker).arg("--version"))?;
    if version != format!("bpf-linker {BPF_LINKER}") {
        bail!("{version} is installed, but the object is built with {BPF_LINKER}");
    }
    Ok(linker)
}

/// A cargo command, as it would be from the user's shell.
///
/// `cargo run` tells a program of which package it is, and `ring` is built anew, with all that stands on it, whenever
/// that differs: a command from here and one from the shell would undo each other's work.
pub(crate) fn cargo() -> Command {
    without_package(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// The command without what `cargo run` has told xtask of its own package.
fn without_package(mut command: Command) -> Command {
    let names = env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Whether `cargo run` sets the variable for the package whose program it runs.
fn is_of_package(variable: &str) -> bool {
    let heads = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    heads.iter().any(|head| variable.starts_with(head))
        || ["CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&variable)
}

/// The first executable called `name` on `path`.
pub(crate) fn find_program(name: &str, path: &OsString) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// `PATH`, with cargo's `bin` and the programs that set-up has unpacked in front, and the system's administration
/// directories at the end.
pub(crate) fn search_path(tree: &Tree) -> Result<OsString> {
    let own = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let first = [tree.cargo_home.join("bin")].into_iter().chain(clients::directories(tree));
    let directories = first.chain(env::split_paths(&own)).chain(system);
    env::join_paths(directories).context("PATH with cargo's bin directory")
}

fn is_usable(rustc: &Path) -> bool {
    let has_core = first_line(Command::new(rustc).args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    });
    has_core
        && output(Command::new(rustc).arg("-vV")).is_ok_and(|text| {
            field(&text, "LLVM version: ").and_then(|version| version.split('.').next()) == Some(LLVM_MAJOR)
        })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn first_line(command: &mut Command) -> Result<String> {
    let text = output(command)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// What `command` prints; it must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} ended with {}", program.display(), output.status);
    }
    String::from_utf8(output.stdout).context("a version is text")
}

#[cfg(test)]
mod tests {
    use super::is_of_package;

    #[test]
    fn settings_of_the_user_are_not_of_the_package() {
        assert!(["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "OUT_DIR"].into_iter().all(is_of_package));
        for setting in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_PROFILE_DEV_OPT_LEVEL", "CARGO", "PATH"] {
            assert!(!is_of_package(setting), "{setting}");
        }
    }
}
