//! What packets from outside would meet.

use super::*;

fn devices(facts: &mut Facts) -> &mut Vec<Device> {
    facts.packets.devices.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn the_devices_that_would_be_hooked_are_told() {
    let check = "devices";
    judged(check, (State::Ok, &["eth0; to pods: cni0"]), |_| {});
    judged(check, (State::Ok, &["eth0; none leads to pods yet"]), |facts| devices(facts).truncate(1));
    judged(check, (State::Warning, &["none by which packets enter", "--devices"]), |facts| {
        devices(facts).remove(0);
    });
    judged(check, (State::Info, &["--devices is none", "left to others"]), |facts| {
        facts.packets.devices = None;
    });
    judged(check, (State::Unseen, &["permission denied"]), |facts| facts.packets.devices = Some(denied()));
    judged("names of devices", (State::Warning, &["--devices bond0, --pod-devices cali*"]), |facts| {
        let names = [("--devices", "bond0"), ("--pod-devices", "cali*")];
        facts.packets.unmatched = names.map(|(flag, name)| (flag, name.to_owned())).into();
    });
}

#[test]
fn programs_of_others_at_a_device_are_named() {
    let check = "programs at devices";
    let with = |programs: Vec<Attached>| move |facts: &mut Facts| devices(facts)[0].egress = Ok(programs);
    judged(check, (State::Ok, &["none of others"]), with(vec![attached(7, "shunt_leave", false)]));
    judged(
        check,
        (State::Warning, &["eth0 egress: cil_to_netdev (9)", "ends the chain"]),
        with(vec![attached(9, "cil_to_netdev", false), attached(7, "shunt_leave", false)]),
    );
    let nameless = Attached { name: denied(), ..attached(9, "", false) };
    judged(check, (State::Warning, &["eth0 egress: program 9 (name not seen"]), with(vec![nameless]));
    judged(check, (State::Unseen, &["cni0 ingress: permission denied"]), |facts| {
        devices(facts)[1].ingress = denied();
    });
}

#[test]
fn settings_of_devices_that_hold_packets_up_are_told() {
    judged("forwarding of devices", (State::Warning, &["off: cni0"]), |facts| {
        devices(facts)[1].forwarding = Some("0".to_owned());
    });
    let check = "reverse path filter";
    let strict = |facts: &mut Facts| devices(facts)[0].rp_filter = Some("1".to_owned());
    judged(check, (State::Info, &["strict: eth0", "rp_filter = 2"]), strict);
    // The stricter of two settings is not the one in force: loose is more than strict.
    judged(check, (State::Ok, &[]), |facts| {
        strict(facts);
        facts.packets.rp_filter = Some("2".to_owned());
    });
    judged(check, (State::Info, &["strict: eth0, cni0"]), |facts| {
        facts.packets.rp_filter = Some("1".to_owned());
    });
    judged(check, (State::Warning, &["strict: eth0", "another device"]), |facts| {
        strict(facts);
        let second = Device { name: "flannel.1".to_owned(), ..devices(facts)[0].clone() };
        devices(facts).push(Device { rp_filter: Some("0".to_owned()), ..second });
    });
    let check = "ICMP redirects";
    judged(check, (State::Ok, &["not sent"]), |facts| {
        devices(facts)[1].send_redirects = Some("1".to_owned());
    });
    judged(check, (State::Info, &["sent by eth0", "send_redirects = 0"]), |facts| {
        facts.packets.send_redirects = Some("1".to_owned());
    });
}

#[test]
fn chains_that_drop_forwarded_packets_are_told() {
    let check = "forwarded packets in nftables";
    let chain = |name: &str, drops, ways_out| ForwardChain { name: name.to_owned(), drops, ways_out };
    let with = |chains: Vec<ForwardChain>| move |facts: &mut Facts| facts.packets.forward = Ok(chains);
    judged(check, (State::Ok, &[]), with(vec![chain("ip filter FORWARD", false, 0)]));
    let open = || chain("ip filter FORWARD", true, 3);
    judged(check, (State::Info, &["unless a rule accepts", "ip filter FORWARD"]), with(vec![open()]));
    judged(
        check,
        (State::Warning, &["all dropped: ip6 filter FORWARD", "adds no rule"]),
        with(vec![open(), chain("ip6 filter FORWARD", true, 0)]),
    );
    judged(check, (State::Unseen, &["permission denied"]), |facts| facts.packets.forward = denied());
    let check = "rules that drop invalid packets";
    judged(check, (State::Info, &["ip filter KUBE-FORWARD", "both directions"]), |facts| {
        facts.packets.invalid_drops = Ok(vec!["ip filter KUBE-FORWARD".to_owned()]);
    });
    judged(check, (State::Unseen, &["permission denied"]), |facts| facts.packets.invalid_drops = denied());
}

#[test]
fn ports_of_outgoing_connections_are_neither_nodeports_nor_all_there_are() {
    let check = "port ranges";
    let with = |range: &str, reserved: &str| {
        let (range, reserved) = (Some(range.to_owned()), Some(reserved.to_owned()));
        move |facts: &mut Facts| {
            facts.packets.ephemeral_ports = range;
            facts.packets.reserved_ports = reserved;
        }
    };
    judged(check, (State::Ok, &["32768 to 60999"]), |_| {});
    judged(check, (State::Warning, &["NodePorts among them", "30000-32767"]), with("1024\t65535", ""));
    judged(check, (State::Warning, &["NodePorts"]), with("20000 40000", "30000-32766"));
    judged(check, (State::Ok, &[]), with("20000 40000", "8080,30000-32767"));
    judged(check, (State::Warning, &["leaves 64 in a row"]), with("1024 65471", "30000-32767"));
    // What is reserved is free of outgoing connections.
    judged(check, (State::Ok, &[]), with("1024 65535", "30000-32767,61000-65535"));
    judged(check, (State::Unseen, &[]), |facts| facts.packets.ephemeral_ports = None);
}
