//! `cargo xtask setup`: installs what the commands of the README need, once.
//!
//! Looks for the programs and files themselves, so that a second run starts no package manager at all.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::toolchain::{self, BPF_LINKER, LLVM_MAJOR, PINNED_RUST};
use crate::tree::Tree;

/// The version of cargo-deny whose configuration `deny.toml` is.
const CARGO_DENY: &str = "0.20.2";

/// What the set-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// The demo: network namespaces; the committed eBPF object is used as it is.
    Demo,
    /// The tests: the demo's needs, the eBPF toolchain and the lint tools.
    Test,
}

/// One thing that must be on this machine.
struct Piece {
    /// What the user reads before it is installed.
    name: &'static str,
    needed_by_demo: bool,
    is_present: fn(&Tree) -> bool,
    /// Debian packages that bring it, or bring what it is built from.
    packages: &'static [&'static str],
    /// Brings it where packages did not.
    build: fn(&Tree) -> Result<()>,
}

const PIECES: [Piece; 8] = [
    Piece {
        name: "ip (package iproute2)",
        needed_by_demo: true,
        is_present: |tree| has_program(tree, "ip"),
        packages: &["iproute2"],
        build: |_| Ok(()),
    },
    Piece {
        name: "nsenter (package util-linux)",
        needed_by_demo: true,
        is_present: |tree| has_program(tree, "nsenter"),
        packages: &["util-linux"],
        build: |_| Ok(()),
    },
    Piece {
        name: "strace",
        needed_by_demo: false,
        is_present: |tree| has_program(tree, "strace"),
        packages: &["strace"],
        build: |_| Ok(()),
    },
    Piece {
        name: "nft (package nftables), to see that the agent changes no rule",
        needed_by_demo: false,
        is_present: |tree| has_program(tree, "nft"),
        packages: &["nftables"],
        build: |_| Ok(()),
    },
    Piece {
        name: "the eBPF compiler: rustc with LLVM 22 and the sources of core",
        needed_by_demo: false,
        is_present: |_| toolchain::rustc().is_some(),
        packages: &["rustc-web", "rust-web-src"],
        build: |_| add_pinned_rust(),
    },
    Piece {
        name: "the eBPF linker: bpf-linker, built against LLVM 22",
        needed_by_demo: false,
        is_present: |tree| toolchain::linker(tree).is_ok(),
        packages: &["llvm-22-dev", "libpolly-22-dev"],
        build: build_linker,
    },
    Piece {
        name: "rustfmt and clippy",
        needed_by_demo: false,
        is_present: |_| {
            [["fmt", "--version"], ["clippy", "--version"]].iter().all(|arguments| has_cargo(arguments))
        },
        packages: &[],
        build: |_| execute("rustup", Command::new("rustup").args(["component", "add", "rustfmt", "clippy"])),
    },
    Piece {
        name: "cargo-deny",
        needed_by_demo: false,
        is_present: |_| has_cargo(&["deny", "--version"]),
        packages: &[],
        build: |tree| cargo_install(tree, &["cargo-deny", "--version", CARGO_DENY, "--locked"]),
    },
];

/// Installs the missing pieces; an error names those that are missing still.
pub(crate) fn run(tree: &Tree, purpose: Purpose) -> Result<()> {
    let missing: Vec<&Piece> = PIECES
        .iter()
        .filter(|piece| piece.needed_by_demo || purpose == Purpose::Test)
        .filter(|piece| !(piece.is_present)(tree))
        .collect();
    if missing.is_empty() {
        println!("set-up: nothing to do");
        return Ok(());
    }
    for piece in &missing {
        println!("set-up: missing, to be installed: {}", piece.name);
    }
    let mut failures = Vec::new();
    if let Err(error) = install_packages(tree, &missing) {
        failures.push(format!("{error:#}"));
    }
    for piece in missing {
        if (piece.is_present)(tree) {
            continue;
        }
        if let Err(error) = (piece.build)(tree) {
            failures.push(format!("{error:#}"));
        }
        if !(piece.is_present)(tree) {
            failures.push(format!("still missing: {}", piece.name));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    println!("set-up: done");
    Ok(())
}

/// Installs the Debian packages of `pieces`, as far as this distribution has them.
fn install_packages(tree: &Tree, pieces: &[&Piece]) -> Result<()> {
    let wanted: Vec<&str> = pieces.iter().flat_map(|piece| piece.packages).copied().collect();
    if wanted.is_empty() || !has_program(tree, "apt-get") {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("packages are installed by root only; run as root, or install {}", wanted.join(" "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    println!("set-up: apt-get update");
    execute("apt-get update", apt().args(["update", "-qq"]))?;
    let packages: Vec<&str> = wanted.into_iter().filter(|package| is_available(package)).collect();
    if packages.is_empty() {
        return Ok(());
    }
    println!("set-up: apt-get install {}", packages.join(" "));
    execute("apt-get install", apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

fn is_available(package: &str) -> bool {
    let mut query = Command::new("apt-cache");
    query.args(["show", "--no-all-versions", package]).stdout(Stdio::null()).stderr(Stdio::null());
    query.status().is_ok_and(|status| status.success())
}

/// The pinned stable Rust, with the sources that `core` is built from.
fn add_pinned_rust() -> Result<()> {
    println!("set-up: rustup toolchain install {PINNED_RUST}, with rust-src");
    let arguments = ["toolchain", "install", PINNED_RUST, "--profile", "minimal", "--component", "rust-src"];
    execute("rustup", Command::new("rustup").args(arguments))
}

fn build_linker(tree: &Tree) -> Result<()> {
    let prefix = llvm_prefix().with_context(|| {
        format!("no LLVM {LLVM_MAJOR} with its headers; set LLVM_PREFIX, or install bpf-linker {BPF_LINKER}")
    })?;
    let feature = format!("llvm-{LLVM_MAJOR}");
    let arguments = ["bpf-linker", "--version", BPF_LINKER, "--no-default-features", "--features", &feature];
    cargo_install_with(tree, &arguments, &[("LLVM_PREFIX", prefix)])
}

/// Where LLVM lies: where the user says, else where distributions put it.
fn llvm_prefix() -> Option<PathBuf> {
    let usual =
        ["/usr/lib/llvm-22", "/usr/lib64/llvm22", "/usr/lib/llvm22", "/opt/llvm-22"].map(PathBuf::from);
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    given.into_iter().chain(usual).find(|prefix| prefix.join("bin/llvm-config").is_file())
}

fn cargo_install(tree: &Tree, arguments: &[&str]) -> Result<()> {
    cargo_install_with(tree, arguments, &[])
}

fn cargo_install_with(tree: &Tree, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
    println!("set-up: cargo install {}", arguments.join(" "));
    let mut command = cargo();
    command.arg("install").args(arguments).envs(environment.iter().cloned());
    // A wrong version, or one whose libraries are gone, is in the way otherwise.
    command.arg("--force").arg("--root").arg(&tree.cargo_home);
    execute("cargo install", command.current_dir(Path::new("/")))
}

fn has_program(tree: &Tree, name: &str) -> bool {
    toolchain::search_path(tree).is_ok_and(|path| toolchain::find_program(name, &path).is_some())
}

/// Whether cargo has a subcommand that runs: rustup puts a stub in the place of a component that is not installed.
fn has_cargo(arguments: &[&str]) -> bool {
    let mut command = cargo();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn execute(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}
