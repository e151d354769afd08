//! `shunt agent`: follows the manifests and keeps the datapath right until it is asked to end.

use super::Exit;
use crate::agent::{self, AgentError, Variant};
use crate::cli::AgentArgs;
use crate::config::{AgentConfig, Surroundings};
use crate::logs;

/// Runs the agent that `args` describe.
pub fn run(args: AgentArgs) -> anyhow::Result<Exit> {
    run_variant(args, &Variant::default())
}

/// Runs an agent that differs from what users run, for tests.
pub fn run_variant(args: AgentArgs, variant: &Variant) -> anyhow::Result<Exit> {
    let config = AgentConfig::resolve(args, &Surroundings::of_this_process())?;
    logs::init(config.log_format)?;
    agent::run(&config, variant).map_err(|error| {
        let exit = exit_for(&error);
        anyhow::Error::new(error).context(exit)
    })?;
    Ok(Exit::Done)
}

const fn exit_for(error: &AgentError) -> Exit {
    match error {
        AgentError::Unfit(_) | AgentError::Datapath(_) | AgentError::Store(_) => Exit::Unfit,
        AgentError::Source(_) => Exit::Unreached,
        AgentError::Adopt(_) | AgentError::System { .. } => Exit::Found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::probe::Missing;

    #[test]
    fn an_unfit_host_ends_with_3_and_names_what_is_missing() {
        let missing = Missing { what: "CAP_BPF".to_owned(), needed_for: "loading programs" };
        let error = AgentError::Unfit(vec![missing]);
        assert_eq!(exit_for(&error), Exit::Unfit);
        assert_eq!(error.to_string(), "this host lacks CAP_BPF (for loading programs)");
    }
}
