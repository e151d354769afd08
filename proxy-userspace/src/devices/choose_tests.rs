//! Hosts as tables: their links, addresses and default routes, and what is wanted of them.

use std::net::IpAddr;

use super::*;

/// Links as `index name kind[@elsewhere] [master M]`, addresses as `name address/length [words]`, default routes as
/// `[v6] via name [src address]`.
struct Host {
    links: &'static str,
    addresses: &'static str,
    routes: &'static str,
}

impl Host {
    fn facts(&self) -> Facts {
        let links: Vec<Link> = lines(self.links).map(|words| link(&words)).collect();
        let index = |name: &str| links.iter().find(|link| link.name == name).unwrap().index;
        let addresses = lines(self.addresses).map(|words| {
            let (ip, prefix_len) = words[1].split_once('/').unwrap();
            Address {
                index: index(words[0]),
                ip: ip.parse().unwrap(),
                prefix_len: prefix_len.parse().unwrap(),
                is_global: !words.contains(&"link") && !words.contains(&"host"),
                is_secondary: words.contains(&"secondary"),
                is_unfit: words.contains(&"tentative") || words.contains(&"deprecated"),
            }
        });
        let addresses = addresses.collect();
        let route = |words: Vec<&str>| {
            let after = |word| words.iter().skip_while(|other| **other != word).nth(1).copied();
            DefaultRoute {
                index: index(after("via").unwrap()),
                is_v4: words[0] != "v6",
                preferred_source: after("src").map(|ip| ip.parse::<IpAddr>().unwrap()),
            }
        };
        let default_routes = lines(self.routes).map(route).collect();
        Facts { links, addresses, default_routes }
    }

    /// What is wanted, a line each: name, `pods` if it leads there, and the sources.
    fn hooked(&self, devices: &str, pod_devices: &str) -> Vec<String> {
        self.chosen(&Choice {
            devices: devices.parse().unwrap(),
            pod_devices: pod_devices.parse().unwrap(),
            more_pods: None,
        })
    }

    fn chosen(&self, choice: &Choice) -> Vec<String> {
        let line = |hooked: &Hooked| {
            let pods = hooked.leads_to_pods.then(|| "pods".to_owned());
            let sources = [hooked.v4.map(|ip| ip.to_string()), hooked.v6.map(|ip| ip.to_string())];
            let words = [Some(hooked.name.clone()), pods].into_iter().chain(sources).flatten();
            words.collect::<Vec<_>>().join(" ")
        };
        choose(&self.facts(), choice).hooked.iter().map(line).collect()
    }

    #[track_caller]
    fn auto(&self, wanted: &[&str]) {
        assert_eq!(self.hooked("auto", "auto"), wanted);
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let words = |line: &'static str| line.split_whitespace().collect::<Vec<_>>();
    text.split(';').map(words).filter(|words| !words.is_empty())
}

fn link(words: &[&str]) -> Link {
    let kind = words[2].trim_end_matches("@elsewhere");
    Link {
        index: words[0].parse().unwrap(),
        name: words[1].to_owned(),
        kind: match kind {
            "loopback" => Kind::Loopback,
            "veth" => Kind::Veth,
            "netkit" => Kind::Netkit,
            "bridge" => Kind::Bridge,
            "vrf" => Kind::Vrf,
            "dummy" => Kind::Dummy,
            _ => Kind::Other,
        },
        master: (words.get(3) == Some(&"master")).then(|| words[4].parse().unwrap()),
        is_peer_elsewhere: words[2].ends_with("@elsewhere"),
        is_bare: kind == "wireguard",
    }
}

#[test]
fn a_plain_node_has_its_card() {
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 eth1 card",
        addresses: "lo 127.0.0.1/8 host; eth0 192.0.2.7/24",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7"]);
    // Another card by its address, or by a default route of another table alone.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 eth1 card; 4 eth2 card; 5 eth3 card",
        addresses: "eth0 192.0.2.7/24; eth1 198.51.100.7/24; eth3 169.254.7.7/16",
        routes: "via eth0; via eth2",
    }
    .auto(&["eth0 192.0.2.7", "eth1 198.51.100.7", "eth2 192.0.2.7"]);
}

/// `cni0` with two pods.
const BRIDGED: Host = Host {
    links: "1 lo loopback; 2 eth0 card; 4 cni0 bridge; 5 veth1 veth@elsewhere master 4; 6 veth2 veth@elsewhere master 4",
    addresses: "eth0 192.0.2.7/24; cni0 10.244.1.1/24",
    routes: "via eth0",
};

#[test]
fn a_bridge_of_pods_leads_to_pods_and_so_do_its_ports() {
    BRIDGED.auto(&["eth0 192.0.2.7", "cni0 pods 10.244.1.1", "veth1 pods 192.0.2.7", "veth2 pods 192.0.2.7"]);
    assert_eq!(BRIDGED.hooked("auto", "none"), ["eth0 192.0.2.7", "cni0 pods 10.244.1.1"]);
    assert_eq!(BRIDGED.hooked("eth*", "veth2"), ["eth0 192.0.2.7", "veth2 pods 192.0.2.7"]);
    assert_eq!(BRIDGED.hooked("none", "auto"), [""; 0], "there is no packet path at all");
    // Before the first pod.
    Host { links: "1 lo loopback; 2 eth0 card; 4 cni0 bridge", ..BRIDGED }
        .auto(&["eth0 192.0.2.7", "cni0 pods 10.244.1.1"]);
    // With a port that is none of a pod, what leaves by it may go anywhere.
    Host {
        links: "1 lo loopback; 2 eth0 card; 4 cni0 bridge; 5 veth1 veth@elsewhere master 4; 6 vnet0 tap master 4",
        ..BRIDGED
    }
    .auto(&["eth0 192.0.2.7", "cni0 10.244.1.1", "veth1 pods 192.0.2.7"]);
}

#[test]
fn overlays_have_addresses_of_their_own() {
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 flannel.1 vxlan; 4 cni0 bridge; 5 veth1 veth@elsewhere master 4",
        addresses: "eth0 192.0.2.7/24; flannel.1 10.244.1.0/32; cni0 10.244.1.1/24",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7", "flannel.1 10.244.1.0", "cni0 pods 10.244.1.1", "veth1 pods 192.0.2.7"]);
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 wg0 wireguard",
        addresses: "eth0 192.0.2.7/24; wg0 10.200.0.7/32; wg0 fd00:200::7/128",
        routes: "via eth0; v6 via wg0",
    }
    .auto(&["eth0 192.0.2.7 fd00:200::7", "wg0 10.200.0.7 fd00:200::7"]);
}

#[test]
fn routed_pods_hang_on_pairs_without_addresses_or_with_the_gateways() {
    // Calico.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 vxlan.calico vxlan; 4 tunl0 ipip; 5 cali1a veth@elsewhere; 6 cali2b \
                veth@elsewhere",
        addresses: "eth0 192.0.2.7/24; vxlan.calico 10.244.7.64/32; cali1a fe80::ecee:eeff:feee:eeee/64 link",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7", "vxlan.calico 10.244.7.64", "cali1a pods 192.0.2.7", "cali2b pods 192.0.2.7"]);
    // The plug-in `ptp`, as with kind.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 veth1 veth@elsewhere; 4 veth2 veth@elsewhere",
        addresses: "eth0 192.0.2.7/24; veth1 10.244.1.1/32; veth2 10.244.1.1/32; veth2 fd00:244::1/128",
        routes: "via eth0",
    }
    .auto(&[
        "eth0 192.0.2.7 fd00:244::1",
        "veth1 pods 10.244.1.1 fd00:244::1",
        "veth2 pods 10.244.1.1 fd00:244::1",
    ]);
    // netkit is a pair too, and one whose both ends are here is none of a pod's.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 lxc1 netkit@elsewhere; 4 cilium_host veth; 5 cilium_net veth; 6 \
                cilium_vxlan vxlan",
        addresses: "eth0 192.0.2.7/24; cilium_host 10.0.1.9/32; lxc1 fe80::1/64 link",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7", "lxc1 pods 192.0.2.7", "cilium_host 10.0.1.9"]);
}

#[test]
fn a_node_in_a_container_has_an_end_of_a_pair_for_a_card() {
    let nested = Host {
        links: "1 lo loopback; 2 eth0 veth@elsewhere; 3 veth1 veth@elsewhere",
        addresses: "eth0 172.18.0.2/16; eth0 fc00:f853::2/64; veth1 10.244.0.1/32",
        routes: "via eth0; v6 via eth0",
    };
    nested.auto(&["eth0 172.18.0.2 fc00:f853::2", "veth1 pods 10.244.0.1 fc00:f853::2"]);
    // By its network alone, and by its default route alone.
    Host { routes: "", ..nested }
        .auto(&["eth0 172.18.0.2 fc00:f853::2", "veth1 pods 10.244.0.1 fc00:f853::2"]);
    let single = Host {
        links: "1 lo loopback; 2 eth0 veth@elsewhere; 3 veth1 veth@elsewhere",
        addresses: "eth0 172.18.0.2/32",
        routes: "via eth0",
    };
    single.auto(&["eth0 172.18.0.2", "veth1 pods 172.18.0.2"]);
    // With neither only the user knows.
    let unknown = Host { routes: "", ..single };
    unknown.auto(&["eth0 pods 172.18.0.2", "veth1 pods 172.18.0.2"]);
    assert_eq!(unknown.hooked("eth0", "auto"), ["eth0 172.18.0.2", "veth1 pods 172.18.0.2"]);
    assert_eq!(
        unknown.hooked("eth*", "auto"),
        ["eth0 pods 172.18.0.2", "veth1 pods 172.18.0.2"],
        "a pattern takes no pod's"
    );
}

#[test]
fn ports_of_a_bond_or_a_bridge_are_left_to_it() {
    Host {
        links: "1 lo loopback; 2 eth0 card master 4; 3 eth1 card master 4; 4 bond0 bond; 5 bond0.100 vlan",
        addresses: "bond0 192.0.2.7/24; bond0.100 198.51.100.7/24",
        routes: "via bond0",
    }
    .auto(&["bond0 192.0.2.7", "bond0.100 198.51.100.7"]);
    // A host of virtual machines: what its bridge leads to is the world. A port's own address does not make it one.
    let virtual_host = Host {
        links: "1 lo loopback; 2 eth0 card master 3; 3 br0 bridge; 4 vnet0 tap master 3; 5 virbr0 bridge; 6 vnet1 tap \
                master 5",
        addresses: "br0 192.0.2.7/24; eth0 192.0.2.8/24; virbr0 192.168.122.1/24",
        routes: "via br0",
    };
    virtual_host.auto(&["br0 192.0.2.7", "virbr0 192.168.122.1"]);
    assert_eq!(virtual_host.hooked("eth0", "auto"), ["eth0 192.0.2.8"]);
    // Pods on the bridge of the node itself.
    Host {
        links: "1 lo loopback; 2 eth0 card master 3; 3 br0 bridge; 4 veth1 veth@elsewhere master 3",
        addresses: "br0 192.0.2.7/24",
        routes: "via br0",
    }
    .auto(&["br0 192.0.2.7", "veth1 pods 192.0.2.7"]);
    // A bond that is a port of the bridge.
    Host {
        links: "1 lo loopback; 2 eth0 card master 3; 3 bond0 bond master 4; 4 br0 bridge",
        addresses: "br0 192.0.2.7/24; eth0 192.0.2.9/24",
        routes: "via br0",
    }
    .auto(&["br0 192.0.2.7"]);
    // A routing domain is no bridge.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 eth1 card master 4; 4 blue vrf",
        addresses: "eth0 192.0.2.7/24; eth1 198.51.100.7/24; blue 198.51.100.9/32",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7", "eth1 198.51.100.7", "blue 198.51.100.9"]);
    // A listing that was torn.
    Host { links: "2 a bridge master 3; 3 b bridge master 2", addresses: "", routes: "" }.auto(&[]);
}

#[test]
fn containers_beside_are_pods_to_the_node() {
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 docker0 bridge; 4 vethd1 veth@elsewhere master 3",
        addresses: "eth0 192.0.2.7/24; docker0 172.17.0.1/16",
        routes: "via eth0",
    }
    .auto(&["eth0 192.0.2.7", "docker0 pods 172.17.0.1", "vethd1 pods 192.0.2.7"]);
}

#[test]
fn addresses_of_services_on_the_node_hook_nothing() {
    let cached = Host {
        links: "1 lo loopback; 2 eth0 card; 3 kube-ipvs0 dummy; 4 nodelocaldns dummy",
        addresses: "lo 127.0.0.1/8 host; eth0 192.0.2.7/24; kube-ipvs0 10.96.0.1/32; nodelocaldns 169.254.20.10/32; \
                    nodelocaldns 10.96.0.10/32",
        routes: "via eth0",
    };
    cached.auto(&["eth0 192.0.2.7"]);
    assert_eq!(cached.hooked("*", "*"), ["eth0 pods 192.0.2.7"], "whatever leads there is the user's word");
    assert_eq!(cached.hooked("nodelocaldns,lo,eth0", "none"), ["eth0 192.0.2.7"]);
    // A kernel without dummies has something else of that name.
    Host { links: "1 lo loopback; 2 eth0 card; 3 kube-ipvs0 bridge; 4 nodelocaldns dummy", ..cached }
        .auto(&["eth0 192.0.2.7"]);
}

#[test]
fn the_source_is_the_first_that_the_kernel_would_take() {
    // Secondary, link-local, deprecated and tentative ones are none.
    Host {
        links: "1 lo loopback; 2 eth0 card",
        addresses: "eth0 192.0.2.8/24 secondary; eth0 192.0.2.7/24; eth0 198.51.100.1/24; eth0 fe80::1/64 link; eth0 \
                    2001:db8::1/64 deprecated; eth0 2001:db8::2/64 tentative; eth0 2001:db8::3/64 secondary; eth0 \
                    2001:db8::7/64; eth0 fd00::7/64",
        routes: "via eth0; v6 via eth0",
    }
    .auto(&["eth0 192.0.2.7 2001:db8::7"]);
    // IPv6 only, with a link that has no address: the route's source, or else that of its device.
    let v6 = Host {
        links: "1 lo loopback; 2 eth0 card; 3 tun0 tunnel",
        addresses: "eth0 2001:db8::7/64; eth0 2001:db8::8/64; tun0 fe80::1/64 link",
        routes: "v6 via eth0; v6 via tun0",
    };
    v6.auto(&["eth0 2001:db8::7", "tun0 2001:db8::7"]);
    Host { routes: "v6 via eth0 src 2001:db8::8; v6 via tun0", ..v6 }
        .auto(&["eth0 2001:db8::7", "tun0 2001:db8::8"]);
    // A host that is reached by routes only has its addresses on the loopback device.
    Host {
        links: "1 lo loopback; 2 eth0 card; 3 eth1 card",
        addresses: "lo 127.0.0.1/8 host; lo ::1/128 host; lo 192.0.2.7/32; lo 2001:db8::7/128",
        routes: "via eth0; via eth1; v6 via eth0",
    }
    .auto(&["eth0 192.0.2.7 2001:db8::7", "eth1 192.0.2.7 2001:db8::7"]);
}

#[test]
fn names_that_are_no_devices_are_told_with_their_flag() {
    let choice = Choice {
        devices: "eth0,bond0,en*".parse().unwrap(),
        pod_devices: "cali*,veth*".parse().unwrap(),
        more_pods: None,
    };
    let unmatched = choose(&BRIDGED.facts(), &choice).unmatched;
    let wanted = [("--devices", "bond0"), ("--devices", "en*"), ("--pod-devices", "cali*")];
    assert_eq!(unmatched, wanted.map(|(flag, name)| (flag, name.to_owned())));
    assert_eq!(choose(&BRIDGED.facts(), &Choice::default()).unmatched, []);
}

#[test]
fn what_kube_proxys_configuration_calls_pods_leads_to_pods() {
    let host = Host {
        links: "1 lo loopback; 2 eth0 card; 3 tap1 tap; 4 weave bridge; 5 vxlan-1 vxlan master 4",
        addresses: "eth0 192.0.2.7/24; weave 10.32.0.1/12",
        routes: "via eth0",
    };
    host.auto(&["eth0 192.0.2.7", "weave 10.32.0.1"]);
    let with =
        |more: &str| host.chosen(&Choice { more_pods: Some(more.parse().unwrap()), ..Choice::default() });
    assert_eq!(with("tap*"), ["eth0 192.0.2.7", "tap1 pods 192.0.2.7", "weave 10.32.0.1"]);
    assert_eq!(with("weave"), ["eth0 192.0.2.7", "weave pods 10.32.0.1"]);
}

#[test]
fn packets_go_past_the_stack_between_ends_of_pairs_and_devices_of_the_node() {
    let host = Host {
        links: "1 lo loopback; 2 eth0 card; 3 bond0 card; 4 eth1 card master 3; 5 wg0 wireguard; 6 cali1 veth@elsewhere;
                7 cni0 bridge; 8 veth1 veth@elsewhere master 7; 9 nk1 netkit@elsewhere; 10 here veth",
        addresses: "eth0 192.0.2.1/24; bond0 198.51.100.1/24; wg0 10.9.0.1/24; cni0 10.244.1.1/24; here 10.8.0.1/24",
        routes: "via eth0",
    };
    let choice = Choice { devices: "eth0,eth1,bond0,wg0,here".parse().unwrap(), ..Choice::default() };
    let chosen = choose(&host.facts(), &choice).hooked;
    let names = |shortens| -> Vec<&str> {
        let of_kind = chosen.iter().filter(|hooked| hooked.shortens == shortens);
        of_kind.map(|hooked| &*hooked.name).collect()
    };
    assert_eq!(names(true), ["eth0", "bond0", "cali1", "here"]);
    // Ports of others, frames without addresses, and pods that are not at the other end of a pair.
    assert_eq!(names(false), ["eth1", "wg0", "veth1", "nk1"]);
}
