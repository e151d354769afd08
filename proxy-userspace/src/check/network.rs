//! Settings of the network that matter to connections, and the addresses where an agent would listen.

use std::net::IpAddr;

use super::Finding;
use super::facts::{Facts, Holder, Listener, Network};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let mut findings = vec![ipv4_forwarding(network), ipv6(network)];
    findings.extend(ipv6_forwarding(network));
    findings.push(unprivileged(network));
    findings.extend(facts.listeners.iter().map(listener));
    findings
}

/// Shunt sends a connection to a pod's address; from there on it is routing.
const FORWARDING: &str = "packets between pods and other hosts are not forwarded. Shunt changes no sysctl: the CNI or the \
                          node's set-up turns this on";

fn ipv4_forwarding(network: &Network) -> Finding {
    let check = "net.ipv4.ip_forward";
    match network.ipv4_forwarding.as_deref() {
        Some("0") => Finding::warning(check, "0", FORWARDING),
        Some(value) => Finding::ok(check, value),
        None => Finding::unseen(check, "no such setting here", "is /proc/sys mounted?"),
    }
}

fn has_ipv6(network: &Network) -> bool {
    network.ipv6_disabled.as_deref() == Some("0")
}

fn ipv6(network: &Network) -> Finding {
    let found = match network.ipv6_disabled.as_deref() {
        Some("0") => return Finding::ok("IPv6", "on"),
        Some(_) => "off (net.ipv6.conf.all.disable_ipv6)",
        None => "this kernel has none",
    };
    Finding::info("IPv6", found, "IPv6 cluster IPs are in the maps and cannot be dialled from here")
}

fn ipv6_forwarding(network: &Network) -> Option<Finding> {
    let check = "net.ipv6.conf.all.forwarding";
    let value = network.ipv6_forwarding.as_deref().filter(|_| has_ipv6(network))?;
    if value != "0" {
        return Some(Finding::ok(check, value));
    }
    let is_used =
        network.addresses.as_ref().is_ok_and(|addresses| addresses.iter().any(|(_, ip)| is_routed(*ip)));
    Some(if is_used {
        Finding::warning(check, value, FORWARDING)
    } else {
        Finding::info(
            check,
            value,
            "no interface has an IPv6 address that others reach, so nothing is to be forwarded",
        )
    })
}

/// Whether hosts beyond the link reach an IPv6 address.
fn is_routed(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local())
}

fn unprivileged(network: &Network) -> Finding {
    let check = "kernel.unprivileged_bpf_disabled";
    match network.unprivileged_bpf_disabled.as_deref() {
        Some("0") => {
            Finding::info(check, "0", "every user may load some kinds of programs; Shunt does not need that")
        }
        Some(value) => Finding::ok(check, value),
        None => Finding::ok(check, "no such setting here"),
    }
}

fn listener(listener: &Listener) -> Finding {
    let Listener { flag, address, holder } = listener;
    let retry =
        format!("the agent tries it again every 5 s and runs without; name another address with {flag}");
    match holder {
        Holder::Nobody => Finding::ok(*flag, format!("{address} is free")),
        Holder::Agent => Finding::ok(*flag, format!("{address} is the running agent's")),
        Holder::Another(None) => {
            Finding::warning(*flag, format!("{address} is taken by another program"), retry)
        }
        Holder::Another(Some(mode)) => {
            Finding::warning(*flag, format!("{address} is taken by a kube-proxy (mode {mode})"), retry)
        }
        Holder::Refused(why) => Finding::warning(*flag, format!("{address}: {why}"), retry),
    }
}
