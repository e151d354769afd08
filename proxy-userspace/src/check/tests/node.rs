//! Pins, settings of the network, and addresses to listen at.

use super::*;

fn contents(facts: &mut Facts) -> &mut PinContents {
    facts.pins.contents.as_mut().unwrap()
}

#[test]
fn pins_that_do_not_last_are_a_warning() {
    judged("pin directory", (State::Ok, &["/sys/fs/bpf/shunt", "until a reboot"]), |_| {});
    judged("pin directory", (State::Warning, &["not on a bpffs", "not hitless", "--pin-dir"]), |facts| {
        facts.pins.is_on_bpffs = false;
    });
    judged("pin directory", (State::Warning, &["process 1 does not have", "not hitless"]), |facts| {
        facts.pins.is_of_process_1 = Ok(false);
    });
    judged("pin directory", (State::Unseen, &["permission denied"]), |facts| {
        facts.pins.is_of_process_1 = denied();
    });
}

#[test]
fn what_is_pinned_is_listed_with_what_the_next_start_does_to_it() {
    judged("pins", (State::Ok, &["v2, connect4"]), |_| {});
    judged("pins", (State::Ok, &["none"]), |facts| {
        *contents(facts) =
            PinContents { layouts: vec![], others: vec![], foreign_map: Ok(None), links: Ok(vec![]) };
    });
    judged("pins", (State::Info, &["v1, v2, connect4", "v1: the next start removes"]), |facts| {
        contents(facts).layouts = vec!["v1".to_owned(), "v2".to_owned()];
        contents(facts).others = vec!["v1".to_owned()];
    });
    judged("pins", (State::Info, &["wants another", "aside"]), |facts| {
        contents(facts).foreign_map = Ok(Some("this version wants another".to_owned()));
    });
    judged("pins", (State::Info, &["connect4 is at cgroup 5", "moves"]), |facts| {
        contents(facts).links = Ok(vec![PinnedLink { hook: "connect4", cgroup_id: 5 }]);
    });
    for change in [
        (|facts| facts.pins.contents = denied()) as fn(&mut Facts),
        |facts| contents(facts).links = denied(),
        |facts| contents(facts).foreign_map = denied(),
    ] {
        judged("pins", (State::Unseen, &["permission denied"]), change);
    }
}

#[test]
fn forwarding_that_is_off_is_a_warning_where_something_is_to_be_forwarded() {
    judged("net.ipv4.ip_forward", (State::Warning, &["changes no sysctl"]), |facts| {
        facts.network.ipv4_forwarding = Some("0".to_owned());
    });
    judged("net.ipv4.ip_forward", (State::Unseen, &[]), |facts| facts.network.ipv4_forwarding = None);
    let check = "net.ipv6.conf.all.forwarding";
    judged(check, (State::Warning, &["changes no sysctl"]), |facts| {
        facts.network.ipv6_forwarding = Some("0".to_owned());
    });
    judged(check, (State::Info, &["nothing is to be forwarded"]), |facts| {
        facts.network.ipv6_forwarding = Some("0".to_owned());
        facts.network.addresses = Ok(vec![at("lo", "::1"), at("eth0", "fe80::1"), at("eth0", "192.0.2.7")]);
    });
}

#[test]
fn a_host_without_ipv6_is_told_and_its_forwarding_is_not_asked_for() {
    judged("IPv6", (State::Info, &["disable_ipv6"]), |facts| {
        facts.network.ipv6_disabled = Some("1".to_owned());
    });
    judged("IPv6", (State::Info, &["this kernel has none"]), |facts| facts.network.ipv6_disabled = None);
    let mut facts = fit();
    (facts.network.ipv6_disabled, facts.network.ipv6_forwarding) = (None, Some("0".to_owned()));
    assert!(judge(&facts).iter().all(|finding| finding.check != "net.ipv6.conf.all.forwarding"));
}

#[test]
fn unprivileged_programs_are_nothing_to_act_on() {
    let check = "kernel.unprivileged_bpf_disabled";
    judged(check, (State::Ok, &["2"]), |_| {});
    judged(check, (State::Info, &["every user"]), |facts| {
        facts.network.unprivileged_bpf_disabled = Some("0".to_owned());
    });
}

#[test]
fn addresses_are_free_ours_or_taken() {
    let flag = "--metrics-address";
    let held_by = |holder: Holder| move |facts: &mut Facts| facts.listeners = vec![listener(flag, holder)];
    judged(flag, (State::Ok, &["127.0.0.1:10249 is free"]), held_by(Holder::Nobody));
    judged(flag, (State::Ok, &["the running agent's"]), held_by(Holder::Agent));
    judged(flag, (State::Warning, &["another program", "--metrics-address"]), held_by(Holder::Another(None)));
    let kube_proxy = Holder::Another(Some("nftables".to_owned()));
    judged(flag, (State::Warning, &["a kube-proxy (mode nftables)"]), held_by(kube_proxy));
    let refused = Holder::Refused("cannot assign requested address".to_owned());
    judged(flag, (State::Warning, &["cannot assign"]), held_by(refused));
}
