//! Which module may import which: `source -> state -> plan -> maps -> kernel`, and nothing looks right.

use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

use crate::manifest;
use crate::source::Source;

/// A set of names.
pub(crate) enum Names {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Names {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(&name),
            Self::AllBut(names) => !names.contains(&name),
        }
    }
}

/// What one module may import. The first row whose module fits a file counts.
pub(crate) struct Row {
    /// The module's file without its extension, or its folder.
    module: &'static str,
    /// Modules of the same crate, beside itself.
    modules: Names,
    crates: Names,
    /// Whether clocks, files, processes and sockets are out of bounds.
    is_pure: bool,
    reason: &'static str,
}

/// The modules of the agent that stand at its end.
const LAST: Names = Names::AllBut(&["agent", "cmd"]);
const ALL: Names = Names::AllBut(&[]);

/// The allowed edges.
pub(crate) const TABLE: [Row; 34] = [
    Row {
        module: "proxy-common/src",
        modules: ALL,
        crates: Names::Only(&["core", "zerocopy"]),
        is_pure: false,
        reason: "the contract is shared with the kernel side: it knows core, and the byte views of its own layouts",
    },
    Row {
        module: "proxy-ebpf/src/proofs",
        modules: ALL,
        crates: Names::Only(&["core", "aya_ebpf", "proxy_common", "zerocopy"]),
        is_pure: false,
        reason: "proofs share layouts with the contract and with the tests, and know nothing else",
    },
    Row {
        module: "proxy-ebpf/src",
        modules: ALL,
        crates: Names::Only(&["core", "aya_ebpf", "aya_log_ebpf", "proxy_common"]),
        is_pure: false,
        reason: "hooks turn contexts into tuples; every layout and decision is in proxy-common",
    },
    Row {
        module: "proxy-userspace/src/model",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "ipnet"]),
        is_pure: true,
        reason: "the nouns know nobody",
    },
    Row {
        module: "proxy-userspace/src/state",
        modules: Names::Only(&["model"]),
        crates: Names::Only(&["std", "ipnet"]),
        is_pure: true,
        reason: "the desired world is what events said, wherever they came from",
    },
    Row {
        module: "proxy-userspace/src/plan",
        modules: Names::Only(&["model"]),
        crates: Names::Only(&["std", "foldhash", "ipnet", "proxy_common", "sha2", "thiserror"]),
        is_pure: true,
        reason: "the meaning of a Service is pure: no input or output, no clock, and it cannot fail",
    },
    Row {
        module: "proxy-userspace/src/source",
        modules: Names::Only(&["model"]),
        crates: Names::AllBut(&["aya", "aya_obj", "libc", "proxy_common"]),
        is_pure: false,
        reason: "sources yield events; they see neither plan nor maps nor ids",
    },
    Row {
        module: "proxy-userspace/src/maps",
        modules: Names::Only(&["plan", "sys"]),
        crates: Names::Only(&[
            "std",
            "foldhash",
            "proxy_common",
            "rustix",
            "serde",
            "thiserror",
            "tracing",
            "zerocopy",
        ]),
        is_pure: false,
        reason: "the writer knows rows and operations, and not what Kubernetes meant by them",
    },
    Row {
        module: "proxy-userspace/src/sys",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "aya_obj", "libc", "rustix", "thiserror"]),
        is_pure: false,
        reason: "system calls know nothing of what they are used for",
    },
    Row {
        module: "proxy-userspace/src/datapath/packet/effects",
        modules: Names::Only(&["devices", "sys"]),
        crates: Names::Only(&["std", "proxy_common"]),
        is_pure: true,
        reason: "what has to be done at devices follows from what is wanted and what is there",
    },
    Row {
        module: "proxy-userspace/src/datapath/packet/ports",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "proxy_common"]),
        is_pure: true,
        reason: "which ports are set aside follows from what the host says",
    },
    Row {
        module: "proxy-userspace/src/datapath",
        modules: Names::Only(&["devices", "maps", "sys"]),
        crates: Names::AllBut(&["kube", "k8s_openapi", "serde_saphyr"]),
        is_pure: false,
        reason: "loading and attaching programs needs no Service: neither model nor plan",
    },
    Row {
        module: "proxy-userspace/src/clients",
        modules: Names::Only(&["datapath", "maps", "status", "sys"]),
        crates: Names::AllBut(&["aya_obj", "kube", "k8s_openapi", "serde_saphyr", "tokio"]),
        is_pure: false,
        reason: "whoever looks after clients knows neither Services nor plans, and has threads of its own",
    },
    Row {
        module: "proxy-userspace/src/flows",
        modules: Names::Only(&["sys"]),
        crates: Names::Only(&["std", "proxy_common", "tracing", "zerocopy"]),
        is_pure: false,
        reason: "whoever sweeps records of flows knows the maps, and has a thread of its own",
    },
    Row {
        module: "proxy-userspace/src/agent/pacing",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std"]),
        is_pure: true,
        reason: "pacing is handed its clock",
    },
    Row {
        module: "proxy-userspace/src/agent/programming",
        modules: Names::Only(&["model"]),
        crates: Names::Only(&["std"]),
        is_pure: true,
        reason: "latencies are worked out from the moments that it is told",
    },
    Row {
        module: "proxy-userspace/src/agent/bootstrap",
        modules: Names::Only(&["model", "state"]),
        crates: Names::Only(&["std"]),
        is_pure: true,
        reason: "whose an address is follows from the desired world",
    },
    Row {
        module: "proxy-userspace/src/metrics/services",
        modules: Names::Only(&["maps", "plan"]),
        crates: Names::Only(&["std", "foldhash"]),
        is_pure: true,
        reason: "who has series of its own follows from what was counted",
    },
    Row {
        module: "proxy-userspace/src/metrics/family",
        modules: Names::Only(&["status"]),
        crates: Names::Only(&["std"]),
        is_pure: true,
        reason: "a text format is a function of the data",
    },
    Row {
        module: "proxy-userspace/src/events/notes",
        modules: Names::Only(&["model", "plan", "source"]),
        crates: Names::Only(&["std"]),
        is_pure: true,
        reason: "what there is to tell follows from what was skipped and refused",
    },
    Row {
        module: "proxy-userspace/src/events/ledger",
        modules: Names::Only(&["source"]),
        crates: Names::Only(&["std", "jiff"]),
        is_pure: true,
        reason: "the bounds of what is told are handed their clock",
    },
    Row {
        module: "proxy-userspace/src/events/body",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "jiff", "serde_json", "sha2"]),
        is_pure: true,
        reason: "the form of an Event is a function of the data",
    },
    Row {
        module: "proxy-userspace/src/events",
        modules: Names::Only(&["plan", "source"]),
        crates: Names::Only(&["std", "jiff", "sha2", "tokio", "tracing"]),
        is_pure: false,
        reason: "Events are told and forgotten: the agent hands over what it has, and nothing comes back",
    },
    Row {
        module: "proxy-userspace/src/trace",
        modules: Names::Only(&["maps", "plan"]),
        crates: Names::Only(&["std", "proxy_common", "serde", "thiserror"]),
        is_pure: true,
        reason: "a trace is a function of the maps that it is handed: it opens nothing and knows no clock",
    },
    Row {
        module: "proxy-userspace/src/kubeproxy",
        modules: Names::Only(&["cli", "plan", "source"]),
        crates: Names::Only(&[
            "std",
            "clap",
            "ipnet",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "serde_saphyr",
            "thiserror",
        ]),
        is_pure: false,
        reason: "kube-proxy's configuration is read and judged; what is done with it is decided elsewhere",
    },
    Row {
        module: "proxy-userspace/src/devices/follow",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "futures_util", "rtnetlink", "thiserror", "tokio", "tracing"]),
        is_pure: false,
        reason: "facts about devices come by netlink; what is wanted of them is decided beside",
    },
    Row {
        module: "proxy-userspace/src/devices/read",
        modules: Names::Only(&[]),
        crates: Names::Only(&["std", "rtnetlink"]),
        is_pure: true,
        reason: "facts are what the kernel's messages say",
    },
    Row {
        module: "proxy-userspace/src/devices",
        modules: Names::Only(&["kubeproxy", "model"]),
        crates: Names::Only(&["std", "ipnet", "thiserror"]),
        is_pure: true,
        reason: "which devices are wanted follows from facts, and who is inside from what the user and the Node say",
    },
    Row {
        module: "proxy-userspace/src/check/gather",
        modules: Names::Only(&["datapath", "devices", "health", "sys"]),
        crates: Names::Only(&["std", "proxy_common", "rustix", "zerocopy"]),
        is_pure: false,
        reason: "looking at the host knows no Service, and decides nothing",
    },
    Row {
        module: "proxy-userspace/src/check",
        modules: Names::Only(&["datapath"]),
        crates: Names::Only(&["std", "serde"]),
        is_pure: true,
        reason: "findings follow from the facts that were gathered",
    },
    Row {
        module: "proxy-userspace/src/cmd",
        modules: ALL,
        crates: ALL,
        is_pure: false,
        reason: "commands may use everything",
    },
    Row {
        module: "proxy-userspace/src/agent",
        modules: Names::AllBut(&["cmd"]),
        crates: ALL,
        is_pure: false,
        reason: "the agent's loop may use everything but the commands that start it",
    },
    Row {
        module: "proxy-userspace/src/main",
        modules: ALL,
        crates: ALL,
        is_pure: false,
        reason: "the entry point may use everything",
    },
    Row {
        module: "proxy-userspace/src",
        modules: LAST,
        crates: ALL,
        is_pure: false,
        reason: "nothing imports the agent's loop or the commands",
    },
];

/// What a pure module must not touch.
const IMPURE: [&str; 11] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// What `source` imports and may not.
pub(crate) fn breaches(source: &Source, table: &[Row]) -> Vec<String> {
    if source.is_test || !source.path.starts_with("proxy-") || !source.path.contains("/src/") {
        return Vec::new();
    }
    let Some(row) = table.iter().find(|row| covers(row.module, &source.path)) else {
        return vec![format!("{}: has no row in the table of allowed edges", source.path)];
    };
    let own = module_path(&source.path);
    let mut breaches = Vec::new();
    for path in source.paths(false) {
        let text = path.join("::");
        let forbidden = match imported(&own, &path) {
            Import::Module(module) => Some(&module) != own.first() && !row.modules.contains(&module),
            // `core` is the part of `std` that needs no reason.
            Import::Crate(name) if name == "core" && row.crates.contains("std") => false,
            Import::Crate(name) => !row.crates.contains(&name),
            Import::Nothing => false,
        };
        let impure =
            row.is_pure && IMPURE.iter().any(|name| text == *name || text.starts_with(&format!("{name}::")));
        if forbidden || impure {
            breaches.push(format!("{}: `{text}`: {}", source.path, row.reason));
        }
    }
    breaches
}

fn covers(module: &str, path: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.starts_with(".rs") || rest.starts_with('/'))
}

/// The module that a file is, from the root of its crate.
fn module_path(path: &str) -> Vec<String> {
    let inside = path.split_once("/src/").map_or(path, |(_, inside)| inside).trim_end_matches(".rs");
    let mut modules: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if modules.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        modules.pop();
    }
    modules
}

enum Import {
    Module(String),
    Crate(String),
    Nothing,
}

/// What a path in the module `own` reaches, if that is outside of it.
fn imported(own: &[String], path: &[String]) -> Import {
    let climbs = path.iter().take_while(|segment| *segment == "super").count();
    let first = path[0].as_str();
    if first == "crate" {
        Import::Module(path[1].clone())
    } else if climbs > 0 && climbs >= own.len() {
        path.get(climbs).map_or(Import::Nothing, |module| Import::Module(module.clone()))
    } else if climbs == 0 && known_crates().contains(first) {
        Import::Crate(first.to_owned())
    } else {
        Import::Nothing
    }
}

/// Every crate that a path can start with: the dependencies of this repository, and Rust's own.
fn known_crates() -> &'static BTreeSet<String> {
    static CRATES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let own = ["alloc", "core", "std", "shunt", "proxy_common"].map(str::to_owned);
        ["Cargo.toml", "proxy-ebpf/Cargo.toml"]
            .iter()
            .flat_map(|file| manifest::dependencies(&fs::read_to_string(crate::root().join(file)).unwrap()))
            .map(|dependency| dependency.name.replace('-', "_"))
            .chain(own)
            .collect()
    });
    &CRATES
}

#[cfg(test)]
mod tests {
    use super::{TABLE, breaches};
    use crate::source::Source;

    fn count(path: &str, text: &str) -> usize {
        breaches(&Source::parse(path, text), &TABLE).len()
    }

    #[test]
    fn looking_right_is_a_breach() {
        let plan = "proxy-userspace/src/plan/diff.rs";
        assert_eq!(
            count(plan, "use crate::model::Service; use super::tables::Row; use std::net::IpAddr;"),
            0
        );
        assert_eq!(count(plan, "use crate::maps::MapStore;"), 1);
        assert_eq!(count(plan, "fn f() -> std::time::Instant { todo() }"), 1);
        assert_eq!(count(plan, "use std::{fmt, fs};"), 1);
        assert_eq!(count(plan, "use tokio::time;"), 1);
        assert_eq!(count("proxy-userspace/src/plan/mod.rs", "use super::maps::Words;"), 1);
        assert_eq!(count("proxy-userspace/src/maps/apply.rs", "use crate::model::Service;"), 1);
        assert_eq!(count("proxy-userspace/src/health.rs", "use crate::agent::Agent;"), 1);
        assert_eq!(count("proxy-ebpf/src/sock.rs", "fn f() { shunt::maps::x() }"), 1);
    }

    #[test]
    fn macros_are_looked_into_and_tests_are_not() {
        let model = "proxy-userspace/src/model/node.rs";
        assert_eq!(count(model, "fn f() { g!(serde::x) }"), 1);
        assert_eq!(count(model, "#[cfg(test)] mod tests { use proptest::prelude; }"), 0);
    }

    #[test]
    fn the_contract_knows_core_alone() {
        assert_eq!(count("proxy-common/src/lb.rs", "use core::fmt; use crate::addr::Addr;"), 0);
        assert_eq!(count("proxy-common/src/lb.rs", "use std::fmt;"), 1);
        assert_eq!(count("proxy-common/src/lb.rs", "fn f() { alloc::vec::Vec::<u8>::new(); }"), 1);
    }

    #[test]
    fn a_file_without_a_row_is_a_breach() {
        let source = Source::parse("proxy-userspace/src/plan/diff.rs", "");
        assert_eq!(breaches(&source, &[]).len(), 1);
    }
}
