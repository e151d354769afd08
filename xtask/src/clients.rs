//! Programs of others that the netns tier sends through a Service: clients, and the servers that answer them.
//!
//! A package that would bring a service, started now or at the next boot, is not installed: its files are unpacked into
//! the user's cache, from where the tests run the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers;
use crate::setup::{Piece, Purpose, execute, has_program, is_available};
use crate::toolchain;
use crate::tree::Tree;

/// What the netns tier needs of these.
pub(crate) const PIECES: [Piece; 9] = [
    installed("curl", &["curl"], |tree| has_program(tree, "curl")),
    installed("wget", &["wget"], |tree| has_program(tree, "wget")),
    installed("dig (package bind9-dnsutils)", &["bind9-dnsutils"], |tree| has_program(tree, "dig")),
    installed("dnsperf", &["dnsperf"], |tree| has_program(tree, "dnsperf")),
    installed("dnsmasq (package dnsmasq-base, which has no service)", &["dnsmasq-base"], |tree| {
        has_program(tree, "dnsmasq")
    }),
    installed(
        "nghttp, h2load and nghttpd (packages nghttp2-client and nghttp2-server)",
        &["nghttp2-client", "nghttp2-server"],
        |tree| ["nghttp", "h2load", "nghttpd"].iter().all(|program| has_program(tree, program)),
    ),
    installed("socat", &["socat"], |tree| has_program(tree, "socat")),
    installed("traceroute", &["traceroute"], |tree| has_program(tree, "traceroute")),
    Piece {
        name: "nginx, iperf3 and redis: unpacked and not installed, as their packages would start services",
        purpose: Purpose::Local,
        is_present: are_unpacked,
        packages: &["libiperf0", "liblzf1", "libjemalloc2"],
        build: unpack,
    },
];

/// Packages with services, and what they need beside themselves.
const UNPACKED: [&str; 5] = ["nginx", "libnginx-mod-stream", "iperf3", "redis-server", "redis-tools"];
/// Their programs, each with the option that makes it tell its version, and so that its libraries are there.
const PROGRAMS: [(&str, &str); 4] = [
    ("usr/sbin/nginx", "-v"),
    ("usr/bin/iperf3", "--version"),
    ("usr/bin/redis-server", "--version"),
    ("usr/bin/redis-cli", "--version"),
];

const fn installed(
    name: &'static str,
    packages: &'static [&'static str],
    is_present: fn(&Tree) -> bool,
) -> Piece {
    Piece { name, purpose: Purpose::Local, is_present, packages, build: |_| Ok(()) }
}

/// Where unpacked programs lie, as far as there are any.
pub(crate) fn directories(tree: &Tree) -> impl Iterator<Item = PathBuf> + use<> {
    let root = root(tree);
    ["usr/bin", "usr/sbin"].map(|folder| root.join(folder)).into_iter().filter(|folder| folder.is_dir())
}

fn root(tree: &Tree) -> PathBuf {
    peers::cache_home(tree).join("shunt").join("unpacked")
}

fn are_unpacked(tree: &Tree) -> bool {
    let root = root(tree);
    PROGRAMS.iter().all(|(program, option)| runs(&root.join(program), option))
}

fn runs(program: &Path, option: &str) -> bool {
    Command::new(program).arg(option).output().is_ok_and(|output| output.status.success())
}

/// Fetches the packages and unpacks them; the error names a program that does not run then.
fn unpack(tree: &Tree) -> Result<()> {
    let path = toolchain::search_path(tree)?;
    if ["apt-get", "dpkg-deb"].iter().any(|program| toolchain::find_program(program, &path).is_none()) {
        bail!("no apt-get and dpkg-deb to fetch and unpack {} with", UNPACKED.join(" "));
    }
    let root = root(tree);
    // Under its own name only when it is whole, so that one that was cut short is begun anew.
    let draft = root.with_extension("draft");
    remove(&draft)?;
    let (archives, files) = (draft.join("archives"), draft.join("files"));
    for folder in [&archives, &files] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let packages: Vec<&str> = UNPACKED.into_iter().filter(|package| is_available(package)).collect();
    println!("set-up: apt-get download {}", packages.join(" "));
    // As the one who runs this: the directory is closed to others, among them apt's own user.
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(packages).current_dir(&archives);
    execute("apt-get download", &mut download)?;
    for archive in fs::read_dir(&archives)? {
        execute("dpkg-deb", Command::new("dpkg-deb").arg("--extract").arg(archive?.path()).arg(&files))?;
    }
    remove(&root)?;
    fs::rename(&files, &root).with_context(|| format!("name {}", root.display()))?;
    remove(&draft)?;
    match PROGRAMS.iter().find(|(program, option)| !runs(&root.join(program), option)) {
        Some((program, _)) => bail!("{} was unpacked and does not run", root.join(program).display()),
        None => Ok(()),
    }
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}
