//! The cgroup to hook, and what runs at its hooks already.

use super::Finding;
use super::facts::{Attached, Cgroup, Facts, Holder, Hook, Seen};

/// The hook that changes nothing about a socket: programs of others there are in nobody's way.
const HARMLESS: &str = "sock_release";
/// How the programs of every version are called.
const OWN_PREFIX: &str = "shunt_";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let has_agent = facts.listeners.iter().any(|listener| listener.holder == Holder::Agent);
    let hooks = facts.hooks.iter().map(|each| hook(each, has_agent));
    [cgroup(&facts.cgroup)].into_iter().chain(hooks).collect()
}

fn cgroup(cgroup: &Seen<Cgroup>) -> Finding {
    let check = "cgroup";
    match cgroup {
        Ok(Cgroup { id, is_root: true, .. }) => {
            Finding::ok(check, format!("the root of the cgroup v2 tree (id {id})"))
        }
        Ok(Cgroup { id, given, .. }) => {
            let path = given.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            let advice = "only processes in it and below are served";
            Finding::info(check, format!("{path} (id {id}), which is not the root of the tree"), advice)
        }
        Err(why) => Finding::missing(
            check,
            why,
            "the hooks have no place, and the agent ends with exit code 3: mount cgroup v2; from a container the root \
             takes CAP_DAC_READ_SEARCH; or name a directory with --cgroup",
        ),
    }
}

fn hook(hook: &Hook, has_agent: bool) -> Finding {
    let check = format!("hook {}", hook.name);
    let programs = match &hook.programs {
        Ok(programs) if programs.is_empty() => return Finding::ok(check, "nothing attached"),
        Ok(programs) => programs,
        Err(why) => return Finding::unseen(check, why, "asking the kernel takes CAP_NET_ADMIN and a cgroup"),
    };
    let found = programs.iter().map(describe).collect::<Vec<_>>().join(", then ");
    let others = || programs.iter().filter(|program| !program.is_pinned_here);
    if others().next().is_none() {
        return Finding::ok(check, found);
    }
    if !others().all(|program| program.name.as_ref().is_ok_and(|name| name.starts_with(OWN_PREFIX))) {
        if hook.name == HARMLESS {
            return Finding::info(check, found, "sockets that are closed are shown to each of them");
        }
        return Finding::warning(
            check,
            found,
            "they run one after the other for the same call. Two that translate cluster IPs (another socket load \
             balancer, as Cilium's) must not both be on: turn the other one off, or leave Shunt away",
        );
    }
    if has_agent && others().count() == 1 {
        let advice = "the running agent has not pinned it: its restart is not hitless";
        return Finding::info(check, found, advice);
    }
    Finding::warning(
        check,
        found,
        "another agent has its hooks in the same cgroup, or left them there: `shunt cleanup` with its --pin-dir takes \
         them away",
    )
}

fn describe(program: &Attached) -> String {
    let Attached { id, name, is_pinned_here } = program;
    let name = match name {
        Ok(name) if name.is_empty() => "without a name".to_owned(),
        Ok(name) => name.clone(),
        Err(why) => format!("name not seen: {why}"),
    };
    let owner = if *is_pinned_here { "pinned here" } else { "not of this pin directory" };
    format!("program {id} ({name}; {owner})")
}
