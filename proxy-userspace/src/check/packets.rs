//! What packets from outside meet on their way to a pod: the devices, and what of the host could hold them up there.

use super::Finding;
use super::facts::{Attached, Device, Facts, ForwardChain, Packets, Seen};

/// How the programs of every version are called.
const OWN_PREFIX: &str = "shunt_";
/// What the API server takes NodePorts from unless it is told otherwise.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);
/// Ports in a row that are few for sources of connections to remote backends.
const FEW_PORTS: u32 = 1_024;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let packets = &facts.packets;
    let Some(devices) = &packets.devices else {
        let advice = "clients from outside, and whatever the socket hooks do not see, are left to others";
        return vec![Finding::info("devices", "none: --devices is none", advice)];
    };
    let mut findings = vec![chosen(devices)];
    if !packets.unmatched.is_empty() {
        let names: Vec<String> =
            packets.unmatched.iter().map(|(flag, name)| format!("{flag} {name}")).collect();
        let advice = "is it a typing error? A device of that name that comes later is taken";
        findings.push(Finding::warning(
            "names of devices",
            format!("no device: {}", names.join(", ")),
            advice,
        ));
    }
    let devices = devices.as_deref().unwrap_or_default();
    if !devices.is_empty() {
        findings.extend([
            programs(devices),
            forwarding(devices),
            reverse_path(packets, devices),
            redirects(packets, devices),
        ]);
    }
    findings.extend([forward_chains(&packets.forward), invalid(&packets.invalid_drops), ports(packets)]);
    findings
}

fn names<'a>(devices: impl Iterator<Item = &'a Device>) -> String {
    devices.map(|device| &*device.name).collect::<Vec<_>>().join(", ")
}

fn chosen(devices: &Seen<Vec<Device>>) -> Finding {
    let check = "devices";
    let devices = match devices {
        Ok(devices) => devices,
        Err(why) => {
            return Finding::unseen(check, why, "an agent could not list them either, and tries again");
        }
    };
    let of =
        |leads_to_pods| names(devices.iter().filter(move |device| device.leads_to_pods == leads_to_pods));
    match (of(false), of(true)) {
        (outside, _) if outside.is_empty() => Finding::warning(
            check,
            "none by which packets enter from outside",
            "none has a default route or an address of the node: name some with --devices, or say --devices none",
        ),
        (outside, pods) if pods.is_empty() => {
            Finding::ok(check, format!("{outside}; none leads to pods yet"))
        }
        (outside, pods) => Finding::ok(check, format!("{outside}; to pods: {pods}")),
    }
}

fn programs(devices: &[Device]) -> Finding {
    let check = "programs at devices";
    let sides = || {
        devices
            .iter()
            .flat_map(|device| [(device, "ingress", &device.ingress), (device, "egress", &device.egress)])
    };
    if let Some((device, side, Err(why))) = sides().find(|(.., programs)| programs.is_err()) {
        return Finding::unseen(
            check,
            format!("{} {side}: {why}", device.name),
            "asking the kernel takes CAP_NET_ADMIN and tcx",
        );
    }
    let is_own = |program: &Attached| program.name.as_ref().is_ok_and(|name| name.starts_with(OWN_PREFIX));
    let stranger = |program: &Attached| match &program.name {
        Ok(name) if name.is_empty() => format!("program {}", program.id),
        Ok(name) => format!("{name} ({})", program.id),
        Err(why) => format!("program {} (name not seen: {why})", program.id),
    };
    let strangers: Vec<String> = sides()
        .filter_map(|(device, side, programs)| Some((device, side, programs.as_ref().ok()?)))
        .flat_map(|(device, side, programs)| {
            let others = programs.iter().filter(|program| !is_own(program));
            others.map(move |program| format!("{} {side}: {}", device.name, stranger(program)))
        })
        .collect();
    if strangers.is_empty() {
        return Finding::ok(check, "none of others");
    }
    Finding::warning(
        check,
        strangers.join("; "),
        "Shunt's see packets first where they enter and last where they leave, and pass them on. One that ends the chain or \
         redirects packets hides replies from them; one that translates Services too must be turned off",
    )
}

fn forwarding(devices: &[Device]) -> Finding {
    let check = "forwarding of devices";
    let off = names(devices.iter().filter(|device| device.forwarding.as_deref() == Some("0")));
    if off.is_empty() {
        return Finding::ok(check, "on");
    }
    let advice = "packets that enter there reach no pod: net.ipv4.conf.<device>.forwarding = 1, which Shunt does not set";
    Finding::warning(check, format!("off: {off}"), advice)
}

/// The kernel takes the stricter of the setting for all and that of the device (2 is loose, and more than 1).
fn reverse_path(packets: &Packets, devices: &[Device]) -> Finding {
    let check = "reverse path filter";
    let value = |setting: &Option<String>| setting.as_deref().and_then(|text| text.parse::<u8>().ok());
    let is_strict = |device: &&Device| value(&packets.rp_filter).max(value(&device.rp_filter)) == Some(1);
    let strict = names(devices.iter().filter(is_strict));
    if strict.is_empty() {
        return Finding::ok(check, "not strict");
    }
    let advice = "packets are dropped whose way back leads through another device, as of a pod of another node that dials \
                  this node's NodePorts past an overlay: net.ipv4.conf.<device>.rp_filter = 2 lets them in";
    let found = format!("strict: {strict}");
    let ways = devices.iter().filter(|device| !device.leads_to_pods).count();
    if ways > 1 { Finding::warning(check, found, advice) } else { Finding::info(check, found, advice) }
}

/// Redirects are sent if the setting for all says so, or that of the device.
fn redirects(packets: &Packets, devices: &[Device]) -> Finding {
    let check = "ICMP redirects";
    let is_on = |setting: &Option<String>| setting.as_deref() == Some("1");
    let sends = |device: &&Device| {
        !device.leads_to_pods && (is_on(&packets.send_redirects) || is_on(&device.send_redirects))
    };
    let sending = names(devices.iter().filter(sends));
    if sending.is_empty() {
        return Finding::ok(check, "not sent");
    }
    let advice = "where client and backend are behind the same device, the node tells the client of a shorter way, which \
                  connections through a NodePort must not take; clients mostly pay no heed. \
                  net.ipv4.conf.{all,<device>}.send_redirects = 0 keeps it quiet";
    Finding::info(check, format!("sent by {sending}"), advice)
}

fn forward_chains(chains: &Seen<Vec<ForwardChain>>) -> Finding {
    let check = "forwarded packets in nftables";
    let chains = match chains {
        Ok(chains) => chains,
        Err(why) => return Finding::unseen(check, why, "whether forwarded packets are dropped is not known"),
    };
    let dropping = |has_way: bool| {
        let chains = chains.iter().filter(|chain| chain.drops && (chain.ways_out > 0) == has_way);
        chains.map(|chain| &*chain.name).collect::<Vec<_>>().join(", ")
    };
    match (dropping(false), dropping(true)) {
        (closed, open) if closed.is_empty() && open.is_empty() => {
            Finding::ok(check, "no chain drops what it does not know")
        }
        (closed, open) if closed.is_empty() => Finding::info(
            check,
            format!("dropped unless a rule accepts them: {open}"),
            "its rules must accept packets from anywhere to pods, and back, as those of Calico and flannel do. kube-proxy in \
             iptables mode added such a rule for what it translates; Shunt adds none",
        ),
        (closed, _) => Finding::warning(
            check,
            format!("all dropped: {closed}"),
            "the policy is drop and no rule accepts anything: nothing reaches a pod through this node. Accept packets to and \
             from pods there; Shunt adds no rule",
        ),
    }
}

fn invalid(chains: &Seen<Vec<String>>) -> Finding {
    let check = "rules that drop invalid packets";
    let advice = "connection tracking must see both directions of a flow, or neither, and does: Shunt translates before and \
                  behind it. If connections between pods of one bridge hang, look at the counters of these rules";
    match chains {
        Ok(chains) if chains.is_empty() => Finding::ok(check, "none"),
        Ok(chains) => Finding::info(check, chains.join(", "), advice),
        Err(why) => Finding::unseen(check, why, "they are no fault, but where to look if connections hang"),
    }
}

fn ports(packets: &Packets) -> Finding {
    let check = "port ranges";
    let Some((first, last)) = packets.ephemeral_ports.as_deref().and_then(range) else {
        return Finding::unseen(
            check,
            "net.ipv4.ip_local_port_range cannot be read",
            "is /proc/sys mounted?",
        );
    };
    let reserved: Vec<(u16, u16)> =
        packets.reserved_ports.as_deref().unwrap_or_default().split(',').filter_map(range).collect();
    let is_reserved = |port: u16| reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let is_taken = |port: u16| (first..=last).contains(&port) && !is_reserved(port);
    let found = format!("outgoing connections have {first} to {last}");
    if (NODE_PORTS.0..=NODE_PORTS.1).any(is_taken) {
        let advice = "a connection of this host may have a NodePort as its source port, and what comes back for it is taken \
                      for a client's: net.ipv4.ip_local_reserved_ports = 30000-32767 keeps them apart";
        return Finding::warning(check, format!("{found}, NodePorts among them"), advice);
    }
    let is_free = |port: u16| !is_taken(port) && !(NODE_PORTS.0..=NODE_PORTS.1).contains(&port);
    let (mut run, mut longest) = (0_u32, 0);
    for port in 1_024..=u16::MAX {
        run = if is_free(port) { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    if longest < FEW_PORTS {
        let advice = "clients from outside need source ports towards backends of other nodes that no connection of this host \
                      has: make net.ipv4.ip_local_port_range smaller";
        return Finding::warning(check, format!("{found}, which leaves {longest} in a row"), advice);
    }
    Finding::ok(check, found)
}

/// `first last`, `first-last`, or one port alone.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut words =
        text.split(|each: char| each == '-' || each.is_whitespace()).filter(|word| !word.is_empty());
    let first = words.next()?.parse().ok()?;
    let last = words.next().map_or(Some(first), |word| word.parse().ok())?;
    Some((first, last))
}
