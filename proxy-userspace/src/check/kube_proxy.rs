//! kube-proxy: whether one runs here, and what one has left behind.
//!
//! Beside a running kube-proxy its rules are in their place, since this version does not serve everything. Without it
//! nobody keeps them true, and what Shunt leaves alone follows them all the same.

use std::net::IpAddr;

use super::facts::{Facts, KubeProxy, Process, Seen};
use super::{Finding, State};

/// kube-proxy's table in nftables mode, one in each family.
const TABLE: &str = "kube-proxy";
/// The interface that holds cluster IPs in IPVS mode.
const IPVS_INTERFACE: &str = "kube-ipvs0";
/// The interface of NodeLocal DNSCache.
const DNS_CACHE_INTERFACE: &str = "nodelocaldns";
/// The table of the older iptables that every way to a cluster IP leads through.
const LEGACY_NAT: &str = "nat";
/// Names that are told before the rest is counted.
const TOLD: usize = 5;

/// Chains that only kube-proxy makes (pkg/proxy/iptables and ipvs). KUBE-POSTROUTING and KUBE-MARK-MASQ are not among
/// them: older kubelets make these too. KUBE-FIREWALL and KUBE-KUBELET-CANARY are the kubelet's.
const CHAINS: [&str; 11] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-SOURCE-RANGES-FIREWALL",
];
/// Beginnings of names of chains that kube-proxy makes for a service port or an endpoint.
const CHAIN_PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SEP-"];

const LOOK: &str = "look by hand before you rely on Shunt here";
const BESIDE: &str = "a running kube-proxy keeps them; they serve what Shunt does not";
const LEFT: &str = "no kube-proxy is seen to run here that keeps them true, and connections that Shunt leaves alone follow \
                    them: start it again, or remove them with `kube-proxy --cleanup` (deploy/README.md says what that \
                    does to live connections)";

/// Whether a chain of this name is kube-proxy's.
pub(super) fn is_chain(name: &str) -> bool {
    CHAINS.contains(&name) || CHAIN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let proxy = &facts.kube_proxy;
    let rules = if runs_here(proxy) { (State::Info, BESIDE) } else { (State::Warning, LEFT) };
    let addresses = &facts.network.addresses;
    let mut findings = vec![
        process(&proxy.processes),
        tables(&proxy.tables, rules),
        chains(proxy, rules),
        ipvs((&proxy.virtual_services, addresses), rules),
    ];
    findings.push(local_addresses(addresses, facts.network.service_addresses.as_ref()));
    findings
}

/// One whose network is not seen counts: on a host there is mostly one.
fn runs_here(proxy: &KubeProxy) -> bool {
    let is_here = |process: &Process| process.shares_network != Ok(false);
    proxy.processes.as_ref().is_ok_and(|processes| processes.iter().any(is_here))
}

fn process(processes: &Seen<Vec<Process>>) -> Finding {
    let check = "kube-proxy";
    let processes = match processes {
        Ok(processes) => processes,
        Err(why) => {
            return Finding::unseen(check, why, "whether rules below are kept by a running one is not known");
        }
    };
    let here: Vec<String> =
        processes.iter().filter(|process| process.shares_network != Ok(false)).map(named).collect();
    if here.is_empty() {
        let advice = "in this version UDP, NodePorts and clients from outside need one";
        return Finding::info(check, "none runs in this network namespace", advice);
    }
    let advice = "Shunt runs beside it, at other addresses (deploy/beside-kube-proxy)";
    Finding::info(check, format!("runs here: {}", here.join(", ")), advice)
}

fn named(process: &Process) -> String {
    match &process.shares_network {
        Ok(_) => format!("pid {}", process.id),
        Err(why) => format!("pid {} (its network namespace is not seen: {why})", process.id),
    }
}

fn tables(tables: &Seen<Vec<(String, String)>>, (state, advice): (State, &str)) -> Finding {
    let check = "kube-proxy in nftables";
    let tables = match tables {
        Ok(tables) => tables,
        Err(why) => return Finding::unseen(check, why, LOOK),
    };
    let own = |(family, name): &(String, String)| (name == TABLE).then(|| format!("table {family} {name}"));
    let own: Vec<String> = tables.iter().filter_map(own).collect();
    if own.is_empty() {
        return Finding::ok(check, "no table of that name");
    }
    Finding::new(check, state, (own.join(", "), advice))
}

fn chains(proxy: &KubeProxy, (state, advice): (State, &str)) -> Finding {
    let check = "kube-proxy in iptables";
    let chains = match &proxy.chains {
        Ok(chains) => chains,
        Err(why) => return Finding::unseen(check, why, LOOK),
    };
    let own = chains.iter().filter(|(_, name)| is_chain(name));
    let own: Vec<String> = own.map(|(table, name)| format!("{table} {name}")).collect();
    if !own.is_empty() {
        return Finding::new(check, state, (told(&own), advice));
    }
    match &proxy.legacy_tables {
        Ok(tables) if tables.iter().any(|table| table == LEGACY_NAT) => Finding::unseen(
            check,
            "the older iptables has a table nat, whose chains this check does not read",
            "`iptables-legacy-save | grep KUBE-` shows them",
        ),
        Ok(_) => Finding::ok(check, "no chain of kube-proxy's"),
        Err(why) => Finding::unseen(check, format!("tables of the older iptables: {why}"), LOOK),
    }
}

fn ipvs((services, addresses): (&Seen<usize>, &Addresses), (state, advice): (State, &str)) -> Finding {
    let check = "kube-proxy in IPVS";
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(why) => return Finding::unseen(check, why, LOOK),
    };
    let count = match services {
        Ok(count) => format!("{count} virtual services"),
        Err(why) => format!("virtual services not seen: {why}"),
    };
    let held = addresses.iter().filter(|(interface, _)| interface == IPVS_INTERFACE).count();
    if held > 0 {
        return Finding::new(
            check,
            state,
            (format!("{held} addresses on {IPVS_INTERFACE}; {count}"), advice),
        );
    }
    match services {
        Ok(0) => Finding::ok(check, format!("no address on {IPVS_INTERFACE}, no virtual service")),
        Ok(_) => {
            let advice = "they are not kube-proxy's, which would have its addresses there";
            Finding::info(check, format!("no address on {IPVS_INTERFACE}; {count}"), advice)
        }
        Err(_) => Finding::unseen(check, count, LOOK),
    }
}

/// Interfaces with their addresses.
type Addresses = Seen<Vec<(String, IpAddr)>>;

/// Addresses of this node that clients take for a Service's. Which ranges Services have, only pinned maps tell here.
fn local_addresses(addresses: &Addresses, of_services: Option<&Addresses>) -> Finding {
    let check = "cluster IPs on interfaces";
    let of_cache = addresses.as_ref().map(|addresses| {
        addresses.iter().filter(|(interface, _)| interface == DNS_CACHE_INTERFACE).cloned().collect()
    });
    let (of_cache, of_services): (Vec<_>, Vec<_>) = match (of_cache, of_services) {
        (Err(why), _) | (_, Some(Err(why))) => return Finding::unseen(check, why.as_str(), LOOK),
        (Ok(of_cache), None) => (of_cache, Vec::new()),
        (Ok(of_cache), Some(Ok(of_services))) => (of_cache, of_services.clone()),
    };
    let mut local: Vec<(String, IpAddr)> = [of_cache, of_services].concat();
    local.retain(|(interface, _)| interface != IPVS_INTERFACE);
    local.sort_unstable();
    local.dedup();
    if local.is_empty() {
        return Finding::ok(check, "none");
    }
    let local: Vec<String> = local.iter().map(|(interface, ip)| format!("{ip} on {interface}")).collect();
    let advice = "TCP connections to the ports that a Service has there go to its endpoints, not to who listens on the node";
    Finding::info(check, told(&local), advice)
}

/// The first few, and how many more there are.
fn told(names: &[String]) -> String {
    let first = names.iter().take(TOLD).map(|name| &**name).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(TOLD) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
