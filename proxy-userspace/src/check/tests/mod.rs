//! Each finding on hosts that nobody has: a host where all is well, with one thing changed.

mod host;
mod leftovers;
mod node;
mod packets;

use super::facts::{
    Attached, Cgroup, Device, Facts, ForwardChain, Holder, Hook, KubeProxy, Listener, Network, Packets,
    PinContents, PinnedLink, Pins, Place, Program,
};
use super::{Finding, State, judge, worst};
use crate::datapath::features::{Feature, Kind};
use crate::datapath::probe;

/// Every capability that a kernel may have.
const ALL_RIGHTS: u64 = u64::MAX;

/// A host with a running agent, on which nothing needs to be done.
fn fit() -> Facts {
    let network = Network {
        ipv4_forwarding: Some("1".to_owned()),
        ipv6_forwarding: Some("1".to_owned()),
        ipv6_disabled: Some("0".to_owned()),
        unprivileged_bpf_disabled: Some("2".to_owned()),
        addresses: Ok(vec![at("lo", "127.0.0.1"), at("eth0", "192.0.2.7"), at("eth0", "2001:db8::7")]),
        service_addresses: Some(Ok(Vec::new())),
    };
    let kube_proxy = KubeProxy {
        processes: Ok(Vec::new()),
        tables: Ok(vec![("inet".to_owned(), "firewall".to_owned())]),
        chains: Ok(vec![("inet firewall".to_owned(), "input".to_owned())]),
        legacy_tables: Ok(Vec::new()),
        virtual_services: Ok(0),
    };
    Facts {
        host: probe::Facts {
            kernel: Some((6, 1)),
            has_btf: true,
            has_cgroup2: true,
            capabilities: ALL_RIGHTS,
            has_pins: true,
        },
        release: "6.1.0-13-amd64".to_owned(),
        features: Some(vec![feature(Kind::MapType, "hash"), feature(Kind::Helper, "set_retval")]),
        programs: Some(Ok(vec![Program { verified_instructions: 70, is_compiled: true }; 4])),
        cgroup: Ok(Cgroup { id: 1, is_root: true, given: None }),
        hooks: vec![hook("connect4", Ok(vec![attached(12, "shunt_connect4", true)]))],
        pins: pins(),
        place: Place { is_initial_pid_namespace: Ok(true), shares_network_of_process_1: Ok(true) },
        network,
        packets: packets(),
        listeners: vec![
            listener("--healthz-address", Holder::Agent),
            listener("--metrics-address", Holder::Agent),
        ],
        kube_proxy,
    }
}

fn packets() -> Packets {
    let device = |name: &str, leads_to_pods| Device {
        name: name.to_owned(),
        leads_to_pods,
        forwarding: Some("1".to_owned()),
        rp_filter: Some("0".to_owned()),
        send_redirects: Some("0".to_owned()),
        ingress: Ok(vec![attached(6, "shunt_arrive", false)]),
        egress: Ok(vec![attached(7, "shunt_leave", false)]),
    };
    Packets {
        devices: Some(Ok(vec![device("eth0", false), device("cni0", true)])),
        unmatched: Vec::new(),
        rp_filter: Some("0".to_owned()),
        send_redirects: Some("0".to_owned()),
        ephemeral_ports: Some("32768\t60999".to_owned()),
        reserved_ports: Some(String::new()),
        forward: Ok(vec![ForwardChain { name: "ip filter FORWARD".to_owned(), drops: false, ways_out: 0 }]),
        invalid_drops: Ok(Vec::new()),
    }
}

fn pins() -> Pins {
    let contents = PinContents {
        layouts: vec!["v2".to_owned()],
        others: vec![],
        foreign_map: Ok(None),
        links: Ok(vec![PinnedLink { hook: "connect4", cgroup_id: 1 }]),
    };
    Pins {
        dir: "/sys/fs/bpf/shunt".into(),
        is_on_bpffs: true,
        is_of_process_1: Ok(true),
        contents: Ok(contents),
    }
}

fn at(interface: &str, ip: &str) -> (String, std::net::IpAddr) {
    (interface.to_owned(), ip.parse().unwrap())
}

fn feature(kind: Kind, name: &str) -> Feature {
    Feature { kind, name: name.to_owned(), is_there: Ok(true) }
}

fn attached(id: u32, name: &str, is_pinned_here: bool) -> Attached {
    Attached { id, name: Ok(name.to_owned()), is_pinned_here }
}

fn hook(name: &'static str, programs: super::facts::Seen<Vec<Attached>>) -> Hook {
    Hook { name, programs }
}

fn listener(flag: &'static str, holder: Holder) -> Listener {
    Listener { flag, address: "127.0.0.1:10249".parse().unwrap(), holder }
}

fn denied<T>() -> super::facts::Seen<T> {
    Err("permission denied".to_owned())
}

/// The finding about `check` on the fit host after `change`.
#[track_caller]
fn finding(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = fit();
    change(&mut facts);
    let findings = judge(&facts);
    let mut found = findings.iter().filter(|finding| finding.check == check);
    let finding = found.next().unwrap_or_else(|| panic!("nothing about {check} in {findings:?}"));
    assert_eq!(found.next(), None, "{check} is judged once");
    finding.clone()
}

/// That the finding about `check` has this state, and says these words in what was found or in the advice.
#[track_caller]
fn judged(check: &str, (state, words): (State, &[&str]), change: impl FnOnce(&mut Facts)) {
    let finding = finding(check, change);
    assert_eq!(finding.state, state, "{finding:?}");
    let text = format!("{} / {}", finding.found, finding.advice.as_deref().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn a_fit_host_has_nothing_to_be_done() {
    let findings = judge(&fit());
    let other = findings.iter().filter(|finding| finding.state != State::Ok);
    // What this version does not do, and that no kube-proxy does it either.
    let names: Vec<(&str, State)> = other.map(|finding| (&*finding.check, finding.state)).collect();
    assert_eq!(names, [("device hooks", State::Info), ("kube-proxy", State::Info)]);
    assert_eq!(worst(&findings), State::Info);
    assert_eq!(worst(&[]), State::Ok);
}

#[test]
fn whatever_is_not_as_it_should_be_comes_with_advice() {
    let mut nothing_seen = fit();
    nothing_seen.host =
        probe::Facts { kernel: None, has_btf: false, has_cgroup2: false, capabilities: 0, has_pins: false };
    (nothing_seen.features, nothing_seen.programs, nothing_seen.cgroup) = (None, None, denied());
    nothing_seen.hooks = vec![hook("connect4", denied())];
    nothing_seen.pins.contents = denied();
    nothing_seen.pins.is_of_process_1 = denied();
    nothing_seen.place = Place { is_initial_pid_namespace: denied(), shares_network_of_process_1: denied() };
    nothing_seen.network.addresses = denied();
    nothing_seen.packets = Packets {
        devices: Some(denied()),
        unmatched: Vec::new(),
        rp_filter: None,
        send_redirects: None,
        ephemeral_ports: None,
        reserved_ports: None,
        forward: denied(),
        invalid_drops: denied(),
    };
    nothing_seen.kube_proxy = KubeProxy {
        processes: denied(),
        tables: denied(),
        chains: denied(),
        legacy_tables: denied(),
        virtual_services: denied(),
    };
    for facts in [fit(), nothing_seen] {
        let findings = judge(&facts);
        assert!(findings.len() > 20, "{findings:?}");
        for finding in findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert_eq!(finding.advice.is_none(), finding.state == State::Ok, "{finding:?}");
        }
    }
}
