//! The real parts of Kubernetes that the tiers `cluster` and `versus` run against, and the helm that renders the chart:
//! built once with Go from `tests/peers` and `tests/helm`, and kept in the user's cache, where `cargo clean` does not
//! reach.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::record;
use crate::toolchain::{self, output};
use crate::tree::Tree;

/// Directories that hold the programs, as in `PATH`; read by the tests.
pub(crate) const DIRECTORIES: &str = "SHUNT_PEERS";
/// A directory with ready binaries, under the name that the Kubernetes projects use for it.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Where Go's own installer puts it, which is not on everybody's `PATH`.
const GO_HOME: &str = "/usr/local/go/bin";
/// The module whose version the programs report.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// A program, and the package that it is built from.
struct Program {
    name: &'static str,
    package: &'static str,
}

/// Programs whose versions one Go module names.
pub(crate) struct Module {
    /// Its directory in this repository.
    directory: &'static str,
    programs: &'static [Program],
}

/// What an agent has around it in a cluster.
pub(crate) const KUBERNETES_PARTS: Module = Module {
    directory: "tests/peers",
    programs: &[
        Program { name: "etcd", package: "go.etcd.io/etcd/server/v3" },
        Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
        Program { name: "kube-controller-manager", package: "k8s.io/kubernetes/cmd/kube-controller-manager" },
        Program { name: "kube-proxy", package: "k8s.io/kubernetes/cmd/kube-proxy" },
    ],
};

/// What renders the chart; a module of its own, so that neither holds back the dependencies of the other.
pub(crate) const HELM: Module = Module {
    directory: "tests/helm",
    programs: &[Program { name: "helm", package: "helm.sh/helm/v4/cmd/helm" }],
};

/// Whether all programs of `module` are on this machine.
pub(crate) fn are_present(tree: &Tree, module: &Module) -> bool {
    search_path(tree, module).is_ok_and(|path| missing(module, &path).is_empty())
}

/// The directories of the programs of `module`, as `PATH` has them; the error says what is missing and what to do about
/// it.
pub(crate) fn find(tree: &Tree, module: &Module) -> Result<OsString> {
    let path = search_path(tree, module)?;
    let missing: Vec<&str> = missing(module, &path).iter().map(|program| program.name).collect();
    if !missing.is_empty() {
        bail!("not built: {}", missing.join(", "));
    }
    Ok(path)
}

/// The directories of what the tier `cluster` runs: those of the parts of Kubernetes, and helm's where it is built. The
/// one test that asks for helm says so where it is not.
pub(crate) fn find_cluster(tree: &Tree) -> Result<OsString> {
    let parts = find(tree, &KUBERNETES_PARTS)?;
    let helm = find(tree, &HELM).ok();
    let directories = [Some(parts), helm].into_iter().flatten();
    env::join_paths(directories.flat_map(|path| env::split_paths(&path).collect::<Vec<_>>()))
        .context("the directories of the programs")
}

/// Builds the programs of `module` that are missing.
pub(crate) fn build(tree: &Tree, module: &Module) -> Result<()> {
    let go = Go::find(tree, module)?;
    let directory = go.cache(tree)?;
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    println!("set-up: go build, with {}, into {}", go.version, directory.display());
    for program in missing(module, &search_path(tree, module)?) {
        println!("set-up: go build {}", program.package);
        let start = Instant::now();
        go.build(program, &directory)?;
        println!("set-up: {} built in {} s", program.name, start.elapsed().as_secs());
    }
    Ok(())
}

/// Ready binaries of the user first, then what set-up has built, if there is a Go to build with.
fn search_path(tree: &Tree, module: &Module) -> Result<OsString> {
    let given = env::var_os(ASSETS).map(PathBuf::from);
    let go = Go::find(tree, module).and_then(|go| go.cache(tree));
    let directories: Vec<PathBuf> = match (given, go) {
        (Some(given), built) => [given].into_iter().chain(built.ok()).collect(),
        (None, built) => vec![built?],
    };
    env::join_paths(directories).context("the directories of the programs")
}

fn missing<'a>(module: &'a Module, path: &OsString) -> Vec<&'a Program> {
    let is_missing = |program: &&Program| toolchain::find_program(program.name, path).is_none();
    module.programs.iter().filter(is_missing).collect()
}

/// A Go toolchain, as one module selects it.
struct Go {
    program: PathBuf,
    version: String,
    /// The module's directory.
    module: PathBuf,
}

impl Go {
    fn find(tree: &Tree, module: &Module) -> Result<Self> {
        let module = tree.root.join(module.directory);
        let path = env::join_paths(
            env::split_paths(&toolchain::search_path(tree)?).chain([PathBuf::from(GO_HOME)]),
        )?;
        let program = toolchain::find_program("go", &path).with_context(|| {
            format!("no `go` on PATH; install Go, or let {ASSETS} name a directory with ready binaries")
        })?;
        // Asked in the module, whose go.mod may select another toolchain than the installed one.
        let version = output(Command::new(&program).args(["env", "GOVERSION"]).current_dir(&module))?;
        Ok(Self { program, version: version.trim().to_owned(), module })
    }

    /// Where the programs of these sources and this compiler lie.
    fn cache(&self, tree: &Tree) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.module.join(file);
            hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        hash.update(&self.version);
        let name = format!("peers-{}", record::hex(&hash.finalize()[..8]));
        Ok(cache_home(tree).join("shunt").join(name))
    }

    fn build(&self, program: &Program, directory: &Path) -> Result<()> {
        // Under its own name only when it is whole, so that a build that was cut short is begun anew.
        let draft = directory.join(format!("{}.draft", program.name));
        let mut command = Command::new(&self.program);
        command.current_dir(&self.module).env("GOWORK", "off");
        command.args(["build", "-trimpath", "-ldflags", &linker_flags(&self.module)?, "-o"]).arg(&draft);
        let status = command.arg(program.package).status().context("run go build")?;
        if !status.success() {
            bail!("go build {} ended with {status}", program.package);
        }
        fs::rename(&draft, directory.join(program.name)).with_context(|| format!("name {}", program.name))
    }
}

/// No symbols, and the version that the programs of Kubernetes report, which their releases are given in this way.
fn linker_flags(module: &Path) -> Result<String> {
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let Some(version) = required_version(&text) else { return Ok("-s -w".to_owned()) };
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let variable = "-X k8s.io/component-base/version";
    Ok(format!(
        "-s -w {variable}.gitVersion={version} {variable}.gitMajor={major} {variable}.gitMinor={minor}"
    ))
}

fn required_version(module: &str) -> Option<&str> {
    module.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(KUBERNETES)).then(|| words.next()).flatten()
    })
}

/// Where what set-up has made lies, in a folder of this project.
pub(crate) fn cache_home(tree: &Tree) -> PathBuf {
    let user = env::var_os("XDG_CACHE_HOME").filter(|given| !given.is_empty()).map(PathBuf::from);
    let usual = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    user.or_else(usual).unwrap_or_else(|| tree.cargo_home.clone())
}

#[cfg(test)]
mod tests {
    use super::{KUBERNETES_PARTS, env, fs, missing, required_version};

    #[test]
    fn only_what_a_given_directory_lacks_is_missing() {
        let (given, built) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
            fs::write(given.path().join(name), "").unwrap();
        }
        let path = env::join_paths([given.path(), built.path()]).unwrap();
        let names: Vec<&str> = missing(&KUBERNETES_PARTS, &path).iter().map(|program| program.name).collect();
        assert_eq!(names, ["kube-proxy"]);
        fs::write(built.path().join("kube-proxy"), "").unwrap();
        assert!(missing(&KUBERNETES_PARTS, &path).is_empty());
    }

    #[test]
    fn the_version_is_that_of_the_requirement() {
        let module = "module m\n\nrequire (\n\tk8s.io/klog/v2 v2.1.0\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n\
                      replace k8s.io/api => k8s.io/api v0.37.2\n";
        assert_eq!(required_version(module), Some("v1.37.2"));
        assert_eq!(required_version("module m\n"), None);
    }
}
