//! The agent started under the name of kube-proxy: kube-proxy's flags, honoured or named with the reason.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;

use super::{Exit, agent, cleanup, write_out};
use crate::agent::Variant;
use crate::cli::{AgentArgs, CleanupArgs};
use crate::config::{Merged, Surroundings};
use crate::kubeproxy::{Action, Document, Flags};

/// Whether a process whose first word is `program` was started as kube-proxy.
pub fn is_meant(program: Option<&OsString>) -> bool {
    program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == "kube-proxy")
}

/// Does what `words`, the first of them the program, ask of kube-proxy. A wrong command line ends the process at once,
/// as does a request for help.
pub fn run(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Exit> {
    let flags = Flags::parse(words).unwrap_or_else(|error| error.exit());
    let args = AgentArgs::of_environment().unwrap_or_else(|error| error.exit());
    let action = flags.action();
    let pin = args.pin.clone();
    if action == Action::Cleanup {
        return cleanup::run(&CleanupArgs { pin });
    }
    let surroundings = Surroundings::of_this_process();
    let merged = Merged::of_kube_proxy(&flags, args, &surroundings)?;
    match action {
        Action::WriteConfig(file) => {
            let text = to_yaml(&merged.configuration())?;
            std::fs::write(&file, text).with_context(|| format!("--write-config-to: {}", file.display()))?;
            Ok(Exit::Done)
        }
        Action::InitOnly => {
            write_out(
                b"nothing to set up: Shunt changes no sysctl, and its agent needs its rights for as long as it runs\n",
            )?;
            Ok(Exit::Done)
        }
        Action::Agent | Action::Cleanup => agent::start(merged.complete(&surroundings)?, &Variant::default()),
    }
}

fn to_yaml(configuration: &Document) -> anyhow::Result<String> {
    serde_saphyr::to_string(configuration).context("write YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_decides() {
        let meant = |program: &str| is_meant(Some(&program.into()));
        assert!(meant("kube-proxy") && meant("/usr/local/bin/kube-proxy"));
        assert!(!meant("shunt") && !meant("/kube-proxy/shunt") && !meant("kube-proxy-2"));
        assert!(!is_meant(None));
    }
}
