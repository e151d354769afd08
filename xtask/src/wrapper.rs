//! Stands between cargo and the eBPF compiler, so that the object does not depend on where the checkout lies.
//!
//! Cargo derives the identity of a crate (`-C metadata`) from its path among other things. The identity is part of
//! every symbol's name, and the order of symbols decides what the compiler emits: two checkouts built code that
//! differed in the order of stores. Name and version identify a crate here as well, and alike everywhere.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// Set for the cargo that builds eBPF; then this program is called as `xtask RUSTC ARGUMENTS...`.
const SWITCH: &str = "SHUNT_XTASK_WRAPS_RUSTC";

/// Makes `cargo` call the compiler through this program.
pub(crate) fn install(cargo: &mut Command) -> Result<()> {
    cargo.env("RUSTC_WRAPPER", env::current_exe().context("the path of xtask")?).env(SWITCH, "1");
    Ok(())
}

/// Whether cargo calls this program in the place of the compiler.
pub(crate) fn is_called() -> bool {
    env::var_os(SWITCH).is_some()
}

/// Becomes the compiler that the command line names.
pub(crate) fn run() -> Result<()> {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    stabilise(&mut arguments, &version);
    let (rustc, arguments) = arguments.split_first().context("cargo names the compiler")?;
    let error = Command::new(rustc).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", rustc.display()))
}

/// Names the crate by name and version, if it is one for the eBPF target.
fn stabilise(arguments: &mut [OsString], version: &str) {
    let after = |word: &str| {
        arguments.windows(2).find(|pair| pair[0] == OsStr::new(word)).and_then(|pair| pair[1].to_str())
    };
    let (Some(name), Some("bpfel-unknown-none")) = (after("--crate-name"), after("--target")) else { return };
    let identity = format!("metadata={name}-{version}");
    for argument in arguments.iter_mut() {
        if argument.to_string_lossy().starts_with("metadata=") {
            *argument = identity.clone().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::stabilise;

    fn stabilised(line: &str) -> String {
        let mut arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        stabilise(&mut arguments, "0.1.0");
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn crates_of_the_object_are_named_by_name_and_version() {
        let line = "rustc --crate-name lb -C metadata=12 -C extra-filename=-12 --target bpfel-unknown-none";
        let expected =
            "rustc --crate-name lb -C metadata=lb-0.1.0 -C extra-filename=-12 --target bpfel-unknown-none";
        assert_eq!(stabilised(line), expected);
    }

    #[test]
    fn crates_of_the_host_stay_as_they_are() {
        let line = "rustc --crate-name syn -C metadata=12";
        assert_eq!(stabilised(line), line);
    }
}
