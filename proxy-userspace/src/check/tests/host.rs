//! Kernel, cgroup, hooks, rights and namespaces.

use super::*;
use crate::datapath::probe::{
    CAP_BPF, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_PTRACE, Capability,
};

/// All rights but these.
fn without(facts: &mut Facts, lacking: &[Capability]) {
    facts.host.capabilities =
        lacking.iter().fold(ALL_RIGHTS, |rights, capability| rights & !capability.mask());
}

#[test]
fn what_the_agent_would_find_missing_is_missing_here() {
    judged("kernel", (State::Missing, &["6.1 or newer (this is 5.15)"]), |facts| {
        facts.host.kernel = Some((5, 15));
    });
    judged("kernel", (State::Missing, &["a readable kernel release"]), |facts| facts.host.kernel = None);
    judged("BTF", (State::Missing, &["CONFIG_DEBUG_INFO_BTF", "exit code 3"]), |facts| {
        facts.host.has_btf = false;
    });
    for capability in [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON] {
        judged(capability.name, (State::Missing, &["lacking", "exit code 3"]), |facts| {
            without(facts, &[capability, CAP_SYS_ADMIN]);
        });
    }
    judged("CAP_BPF", (State::Ok, &["part of CAP_SYS_ADMIN"]), |facts| without(facts, &[CAP_BPF]));
    judged("CAP_NET_ADMIN", (State::Missing, &[]), |facts| without(facts, &[CAP_NET_ADMIN]));
    // The agent's own judgement says no more and no less.
    let mut facts = fit();
    facts.host = probe::Facts {
        kernel: Some((5, 4)),
        has_btf: false,
        has_cgroup2: false,
        capabilities: 0,
        has_pins: true,
    };
    facts.cgroup = denied();
    let missing = judge(&facts).into_iter().filter(|finding| finding.state == State::Missing);
    assert_eq!(missing.count(), probe::missing(&facts.host).len());
}

#[test]
fn a_feature_that_the_kernel_lacks_is_named() {
    judged("map types", (State::Ok, &["in use: hash"]), |_| {});
    judged("helpers", (State::Ok, &["in use: set_retval"]), |_| {});
    let lacking = |facts: &mut Facts| {
        facts
            .features
            .as_mut()
            .unwrap()
            .push(Feature { is_there: Ok(false), ..feature(Kind::Helper, "sk_storage_get") });
    };
    judged("helpers", (State::Missing, &["lacks sk_storage_get", "exit code 3"]), lacking);
    judged("map types", (State::Ok, &[]), lacking);
    judged("map types", (State::Unseen, &["lpm_trie: permission denied"]), |facts| {
        facts
            .features
            .as_mut()
            .unwrap()
            .push(Feature { is_there: denied(), ..feature(Kind::MapType, "lpm_trie") });
    });
    judged("helpers", (State::Unseen, &["not tried"]), |facts| facts.features = None);
}

#[test]
fn programs_are_taken_or_refused_or_interpreted() {
    judged("programs", (State::Ok, &["4 load (280 instructions verified)", "machine code"]), |_| {});
    judged("programs", (State::Missing, &["connect4: R2 !read_ok"]), |facts| {
        facts.programs = Some(Err("connect4: R2 !read_ok".to_owned()));
    });
    judged("programs", (State::Unseen, &["not tried"]), |facts| facts.programs = None);
    judged("programs", (State::Warning, &["interprets", "net.core.bpf_jit_enable"]), |facts| {
        facts.programs = Some(Ok(vec![Program { verified_instructions: 1, is_compiled: false }]));
    });
}

#[test]
fn the_place_of_programs_at_devices_is_told() {
    judged("device hooks", (State::Info, &["clsact and no tcx"]), |_| {});
    judged("device hooks", (State::Ok, &["tcx"]), |facts| facts.host.kernel = Some((6, 6)));
    judged("device hooks", (State::Unseen, &[]), |facts| facts.host.kernel = None);
}

#[test]
fn a_cgroup_below_the_root_is_told_and_none_is_missing() {
    judged("cgroup", (State::Ok, &["root", "id 1"]), |_| {});
    judged("cgroup", (State::Info, &["/sys/fs/cgroup/a (id 77)", "only processes in it"]), |facts| {
        facts.cgroup = Ok(Cgroup { id: 77, is_root: false, given: Some("/sys/fs/cgroup/a".into()) });
    });
    judged(
        "cgroup",
        (State::Missing, &["no cgroup v2 tree is mounted", "--cgroup", "exit code 3"]),
        |facts| {
            facts.cgroup = Err("no cgroup v2 tree is mounted".to_owned());
        },
    );
}

#[test]
fn programs_of_others_at_a_hook_are_named() {
    let with =
        |programs: Vec<Attached>| move |facts: &mut Facts| facts.hooks = vec![hook("connect4", Ok(programs))];
    let own = || attached(12, "shunt_connect4", true);
    let check = "hook connect4";
    judged(check, (State::Ok, &["nothing attached"]), with(Vec::new()));
    judged(check, (State::Ok, &["program 12 (shunt_connect4; pinned here)"]), with(vec![own()]));
    let both = with(vec![attached(9, "cil_sock4_conne", false), own()]);
    judged(
        check,
        (State::Warning, &["program 9 (cil_sock4_conne; not of", ", then program 12", "turn the other"]),
        both,
    );
    judged(check, (State::Warning, &["without a name"]), with(vec![attached(9, "", false)]));
    let nameless = Attached { name: denied(), ..attached(9, "", false) };
    judged(check, (State::Warning, &["program 9 (name not seen: permission denied"]), with(vec![nameless]));
    judged(check, (State::Unseen, &["permission denied", "CAP_NET_ADMIN"]), |facts| {
        facts.hooks = vec![hook("connect4", denied())];
    });
}

#[test]
fn programs_of_others_that_see_sockets_close_are_in_nobodys_way() {
    judged("hook sock_release", (State::Info, &["program 9 (cil_sock_releas", "closed"]), |facts| {
        facts.hooks = vec![hook("sock_release", Ok(vec![attached(9, "cil_sock_releas", false)]))];
    });
}

#[test]
fn hooks_of_another_agent_are_told_from_those_of_the_running_one() {
    let unpinned = || attached(9, "shunt_connect4", false);
    let with = |programs: Vec<Attached>, holder: Holder| {
        move |facts: &mut Facts| {
            facts.hooks = vec![hook("connect4", Ok(programs))];
            facts.listeners = vec![listener("--metrics-address", holder)];
        }
    };
    let check = "hook connect4";
    judged(check, (State::Info, &["running agent"]), with(vec![unpinned()], Holder::Agent));
    judged(
        check,
        (State::Warning, &["another agent", "shunt cleanup"]),
        with(vec![unpinned()], Holder::Nobody),
    );
    judged(check, (State::Warning, &["another agent"]), with(vec![unpinned(), unpinned()], Holder::Agent));
}

#[test]
fn a_right_that_is_lacking_says_what_is_lost() {
    let name = CAP_SYS_ADMIN.name;
    judged(name, (State::Missing, &["maps are pinned", "exit code 3"]), |facts| {
        without(facts, &[CAP_SYS_ADMIN]);
    });
    judged(name, (State::Warning, &["the first start works; each later one"]), |facts| {
        without(facts, &[CAP_SYS_ADMIN]);
        facts.host.has_pins = false;
    });
    let name = CAP_DAC_READ_SEARCH.name;
    judged(name, (State::Info, &["not needed here"]), |facts| without(facts, &[CAP_DAC_READ_SEARCH]));
    judged(name, (State::Warning, &["is not found without it"]), |facts| {
        without(facts, &[CAP_DAC_READ_SEARCH]);
        facts.cgroup = denied();
    });
    judged(CAP_SYS_PTRACE.name, (State::Warning, &["destroyed instead of moved"]), |facts| {
        without(facts, &[CAP_SYS_PTRACE]);
    });
}

#[test]
fn namespaces_matter_where_the_whole_host_is_served() {
    judged("PID namespace", (State::Warning, &["hostPID"]), |facts| {
        facts.place.is_initial_pid_namespace = Ok(false);
    });
    judged("PID namespace", (State::Unseen, &[]), |facts| facts.place.is_initial_pid_namespace = denied());
    let check = "network namespace";
    let a_part = || Ok(Cgroup { id: 77, is_root: false, given: Some("/a".into()) });
    judged(check, (State::Warning, &["hostNetwork"]), |facts| {
        facts.place.shares_network_of_process_1 = Ok(false);
    });
    judged(check, (State::Unseen, &["permission denied"]), |facts| {
        facts.place.shares_network_of_process_1 = denied();
    });
    judged(check, (State::Info, &["another"]), |facts| {
        facts.place.shares_network_of_process_1 = Ok(false);
        facts.cgroup = a_part();
    });
    judged(check, (State::Info, &["permission denied"]), |facts| {
        facts.place.shares_network_of_process_1 = denied();
        facts.cgroup = a_part();
    });
}
