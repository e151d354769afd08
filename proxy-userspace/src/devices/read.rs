//! From the kernel's messages to [`Facts`].

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::facts::{Address, DefaultRoute, Facts, Kind, Link};

/// Everything, from three listings.
pub(super) fn facts(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[DefaultRoute]) -> Facts {
    let mut links: Vec<Link> = links.iter().filter_map(link).collect();
    links.sort_unstable_by_key(|link| link.index);
    Facts {
        links,
        addresses: addresses.iter().filter_map(address).collect(),
        default_routes: routes.to_vec(),
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: Kind::Other,
        master: None,
        is_peer_elsewhere: false,
        is_bare: !matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            // The kernel writes it only where the other namespace is another one.
            LinkAttribute::LinkNetNsId(_) => link.is_peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
            _ => {}
        }
    }
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = Kind::Loopback;
    }
    (!link.name.is_empty()).then_some(link)
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Veth) => Kind::Veth,
        Some(InfoKind::Netkit) => Kind::Netkit,
        Some(InfoKind::Bridge) => Kind::Bridge,
        Some(InfoKind::Vrf) => Kind::Vrf,
        Some(InfoKind::Dummy) => Kind::Dummy,
        _ => Kind::Other,
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let (mut local, mut far) = (None, None);
    // The header has room for the lower eight only.
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let is_duplicate = flags.contains(AddressFlags::Dadfailed);
    // An optimistic address is tentative too, and may be used.
    let is_tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    Some(Address {
        index: header.index,
        // On a point-to-point link the other one is the neighbour's; IPv6 writes only that where they are equal.
        ip: local.or(far)?,
        prefix_len: header.prefix_len,
        is_global: u8::from(header.scope) < u8::from(AddressScope::Link),
        is_secondary: flags.bits() & u32::from(AddressHeaderFlags::Secondary.bits()) != 0,
        is_unfit: is_duplicate || is_tentative || flags.contains(AddressFlags::Deprecated),
    })
}

/// Default routes among `messages`, those that the kernel prefers first: of the main table, by metric.
pub(super) fn default_routes(messages: &[RouteMessage]) -> Vec<DefaultRoute> {
    let mut routes: Vec<((bool, u32), DefaultRoute)> =
        messages.iter().filter(|message| is_default(message)).flat_map(default_route).collect();
    routes.sort_by_key(|(preference, _)| *preference);
    routes.into_iter().map(|(_, route)| route).collect()
}

/// Whether a route is for every destination that has none of its own, and leads out.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
        && message.header.kind == RouteType::Unicast
        && matches!(message.header.address_family, AddressFamily::Inet | AddressFamily::Inet6)
}

fn default_route(message: &RouteMessage) -> Vec<((bool, u32), DefaultRoute)> {
    let mut table = u32::from(message.header.table);
    let (mut metric, mut devices, mut preferred_source) = (0, Vec::new(), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(wide) => table = *wide,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => devices.extend(hops.iter().map(|hop| hop.interface_index)),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => preferred_source = Some(IpAddr::V4(*ip)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => preferred_source = Some(IpAddr::V6(*ip)),
            _ => {}
        }
    }
    let is_elsewhere = table != u32::from(RouteHeader::RT_TABLE_MAIN);
    let is_v4 = message.header.address_family == AddressFamily::Inet;
    let route = |index| ((is_elsewhere, metric), DefaultRoute { index, is_v4, preferred_source });
    devices.into_iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    #[test]
    fn a_link_is_read_with_kind_master_and_peer() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("veth1".to_owned()),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkNetNsId(0),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        let wanted = Link {
            index: 7,
            name: "veth1".to_owned(),
            kind: Kind::Veth,
            master: Some(3),
            is_peer_elsewhere: true,
            is_bare: false,
        };
        message.header.link_layer_type = LinkLayerType::Ether;
        assert_eq!(link(&message), Some(wanted));
        for bare in [LinkLayerType::None, LinkLayerType::Tunnel, LinkLayerType::Ppp] {
            message.header.link_layer_type = bare;
            assert!(link(&message).is_some_and(|link| link.is_bare), "{bare:?}");
        }
        message.header.flags = LinkFlags::Loopback;
        assert_eq!(link(&message).map(|link| link.kind), Some(Kind::Loopback));
        assert_eq!(link(&LinkMessage::default()), None, "a link without a name");
    }

    #[test]
    fn flags_and_scope_say_what_an_address_is_worth() {
        let address = |scope, flags: AddressFlags| {
            let mut message = AddressMessage::default();
            message.header.family = AddressFamily::Inet6;
            message.header.scope = scope;
            message.header.prefix_len = 64;
            let ip = "2001:db8::7".parse().unwrap();
            message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Flags(flags)];
            let read = super::address(&message).unwrap();
            (read.is_global, read.is_secondary, read.is_unfit)
        };
        let none = AddressFlags::empty();
        assert_eq!(address(AddressScope::Universe, none), (true, false, false));
        assert_eq!(address(AddressScope::Site, none), (true, false, false));
        assert_eq!(address(AddressScope::Link, none), (false, false, false));
        assert_eq!(address(AddressScope::Host, none), (false, false, false));
        let of_flags = |flags| address(AddressScope::Universe, flags);
        assert_eq!(of_flags(AddressFlags::Secondary), (true, true, false));
        assert_eq!(of_flags(AddressFlags::Tentative), (true, false, true));
        assert_eq!(of_flags(AddressFlags::Tentative | AddressFlags::Optimistic), (true, false, false));
        assert_eq!(of_flags(AddressFlags::Deprecated), (true, false, true));
        assert_eq!(of_flags(AddressFlags::Dadfailed), (true, false, true));
    }

    fn route(table: u8, metric: u32, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.header.table = table;
        message.attributes = attributes;
        message.attributes.push(RouteAttribute::Priority(metric));
        message
    }

    #[test]
    fn default_routes_are_those_for_everything_preferred_first() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let mut elsewhere = route(2, 0, vec![RouteAttribute::Oif(9)]);
        let source = RouteAttribute::PrefSource(RouteAddress::Inet([192, 0, 2, 1].into()));
        let several = route(254, 100, vec![RouteAttribute::MultiPath(vec![hop(4), hop(5)]), source]);
        let best = route(254, 10, vec![RouteAttribute::Oif(3)]);
        let mut subnet = route(254, 0, vec![RouteAttribute::Oif(8)]);
        subnet.header.destination_prefix_length = 24;
        let mut hole = route(254, 0, Vec::new());
        hole.header.kind = RouteType::BlackHole;
        let read = default_routes(&[elsewhere.clone(), several, subnet, hole, best]);
        assert_eq!(read.iter().map(|route| route.index).collect::<Vec<_>>(), [3, 4, 5, 9]);
        assert_eq!(read[1].preferred_source, Some([192, 0, 2, 1].into()));
        assert!(read.iter().all(|route| route.is_v4));
        // A table whose number needs more than eight bits.
        elsewhere.header.table = RouteHeader::RT_TABLE_MAIN;
        elsewhere.attributes.push(RouteAttribute::Table(1000));
        let read = default_routes(&[elsewhere, route(254, 500, vec![RouteAttribute::Oif(3)])]);
        assert_eq!(read.iter().map(|route| route.index).collect::<Vec<_>>(), [3, 9]);
    }
}
