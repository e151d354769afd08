//! kube-proxy's process and what one has left, read from `/proc` and by netlink dumps. No program is started, no table is
//! made: a part of the kernel that is not loaded holds no rules, and is not asked.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::place;
use crate::check::facts::{KubeProxy, Process, Seen};
use crate::sys::nftables::{self, Table};

/// A symbol that every kernel with nftables in it, or loaded, has had since there are nftables.
const NFTABLES_SYMBOL: &str = " nft_register_expr";
/// `NFPROTO_*` by name, as nft writes them.
const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];
/// Kinds of virtual services in `/proc/net/ip_vs`: by protocol, or by firewall mark.
const VIRTUAL_SERVICES: [&str; 4] = ["TCP ", "UDP ", "SCTP", "FWM "];

pub(super) fn look() -> KubeProxy {
    let (tables, chains) = nftables();
    KubeProxy {
        processes: processes(),
        tables,
        chains,
        legacy_tables: legacy_tables().map_err(|error| error.to_string()),
        virtual_services: virtual_services().map_err(|error| error.to_string()),
    }
}

fn processes() -> Seen<Vec<Process>> {
    let mut found = Vec::new();
    let own = fs::metadata("/proc/self/exe").map(|exe| (exe.dev(), exe.ino())).ok();
    for entry in fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end at any moment.
        let is_named =
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "kube-proxy");
        if is_named && !is_shunt(&entry.path().join("exe"), own) {
            let shares_network = place::shares_network(id).map_err(|error| error.to_string());
            found.push(Process { id, shares_network });
        }
    }
    if found.is_empty() && !place::is_initial_pid_namespace()? {
        return Err(
            "only processes of this PID namespace are seen (a pod sees the host's with hostPID)".to_owned()
        );
    }
    Ok(found)
}

/// An agent may be started under kube-proxy's name.
fn is_shunt(exe: &Path, own: Option<(u64, u64)>) -> bool {
    let is_own = own.is_some() && fs::metadata(exe).ok().map(|exe| (exe.dev(), exe.ino())) == own;
    is_own || fs::read_link(exe).is_ok_and(|path| path.file_name().is_some_and(|name| name == "shunt"))
}

type Names = Seen<Vec<(String, String)>>;

/// Whether the kernel has nftables, in it or loaded: to ask one that has not would load it.
pub(super) fn has_nftables() -> Seen<bool> {
    match fs::read_to_string("/proc/kallsyms") {
        Ok(symbols) if !symbols.is_empty() => Ok(symbols.lines().any(|line| line.contains(NFTABLES_SYMBOL))),
        outcome => {
            let why = outcome.err().map_or_else(|| "it is empty".to_owned(), |error| error.to_string());
            Err(format!("whether nftables is loaded: /proc/kallsyms: {why}"))
        }
    }
}

fn nftables() -> (Names, Names) {
    match has_nftables() {
        Ok(true) => {}
        Ok(false) => return (Ok(Vec::new()), Ok(Vec::new())),
        Err(why) => return (Err(why.clone()), Err(why)),
    }
    let refused = |error: io::Error| format!("nftables: {error} (listing takes CAP_NET_ADMIN)");
    let tables = nftables::tables().map_err(refused);
    let chains = nftables::chains().map_err(refused);
    let table = |table: Table| (family(table.family), table.name);
    let chain = |chain: nftables::Chain| {
        let Table { family: number, name } = chain.table;
        (format!("{} {name}", family(number)), chain.name)
    };
    (
        tables.map(|tables| tables.into_iter().map(table).collect()),
        chains.map(|chains| chains.into_iter().map(chain).collect()),
    )
}

/// `NFPROTO_*` by name.
pub(super) fn family(number: u8) -> String {
    let known = FAMILIES.iter().find(|(family, _)| *family == number);
    known.map_or_else(|| format!("family {number}"), |(_, name)| (*name).to_owned())
}

/// Tables of the older iptables, each name once.
fn legacy_tables() -> io::Result<Vec<String>> {
    let mut tables = Vec::new();
    for file in ["ip_tables_names", "ip6_tables_names"] {
        tables.extend(of_network(file)?.lines().map(str::to_owned));
    }
    tables.sort_unstable();
    tables.dedup();
    Ok(tables)
}

fn virtual_services() -> io::Result<usize> {
    let is_service = |line: &&str| VIRTUAL_SERVICES.iter().any(|kind| line.starts_with(kind));
    Ok(of_network("ip_vs")?.lines().filter(is_service).count())
}

/// A file of this thread's network namespace; empty where the kernel does not have it, or has not loaded what it is of.
fn of_network(file: &str) -> io::Result<String> {
    let path = Path::new("/proc/thread-self/net").join(file);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        outcome => outcome,
    }
}
