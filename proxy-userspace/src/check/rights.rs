//! Capabilities and namespaces of the process.

use super::Finding;
use super::facts::{Facts, Seen};
use crate::datapath::probe::{
    self, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Capability, Need, REQUIRED,
};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let required = REQUIRED.iter().map(|(capability, needed_for)| required(facts, *capability, needed_for));
    let further = [
        held(facts, CAP_SYS_ADMIN).unwrap_or_else(|| without_sys_admin(facts)),
        held(facts, CAP_DAC_READ_SEARCH).unwrap_or_else(|| without_dac_read_search(facts)),
        held(facts, CAP_SYS_PTRACE).unwrap_or_else(|| {
            let advice = "of connected UDP sockets whose backend goes those of the host are destroyed instead of moved and those of \
                          pods stay there, and session affinity does not know pods by their addresses; this check sees less of \
                          other processes";
            Finding::warning(CAP_SYS_PTRACE.name, "lacking", advice)
        }),
        pid_namespace(&facts.place.is_initial_pid_namespace),
        network_namespace(facts),
    ];
    required.chain(further).collect()
}

fn held(facts: &Facts, capability: Capability) -> Option<Finding> {
    facts.host.holds(capability).then(|| Finding::ok(capability.name, "held"))
}

fn required(facts: &Facts, capability: Capability, needed_for: &str) -> Finding {
    if let Some(held) = held(facts, capability) {
        return held;
    }
    if facts.host.may(capability) {
        return Finding::ok(capability.name, "part of CAP_SYS_ADMIN, which is held");
    }
    let advice = format!("it is needed for {needed_for}; the agent ends with exit code 3");
    Finding::missing(capability.name, "lacking", advice)
}

/// The kernel opens objects by their ids for nobody else, and the maps in pinned maps of maps have nothing but an id.
fn without_sys_admin(facts: &Facts) -> Finding {
    let name = CAP_SYS_ADMIN.name;
    if probe::missing(&facts.host).iter().any(|missing| missing.need == Need::Right(CAP_SYS_ADMIN)) {
        return Finding::missing(
            name,
            "lacking, and maps are pinned",
            "the agent cannot take them over and ends with exit code 3; nor do `shunt status` and `dump` work",
        );
    }
    Finding::warning(
        name,
        "lacking",
        "the first start works; each later one, which finds pinned maps, ends with exit code 3. /metrics cannot read the \
         maps, and `shunt status` and `dump` do not work",
    )
}

fn without_dac_read_search(facts: &Facts) -> Finding {
    let name = CAP_DAC_READ_SEARCH.name;
    if facts.cgroup.is_ok() {
        return Finding::info(name, "lacking", "not needed here: the cgroup was found without");
    }
    Finding::warning(name, "lacking", "from a container the root of the cgroup tree is not found without it")
}

fn pid_namespace(is_initial: &Seen<bool>) -> Finding {
    let check = "PID namespace";
    match is_initial {
        Ok(true) => Finding::ok(check, "the host's"),
        Ok(false) => Finding::warning(
            check,
            "a container's",
            "processes of the host are not seen (a pod has them with hostPID): connected UDP sockets whose backend goes are not \
             moved, and session affinity does not know pods by their addresses",
        ),
        Err(why) => Finding::unseen(check, why, "in a container processes of the host may not be seen"),
    }
}

/// An agent serves the network namespace that it is in. Beside others, each with a cgroup of its own, any may be right;
/// with the root of the tree it has to be the host's.
fn network_namespace(facts: &Facts) -> Finding {
    let check = "network namespace";
    let is_whole_host = facts.cgroup.as_ref().is_ok_and(|cgroup| cgroup.is_root);
    let found = match &facts.place.shares_network_of_process_1 {
        Ok(true) => return Finding::ok(check, "that of process 1"),
        Ok(false) => "another than that of process 1".to_owned(),
        Err(why) if is_whole_host => {
            let advice = "an agent takes the network namespace that it is in for the host's";
            return Finding::unseen(check, format!("whether it is that of process 1: {why}"), advice);
        }
        Err(why) => format!("whether it is that of process 1 is not seen: {why}"),
    };
    if is_whole_host {
        let advice = "hooks at the root of the tree serve the whole host, and an agent takes the network namespace that it is \
                      in for the host's: run it in that one (in a pod: hostNetwork)";
        return Finding::warning(check, found, advice);
    }
    Finding::info(check, found, "an agent with a cgroup of its own serves the namespace that it is in")
}
