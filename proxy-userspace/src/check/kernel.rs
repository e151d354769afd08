//! The kernel: what the programs need, and whether it takes them.

use super::Finding;
use super::facts::{Facts, Program, Seen};
use crate::datapath::features::{Feature, Kind};
use crate::datapath::probe::{self, Need};

/// The first kernel with tcx.
const TCX: (u32, u32) = (6, 6);
/// Why nothing was tried.
const NOT_TRIED: &str = "not tried: a right to load programs is missing";
const RUN_WITH_RIGHTS: &str = "run as root, or with the capabilities that are missing";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    vec![
        need(facts, Need::Kernel, "kernel", &facts.release),
        need(facts, Need::Btf, "BTF", "/sys/kernel/btf/vmlinux"),
        features(facts, Kind::MapType, "map types"),
        features(facts, Kind::Helper, "helpers"),
        programs(facts.programs.as_ref()),
        device_hooks(facts),
    ]
}

/// What the agent itself would find missing.
fn need(facts: &Facts, need: Need, check: &str, found: &str) -> Finding {
    match probe::missing(&facts.host).into_iter().find(|missing| missing.need == need) {
        Some(missing) => Finding::missing(
            check,
            format!("this host lacks {}", missing.what),
            format!("it is needed for {}; the agent ends with exit code 3", missing.needed_for),
        ),
        None => Finding::ok(check, found),
    }
}

fn features(facts: &Facts, kind: Kind, check: &str) -> Finding {
    let Some(features) = &facts.features else {
        return Finding::unseen(check, NOT_TRIED, RUN_WITH_RIGHTS);
    };
    let of_kind = || features.iter().filter(|feature| feature.kind == kind);
    let names = |wanted: &dyn Fn(&&Feature) -> bool| {
        of_kind().filter(wanted).map(|feature| &*feature.name).collect::<Vec<_>>().join(", ")
    };
    let lacking = names(&|feature| feature.is_there == Ok(false));
    if !lacking.is_empty() {
        let advice = "the kernel was built without; the agent ends with exit code 3";
        return Finding::missing(check, format!("this kernel lacks {lacking}"), advice);
    }
    match of_kind().find_map(|feature| feature.is_there.as_ref().err().map(|why| (&feature.name, why))) {
        Some((name, why)) => Finding::unseen(check, format!("{name}: {why}"), RUN_WITH_RIGHTS),
        None => Finding::ok(check, format!("in use: {}", names(&|_| true))),
    }
}

fn programs(programs: Option<&Seen<Vec<Program>>>) -> Finding {
    let check = "programs";
    match programs {
        None => Finding::unseen(check, NOT_TRIED, RUN_WITH_RIGHTS),
        Some(Err(why)) => {
            Finding::missing(check, why, "the kernel refuses them; the agent ends with exit code 3")
        }
        Some(Ok(programs)) => {
            let instructions: u32 = programs.iter().map(|program| program.verified_instructions).sum();
            let count = programs.len();
            if programs.iter().all(|program| program.is_compiled) {
                return Finding::ok(
                    check,
                    format!("{count} load ({instructions} instructions verified) and become machine code"),
                );
            }
            let advice =
                "every connect costs several times as much; net.core.bpf_jit_enable = 1 changes that";
            Finding::warning(check, format!("{count} load, but the kernel interprets them"), advice)
        }
    }
}

/// Where programs at devices have their place.
fn device_hooks(facts: &Facts) -> Finding {
    let check = "device hooks";
    match facts.host.kernel {
        Some(version) if version >= TCX => Finding::ok(check, "this kernel has tcx"),
        Some(_) => Finding::info(
            check,
            "this kernel has clsact and no tcx, which came with 6.6",
            "programs are filters of a clsact qdisc instead of links: whoever flushes the filters of a device takes them away",
        ),
        None => Finding::unseen(
            check,
            "the kernel's version is not known",
            "tcx came with 6.6; before it clsact serves",
        ),
    }
}
