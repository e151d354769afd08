//! `cargo xtask setup`: installs what the commands of the README need, once.
//!
//! Looks for the programs and files themselves, so that a second run starts no package manager at all.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::clients;
use crate::peers;
use crate::toolchain::{self, BPF_LINKER, LLVM_MAJOR, PINNED_RUST};
use crate::tree::Tree;

/// The version of cargo-deny whose configuration `deny.toml` is.
const CARGO_DENY: &str = "0.20.2";

/// How tools are built from source: they run for seconds, and would be optimised for minutes.
const QUICK_BUILD: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// What the set-up is for; each purpose needs what those before it need, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// The demo: network namespaces; the committed eBPF object is used as it is.
    Demo,
    /// The tiers that know no real Kubernetes: the eBPF toolchain and the lint tools.
    Local,
    /// All tiers: the real parts of Kubernetes too.
    Test,
}

/// One thing that must be on this machine.
pub(crate) struct Piece {
    /// What the user reads before it is installed.
    pub(crate) name: &'static str,
    /// The first purpose that needs it.
    pub(crate) purpose: Purpose,
    pub(crate) is_present: fn(&Tree) -> bool,
    /// Debian packages that bring it, or bring what it is built from.
    pub(crate) packages: &'static [&'static str],
    /// Brings it where packages did not.
    pub(crate) build: fn(&Tree) -> Result<()>,
}

const PIECES: [Piece; 11] = [
    Piece {
        name: "ip (package iproute2)",
        purpose: Purpose::Demo,
        is_present: |tree| has_program(tree, "ip"),
        packages: &["iproute2"],
        build: |_| Ok(()),
    },
    Piece {
        name: "nsenter (package util-linux)",
        purpose: Purpose::Demo,
        is_present: |tree| has_program(tree, "nsenter"),
        packages: &["util-linux"],
        build: |_| Ok(()),
    },
    Piece {
        name: "strace",
        purpose: Purpose::Local,
        is_present: |tree| has_program(tree, "strace"),
        packages: &["strace"],
        build: |_| Ok(()),
    },
    Piece {
        name: "nft (package nftables), to see that the agent changes no rule",
        purpose: Purpose::Local,
        is_present: |tree| has_program(tree, "nft"),
        packages: &["nftables"],
        build: |_| Ok(()),
    },
    Piece {
        name: "conntrack, to see what the kernel's connection tracking sees",
        purpose: Purpose::Local,
        is_present: |tree| has_program(tree, "conntrack"),
        packages: &["conntrack"],
        build: |_| Ok(()),
    },
    Piece {
        name: "the eBPF compiler: rustc with LLVM 22 and the sources of core",
        purpose: Purpose::Local,
        is_present: |_| toolchain::rustc().is_some(),
        packages: &["rustc-web", "rust-web-src"],
        build: |_| add_pinned_rust(&["rust-src"]),
    },
    Piece {
        name: "the eBPF linker: bpf-linker, built against LLVM 22",
        purpose: Purpose::Local,
        is_present: |tree| toolchain::linker(tree).is_ok(),
        packages: &["llvm-22-dev", "libpolly-22-dev"],
        build: build_linker,
    },
    Piece {
        name: "rustfmt and clippy of the pinned Rust",
        purpose: Purpose::Local,
        is_present: |_| toolchain::lint_cargo().is_some(),
        packages: &[],
        build: |_| add_pinned_rust(&["rustfmt", "clippy"]),
    },
    Piece {
        name: "cargo-deny",
        purpose: Purpose::Local,
        is_present: |_| has_cargo(&["deny", "--version"]),
        packages: &[],
        build: |tree| cargo_install(tree, &["cargo-deny", "--version", CARGO_DENY, "--locked"]),
    },
    Piece {
        name: "etcd, kube-apiserver, kube-controller-manager and kube-proxy: built with Go from tests/peers, \
               once, which takes some minutes",
        purpose: Purpose::Test,
        is_present: |tree| peers::are_present(tree, &peers::KUBERNETES_PARTS),
        packages: &[],
        build: |tree| peers::build(tree, &peers::KUBERNETES_PARTS),
    },
    Piece {
        name: "helm, to render the chart: built with Go from tests/helm, once, which takes some minutes",
        purpose: Purpose::Test,
        is_present: |tree| peers::are_present(tree, &peers::HELM),
        packages: &[],
        build: |tree| peers::build(tree, &peers::HELM),
    },
];

/// Installs the missing pieces; an error names those that are missing still.
pub(crate) fn run(tree: &Tree, purpose: Purpose) -> Result<()> {
    let missing: Vec<&Piece> = PIECES
        .iter()
        .chain(&clients::PIECES)
        .filter(|piece| piece.purpose <= purpose)
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
    if let Err(error) = execute("apt-get update", apt().args(["update", "-qq"])) {
        // One source of several that does not answer is no reason to give up.
        println!("set-up: {error:#}; going on with the package lists there are");
    }
    let packages: Vec<&str> = wanted.into_iter().filter(|package| is_available(package)).collect();
    if packages.is_empty() {
        return Ok(());
    }
    println!("set-up: apt-get install {}", packages.join(" "));
    execute("apt-get install", apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

pub(crate) fn is_available(package: &str) -> bool {
    let mut query = Command::new("apt-cache");
    query.args(["show", "--no-all-versions", package]).stdout(Stdio::null()).stderr(Stdio::null());
    query.status().is_ok_and(|status| status.success())
}

/// Brings the pinned stable Rust, or `components` to it.
fn add_pinned_rust(components: &[&str]) -> Result<()> {
    let mut arguments = vec!["toolchain", "install", PINNED_RUST, "--profile", "minimal", "--no-self-update"];
    arguments.extend(components.iter().flat_map(|component| ["--component", component]));
    println!("set-up: rustup {}", arguments.join(" "));
    execute("rustup", Command::new("rustup").args(arguments))
}

fn build_linker(tree: &Tree) -> Result<()> {
    let prefix = match llvm_prefix() {
        Some(prefix) => prefix,
        None => pinned_llvm(tree).with_context(|| {
            format!("no LLVM {LLVM_MAJOR}; set LLVM_PREFIX, or install bpf-linker {BPF_LINKER}")
        })?,
    };
    let feature = format!("llvm-{LLVM_MAJOR}");
    let arguments =
        ["bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features", "--features", &feature];
    cargo_install_with(tree, &arguments, &[("LLVM_PREFIX", prefix)])
}

/// Where LLVM lies: where the user says, else where distributions put it.
fn llvm_prefix() -> Option<PathBuf> {
    let usual =
        ["/usr/lib/llvm-22", "/usr/lib64/llvm22", "/usr/lib/llvm22", "/opt/llvm-22"].map(PathBuf::from);
    let given = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    given.into_iter().chain(usual).find(|prefix| prefix.join("bin/llvm-config").is_file())
}

/// The LLVM of the pinned Rust, under the name that a linker looks for. bpf-linker needs the library and no headers.
fn pinned_llvm(tree: &Tree) -> Result<PathBuf> {
    if toolchain::pinned_rust().is_none() {
        add_pinned_rust(&[])?;
    }
    let toolchain = toolchain::pinned_rust().with_context(|| format!("rustup has no Rust {PINNED_RUST}"))?;
    let name = format!("libLLVM.so.{LLVM_MAJOR}");
    let library = fs::read_dir(toolchain.join("lib"))
        .with_context(|| format!("list {}/lib", toolchain.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .with_context(|| format!("{}/lib has no {name}", toolchain.display()))?;
    // The linker that is built keeps looking here: for the short name while it is linked, for the long one when it runs.
    let prefix = tree.cargo_home.join(format!("llvm-{LLVM_MAJOR}-of-rust-{PINNED_RUST}"));
    let directory = prefix.join("lib");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    for link in ["libLLVM.so".into(), library.file_name()] {
        let link = directory.join(link);
        if !link.exists() {
            // One that points to nothing is in the way otherwise; one that is not there is no failure.
            let _ = fs::remove_file(&link);
            symlink(library.path(), &link).with_context(|| format!("create {}", link.display()))?;
        }
    }
    Ok(prefix)
}

fn cargo_install(tree: &Tree, arguments: &[&str]) -> Result<()> {
    cargo_install_with(tree, arguments, &[])
}

fn cargo_install_with(tree: &Tree, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
    println!("set-up: cargo install {}", arguments.join(" "));
    let mut command = toolchain::cargo();
    command.arg("install").args(arguments).envs(QUICK_BUILD).envs(environment.iter().cloned());
    // A wrong version, or one whose libraries are gone, is in the way otherwise.
    command.arg("--force").arg("--root").arg(&tree.cargo_home);
    execute("cargo install", command.current_dir(Path::new("/")))
}

pub(crate) fn has_program(tree: &Tree, name: &str) -> bool {
    toolchain::search_path(tree).is_ok_and(|path| toolchain::find_program(name, &path).is_some())
}

/// Whether cargo has a subcommand that runs.
fn has_cargo(arguments: &[&str]) -> bool {
    let mut command = toolchain::cargo();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

pub(crate) fn execute(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}
