//! kube-proxy, running and gone.

use super::*;
use crate::check::facts::{Process, Seen};

fn pair(first: &str, second: &str) -> (String, String) {
    (first.to_owned(), second.to_owned())
}

fn run(facts: &mut Facts, shares_network: Seen<bool>) {
    facts.kube_proxy.processes = Ok(vec![Process { id: 41, shares_network }]);
}

#[test]
fn a_running_kube_proxy_counts_in_its_own_network() {
    judged("kube-proxy", (State::Info, &["none runs", "UDP"]), |_| {});
    judged("kube-proxy", (State::Info, &["pid 41", "beside"]), |facts| run(facts, Ok(true)));
    judged("kube-proxy", (State::Info, &["none runs"]), |facts| run(facts, Ok(false)));
    judged("kube-proxy", (State::Info, &["pid 41", "permission denied"]), |facts| run(facts, denied()));
    judged("kube-proxy", (State::Unseen, &["permission denied"]), |facts| {
        facts.kube_proxy.processes = denied();
    });
}

/// What differs from the fit host.
type Change = fn(&mut Facts);
/// The check that finds something that kube-proxy leaves, what it says, and what is left.
type Leftover = (&'static str, &'static str, Change);

const LEFTOVERS: [Leftover; 4] = [
    ("kube-proxy in nftables", "table ip6 kube-proxy", |facts| {
        facts.kube_proxy.tables = Ok(vec![pair("ip6", "kube-proxy")]);
    }),
    ("kube-proxy in iptables", "ip nat KUBE-SERVICES", |facts| {
        facts.kube_proxy.chains = Ok(vec![pair("ip nat", "PREROUTING"), pair("ip nat", "KUBE-SERVICES")]);
    }),
    ("kube-proxy in iptables", "ip nat KUBE-SVC-ERIFXISQEP7F7OF4", |facts| {
        facts.kube_proxy.chains = Ok(vec![pair("ip nat", "KUBE-SVC-ERIFXISQEP7F7OF4")]);
    }),
    ("kube-proxy in IPVS", "2 addresses on kube-ipvs0; 3 virtual services", |facts| {
        facts.kube_proxy.virtual_services = Ok(3);
        facts.network.addresses = Ok(vec![at("kube-ipvs0", "10.96.0.1"), at("kube-ipvs0", "10.96.0.10")]);
    }),
];

#[test]
fn rules_are_leftovers_unless_a_kube_proxy_keeps_them() {
    for (check, words, leave) in LEFTOVERS {
        judged(check, (State::Warning, &[words, "kube-proxy --cleanup"]), leave);
        judged(check, (State::Info, &[words, "keeps them"]), |facts| {
            leave(facts);
            run(facts, Ok(true));
        });
        judged(check, (State::Info, &[words]), |facts| {
            leave(facts);
            run(facts, denied());
        });
        // Nobody keeps the rules of one node in the network of another.
        judged(check, (State::Warning, &[words]), |facts| {
            leave(facts);
            run(facts, Ok(false));
        });
        judged(check, (State::Warning, &[words]), |facts| {
            leave(facts);
            facts.kube_proxy.processes = denied();
        });
    }
}

#[test]
fn chains_of_the_kubelet_are_not_kube_proxys() {
    judged("kube-proxy in iptables", (State::Ok, &[]), |facts| {
        let names = [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-MASQ",
            "KUBE-POSTROUTING",
        ];
        facts.kube_proxy.chains = Ok(names.map(|name| pair("ip filter", name)).into());
    });
}

#[test]
fn many_chains_are_counted() {
    judged("kube-proxy in iptables", (State::Warning, &["KUBE-SEP-4 and 95 more"]), |facts| {
        let chains = (0..100).map(|number| pair("ip nat", &format!("KUBE-SEP-{number}")));
        facts.kube_proxy.chains = Ok(chains.collect());
    });
}

#[test]
fn what_could_not_be_looked_at_is_no_good_news() {
    let unseen: [(&str, Change); 7] = [
        ("kube-proxy in nftables", |facts| facts.kube_proxy.tables = denied()),
        ("kube-proxy in iptables", |facts| facts.kube_proxy.chains = denied()),
        ("kube-proxy in iptables", |facts| facts.kube_proxy.legacy_tables = denied()),
        ("kube-proxy in IPVS", |facts| facts.kube_proxy.virtual_services = denied()),
        ("kube-proxy in IPVS", |facts| facts.network.addresses = denied()),
        ("cluster IPs on interfaces", |facts| facts.network.addresses = denied()),
        ("cluster IPs on interfaces", |facts| facts.network.service_addresses = Some(denied())),
    ];
    for (check, change) in unseen {
        judged(check, (State::Unseen, &["permission denied"]), change);
    }
    let legacy = |tables: &[&str]| {
        let tables = tables.iter().map(|table| (*table).to_owned()).collect();
        move |facts: &mut Facts| facts.kube_proxy.legacy_tables = Ok(tables)
    };
    judged("kube-proxy in iptables", (State::Unseen, &["iptables-legacy-save"]), legacy(&["filter", "nat"]));
    judged("kube-proxy in iptables", (State::Ok, &[]), legacy(&["filter"]));
}

#[test]
fn virtual_services_of_others_are_told_apart() {
    judged("kube-proxy in IPVS", (State::Info, &["3 virtual services", "not kube-proxy's"]), |facts| {
        facts.kube_proxy.virtual_services = Ok(3);
    });
}

#[test]
fn cluster_ips_on_interfaces_are_told() {
    let check = "cluster IPs on interfaces";
    judged(check, (State::Ok, &["none"]), |_| {});
    judged(check, (State::Ok, &["none"]), |facts| facts.network.service_addresses = None);
    judged(check, (State::Info, &["10.96.0.10 on dummy0", "not to who listens"]), |facts| {
        facts.network.service_addresses = Some(Ok(vec![at("dummy0", "10.96.0.10")]));
    });
    // Its interface is known by name before any map is.
    judged(check, (State::Info, &["169.254.20.10 on nodelocaldns"]), |facts| {
        facts.network.addresses = Ok(vec![at("nodelocaldns", "169.254.20.10")]);
        facts.network.service_addresses = None;
    });
    // Those of IPVS are told where they are judged.
    judged(check, (State::Ok, &["none"]), |facts| {
        facts.network.service_addresses = Some(Ok(vec![at("kube-ipvs0", "10.96.0.10")]));
    });
}
