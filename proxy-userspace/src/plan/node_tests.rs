use super::*;
use NodePortAddressesError::{Empty, Repeated, Unknown};

const OWN: [&str; 7] =
    ["127.0.0.1", "::1", "192.0.2.10", "198.51.100.10", "2001:db8::10", "fe80::1", "192.0.2.10"];

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn node() -> Node {
    let addresses = ips(&["192.0.2.10", "203.0.113.7", "2001:db8::10"]);
    Node { addresses, ..Node::default() }
}

/// The addresses that serve NodePorts under a value of `--nodeport-addresses`.
fn serving(flag: &str, node: &Node) -> Vec<String> {
    let desired = desired_node(&ips(&OWN), node, [], &flag.parse().unwrap());
    assert!(desired.addresses.is_sorted_by(|a, b| a.0 < b.0), "sorted, none twice");
    assert!(desired.addresses.iter().all(|(_, flags)| flags.0 & NodeAddrFlags::LOCAL.0 != 0));
    let own: Vec<_> = desired.addresses.iter().map(|(addr, _)| addr.to_ip()).collect();
    assert!(own.iter().all(|ip| !ip.is_loopback()) && own.len() == 4, "{own:?}");
    let serving = desired.addresses.iter().filter(|(_, flags)| flags.serves_node_ports());
    let mut texts: Vec<_> = serving.map(|(addr, _)| addr.to_string()).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn the_flag_selects_addresses_by_family() {
    for (flag, expected) in [
        ("all", &["192.0.2.10", "198.51.100.10", "2001:db8::10", "fe80::1"][..]),
        ("primary", &["192.0.2.10", "2001:db8::10"]),
        ("localhost", &[]),
        ("localhost,primary", &["192.0.2.10", "2001:db8::10"]),
        ("localhost, 198.51.100.0/24", &["198.51.100.10"]),
        ("0.0.0.0/0,2001:db8::/32", &["192.0.2.10", "198.51.100.10", "2001:db8::10"]),
        // Nothing is said of IPv6, which leaves it at all addresses.
        ("198.51.100.0/24", &["198.51.100.10", "2001:db8::10", "fe80::1"]),
        ("10.0.0.0/8", &["2001:db8::10", "fe80::1"]),
        ("primary,198.51.100.0/24", &["192.0.2.10", "198.51.100.10", "2001:db8::10"]),
        ("fe80::/10,all", &["192.0.2.10", "198.51.100.10", "2001:db8::10", "fe80::1"]),
    ] {
        assert_eq!(serving(flag, &node()), expected, "{flag}");
    }
}

#[test]
fn primary_serves_nothing_in_a_family_without_a_primary_address() {
    let v4_only = Node { addresses: ips(&["192.0.2.10"]), ..Node::default() };
    assert_eq!(serving("primary", &v4_only), ["192.0.2.10"]);
    let translated = Node { addresses: ips(&["203.0.113.7", "192.0.2.10"]), ..Node::default() };
    assert!(serving("primary", &translated).is_empty());
}

#[test]
fn listeners_are_where_node_ports_are() {
    for (flag, expected) in [
        ("all", &["0.0.0.0", "::"][..]),
        ("primary", &["192.0.2.10", "2001:db8::10"]),
        ("localhost", &["127.0.0.1", "::1"]),
        ("localhost,primary", &["127.0.0.1", "::1", "192.0.2.10", "2001:db8::10"]),
        ("0.0.0.0/0,2001:db8::/32", &["0.0.0.0", "2001:db8::10"]),
        // Nothing is said of IPv6.
        ("198.51.100.0/24", &["::", "198.51.100.10"]),
        ("10.0.0.0/8,fe80::/10", &[]),
        ("primary,all", &["0.0.0.0", "::"]),
    ] {
        let flag: NodePortAddresses = flag.parse().unwrap();
        let own = &ips(&OWN)[..6];
        assert_eq!(flag.listen_on(own, &node()), ips(expected), "{flag:?}");
    }
}

#[test]
fn the_flag_is_read_with_clear_errors() {
    let read = NodePortAddresses::from_str;
    assert_eq!(read(" all "), Ok(NodePortAddresses::All));
    assert_eq!(read("primary"), Ok(NodePortAddresses::Primary));
    assert_eq!(read(""), Err(Empty));
    assert_eq!(NodePortAddresses::from_entries([]), Err(Empty));
    assert_eq!(read("primary,all,primary"), Err(Repeated { keyword: "primary" }));
    for bad in ["192.0.2.1", "192.0.2.0/33", "Primary", "eth0", "all,"] {
        let entry = bad.trim_start_matches("all,").into();
        assert_eq!(read(bad), Err(Unknown { entry }), "{bad}");
    }
    let nets = ["10.0.0.0/8", "10.0.0.0/8"].map(|text| NodePortEntry::Net(text.parse().unwrap()));
    assert_eq!(read("10.0.0.0/8,10.0.0.0/8"), Ok(NodePortAddresses::List(nets.to_vec())));
}

#[test]
fn service_ranges_are_mapped_and_none_is_held_twice() {
    let object = |name: &str, cidrs: &[&str]| ServiceCidr {
        name: name.into(),
        cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let objects = [
        object("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]),
        object("same", &["10.96.0.0/16"]),
        object("inner", &["10.96.128.7/17", "10.96.0.0/24", "fd00:10:96::/120"]),
        object("apart", &["10.97.0.0/16"]),
    ];
    for objects in [objects.iter().collect::<Vec<_>>(), objects.iter().rev().collect()] {
        let keys = desired_node(&[], &node(), objects, &NodePortAddresses::All).service_cidrs;
        assert!(keys.is_sorted());
        let mut texts: Vec<_> = keys.iter().map(|key| format!("{}/{}", key.addr, key.prefix_len)).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["10.96.0.0/112", "10.97.0.0/112", "fd00:10:96::/112"]);
    }
}
