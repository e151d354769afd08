//! The devices that an agent would hook, what runs there and what they are set to, and what netfilter does to forwarded
//! packets.

use super::kube_proxy::{family, has_nftables};
use super::network::sysctl;
use super::{Wanted, datapath};
use crate::check::facts::{Attached, Device, ForwardChain, Packets, Seen};
use crate::devices::{self, Hooked, Selection};
use crate::sys::link;
use crate::sys::nftables::{self, Chain, Rule, Table, Verdict};

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`: families in which this number means that hook.
const INTERNET: [u8; 3] = [1, 2, 10];

pub(super) async fn look(wanted: &Wanted) -> Packets {
    let (devices, unmatched) = devices(wanted).await;
    let (forward, invalid_drops) = netfilter();
    Packets {
        devices,
        unmatched,
        rp_filter: sysctl("net/ipv4/conf/all/rp_filter"),
        send_redirects: sysctl("net/ipv4/conf/all/send_redirects"),
        ephemeral_ports: sysctl("net/ipv4/ip_local_port_range"),
        reserved_ports: sysctl("net/ipv4/ip_local_reserved_ports"),
        forward,
        invalid_drops,
    }
}

type Chosen = (Option<Seen<Vec<Device>>>, Vec<(&'static str, String)>);

async fn devices(wanted: &Wanted) -> Chosen {
    if wanted.devices.devices == Selection::None {
        return (None, Vec::new());
    }
    match devices::look().await {
        Ok(facts) => {
            let chosen = devices::choose(&facts, &wanted.devices);
            (Some(Ok(chosen.hooked.iter().map(device_facts).collect())), chosen.unmatched)
        }
        Err(error) => (Some(Err(datapath::sentence(&error))), Vec::new()),
    }
}

fn device_facts(hooked: &Hooked) -> Device {
    let setting = |key: &str| sysctl(&format!("net/ipv4/conf/{}/{key}", hooked.name));
    let attached = |id: u32| Attached {
        id,
        name: datapath::program_name(id).map_err(|error| error.to_string()),
        is_pinned_here: false,
    };
    let programs = |side| {
        let ids = link::programs_at(hooked.index, side).map_err(|error| error.to_string())?;
        Ok(ids.into_iter().map(attached).collect())
    };
    Device {
        name: hooked.name.clone(),
        leads_to_pods: hooked.leads_to_pods,
        forwarding: setting("forwarding"),
        rp_filter: setting("rp_filter"),
        send_redirects: setting("send_redirects"),
        ingress: programs(link::Side::Ingress),
        egress: programs(link::Side::Egress),
    }
}

/// Chains at the hook of forwarded packets, and the chains in which a rule drops what is invalid.
fn netfilter() -> (Seen<Vec<ForwardChain>>, Seen<Vec<String>>) {
    let seen = has_nftables().and_then(|is_there| {
        if !is_there {
            return Ok((Vec::new(), Vec::new()));
        }
        let refused = |error: std::io::Error| format!("nftables: {error} (listing takes CAP_NET_ADMIN)");
        Ok((nftables::chains().map_err(refused)?, nftables::rules().map_err(refused)?))
    });
    match seen {
        Ok((chains, rules)) => (Ok(forward_chains(&chains, &rules)), Ok(invalid_drops(&chains, &rules))),
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

fn forward_chains(chains: &[Chain], rules: &[Rule]) -> Vec<ForwardChain> {
    let is_forward = |chain: &&Chain| {
        INTERNET.contains(&chain.table.family) && chain.base.is_some_and(|base| base.hook == FORWARD)
    };
    let chain = |chain: &Chain| {
        let of_chain = rules.iter().filter(|rule| rule.table == chain.table && rule.chain == chain.name);
        let ways_out =
            of_chain.filter(|rule| matches!(rule.verdict, Some(Verdict::Accept | Verdict::Elsewhere)));
        ForwardChain {
            name: name(&chain.table, &chain.name),
            drops: chain.base.is_some_and(|base| base.drops),
            ways_out: ways_out.count(),
        }
    };
    chains.iter().filter(is_forward).map(chain).collect()
}

/// What is hooked where packets of the host itself come or go is no matter of what is forwarded.
fn invalid_drops(chains: &[Chain], rules: &[Rule]) -> Vec<String> {
    let is_elsewhere = |rule: &Rule| {
        let chain = chains.iter().find(|chain| chain.table == rule.table && chain.name == rule.chain);
        // NF_INET_LOCAL_IN and NF_INET_LOCAL_OUT.
        chain.and_then(|chain| chain.base).is_some_and(|base| [1, 3].contains(&base.hook))
    };
    let mut found: Vec<String> = rules
        .iter()
        .filter(|rule| rule.is_for_invalid && rule.verdict == Some(Verdict::Drop) && !is_elsewhere(rule))
        .map(|rule| name(&rule.table, &rule.chain))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn name(table: &Table, chain: &str) -> String {
    format!("{} {} {chain}", family(table.family), table.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::nftables::Base;

    fn table(family: u8) -> Table {
        Table { family, name: "filter".to_owned() }
    }

    fn chain(family: u8, name: &str, base: Option<(u32, bool)>) -> Chain {
        let base = base.map(|(hook, drops)| Base { hook, drops });
        Chain { table: table(family), name: name.to_owned(), base }
    }

    fn rule(family: u8, chain: &str, verdict: Option<Verdict>) -> Rule {
        Rule { table: table(family), chain: chain.to_owned(), verdict, is_for_invalid: false }
    }

    #[test]
    fn chains_of_forwarded_packets_are_told_with_their_ways_out() {
        let chains = [
            chain(2, "FORWARD", Some((FORWARD, true))),
            chain(10, "FORWARD", Some((FORWARD, true))),
            chain(2, "INPUT", Some((1, true))),
            // Of bridges, where the number means another hook's order.
            chain(7, "FORWARD", Some((FORWARD, true))),
            chain(2, "DOCKER", None),
        ];
        let rules = [
            rule(2, "FORWARD", Some(Verdict::Elsewhere)),
            rule(2, "FORWARD", Some(Verdict::Accept)),
            rule(2, "FORWARD", Some(Verdict::Drop)),
            rule(2, "FORWARD", None),
            rule(10, "INPUT", Some(Verdict::Accept)),
        ];
        let found: Vec<(String, usize)> =
            forward_chains(&chains, &rules).into_iter().map(|chain| (chain.name, chain.ways_out)).collect();
        assert_eq!(found, [("ip filter FORWARD".to_owned(), 2), ("ip6 filter FORWARD".to_owned(), 0)]);
    }

    #[test]
    fn drops_of_invalid_packets_count_where_packets_are_forwarded() {
        let chains = [chain(2, "INPUT", Some((1, false))), chain(2, "FORWARD", Some((FORWARD, false)))];
        let for_invalid =
            |chain: &str, verdict| Rule { is_for_invalid: true, ..rule(2, chain, Some(verdict)) };
        let rules = [
            for_invalid("INPUT", Verdict::Drop),
            for_invalid("FORWARD", Verdict::Accept),
            for_invalid("KUBE-FORWARD", Verdict::Drop),
            for_invalid("KUBE-FORWARD", Verdict::Drop),
            rule(2, "FORWARD", Some(Verdict::Drop)),
        ];
        assert_eq!(invalid_drops(&chains, &rules), ["ip filter KUBE-FORWARD"]);
    }
}
