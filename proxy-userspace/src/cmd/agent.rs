//! `shunt agent`: follows the manifests and keeps the datapath right until it is asked to end.

use tracing::warn;

use super::Exit;
use crate::agent::{self, AgentError, Variant};
use crate::cli::AgentArgs;
use crate::config::{AgentConfig, Resolved, Surroundings};
use crate::{logs, sys};

/// Runs the agent that `args` describe.
pub fn run(args: AgentArgs) -> anyhow::Result<Exit> {
    run_variant(args, &Variant::default())
}

/// Runs an agent that differs from what users run, for tests.
pub fn run_variant(args: AgentArgs, variant: &Variant) -> anyhow::Result<Exit> {
    start(AgentConfig::resolve(args, &Surroundings::of_this_process())?, variant)
}

/// Runs what was resolved.
pub(super) fn start(resolved: Resolved, variant: &Variant) -> anyhow::Result<Exit> {
    let Resolved { config, notices } = resolved;
    logs::init(config.log_format, &config.log_filter)?;
    for notice in notices {
        warn!(field = notice.field, "{}", notice.problem);
    }
    if let Some(score) = config.oom_score_adj
        && let Err(error) = sys::oom::set_score_adj(score)
    {
        warn!(score, %error, "cannot set oom_score_adj");
    }
    agent::run(&config, variant).map_err(|error| {
        let exit = exit_for(&error);
        anyhow::Error::new(error).context(exit)
    })?;
    Ok(Exit::Done)
}

const fn exit_for(error: &AgentError) -> Exit {
    match error {
        AgentError::Unfit(_) | AgentError::Cgroup(_) | AgentError::Datapath(_) | AgentError::Store(_) => {
            Exit::Unfit
        }
        AgentError::Source(_) => Exit::Unreached,
        AgentError::Adopt(_)
        | AgentError::SourceEnded(_)
        | AgentError::Devices(_)
        | AgentError::Bind { .. }
        | AgentError::System { .. } => Exit::Found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::probe::{CAP_BPF, Missing, Need};
    use crate::source::SourceError;
    use crate::sys::cgroup::CgroupError;

    #[test]
    fn a_server_that_does_not_answer_ends_with_4_and_names_the_flag() {
        let servers = "https://10.96.0.1:443".to_owned();
        let limit = std::time::Duration::from_secs(10);
        let unreached = SourceError::Unreached { servers, limit, last: "no route".to_owned() };
        let error = AgentError::from(unreached);
        assert_eq!(exit_for(&error), Exit::Unreached);
        assert_eq!(
            error.to_string(),
            "no API server answered at https://10.96.0.1:443 (KUBERNETES_SERVICE_HOST) within 10s: no route; name its \
             own address with --api-server: a cluster IP is an address that this agent itself is here to serve"
        );
    }

    #[test]
    fn an_unfit_host_ends_with_3_and_names_what_is_missing() {
        let need = Need::Right(CAP_BPF);
        let missing = Missing { need, what: "CAP_BPF".to_owned(), needed_for: "loading programs" };
        let error = AgentError::Unfit(vec![missing]);
        assert_eq!(exit_for(&error), Exit::Unfit);
        assert_eq!(error.to_string(), "this host lacks CAP_BPF (for loading programs)");
        let error = AgentError::from(CgroupError::NotMounted);
        assert_eq!(exit_for(&error), Exit::Unfit);
        let text = format!("{:#}", anyhow::Error::new(error));
        assert_eq!(text, "no cgroup to hook: no cgroup v2 tree is mounted");
    }

    #[test]
    fn a_cgroup_root_out_of_reach_ends_with_3_and_names_the_right() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = AgentError::from(CgroupError::Handle(denied));
        assert_eq!(exit_for(&error), Exit::Unfit);
        assert_eq!(
            format!("{:#}", anyhow::Error::new(error)),
            "no cgroup to hook: open the root of the cgroup v2 tree from inside a cgroup namespace, which needs \
             CAP_DAC_READ_SEARCH: permission denied"
        );
    }
}
