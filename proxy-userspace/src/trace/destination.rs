//! Where to, and which ports are meant where none is said.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::frontend::FrontendKey;
use proxy_common::lb::{Lookup, Origin, Tuple, is_private};
use proxy_common::node::NodeAddrFlags;

/// DST of `shunt trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address; IPv4-mapped is IPv4.
    pub addr: IpAddr,
    /// The port; none: every service port of the address.
    pub port: Option<u16>,
}

/// A DST that names no address, or no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDestination {
    /// Not an address.
    #[error("not an IP address, IPv4:PORT or [IPv6]:PORT")]
    Address,
    /// Port zero.
    #[error("port 0 is nobody's")]
    Port,
}

impl FromStr for Destination {
    type Err = NoDestination;

    fn from_str(text: &str) -> Result<Self, NoDestination> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(addr) = bare.parse::<IpAddr>() {
            return Ok(Self { addr: addr.to_canonical(), port: None });
        }
        let both: SocketAddr = text.parse().map_err(|_| NoDestination::Address)?;
        match both.port() {
            0 => Err(NoDestination::Port),
            port => Ok(Self { addr: both.ip().to_canonical(), port: Some(port) }),
        }
    }
}

/// The service ports that a client at `origin` reaches at an address, sorted.
pub fn ports_of(
    lookup: &impl Lookup,
    frontends: impl IntoIterator<Item = FrontendKey>,
    (addr, origin): (Addr, Origin),
) -> Vec<Tuple> {
    let is_own_loopback = addr.is_loopback() && !is_private(addr, origin);
    let has_node_ports =
        is_own_loopback || lookup.node_addr(addr).is_some_and(NodeAddrFlags::serves_node_ports);
    let is_of = |key: &FrontendKey| key.addr == addr || has_node_ports && key.addr == addr.to_unspecified();
    let keys = frontends.into_iter().filter(|key| !key.is_owned_vip() && is_of(key));
    let ports: BTreeSet<(u16, Proto)> = keys.map(|key| (key.port.get(), key.proto)).collect();
    ports.into_iter().map(|(port, proto)| Tuple { addr, port: Port::new(port), proto }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::Hashes;
    use crate::maps::memory::Memory;

    #[test]
    fn a_destination_has_an_address_and_maybe_a_port() {
        let parsed = |text: &str| text.parse::<Destination>().map(|dst| (dst.addr.to_string(), dst.port));
        for (text, addr, port) in [
            ("10.96.0.10", "10.96.0.10", None),
            ("10.96.0.10:80", "10.96.0.10", Some(80)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1]:53", "fd00::1", Some(53)),
            ("[::ffff:10.96.0.10]:80", "10.96.0.10", Some(80)),
        ] {
            assert_eq!(parsed(text), Ok((addr.to_owned(), port)), "{text}");
        }
        for text in ["", "web", "web:80", "10.96.0.10:http", "10.96.0.10:65536", "[fd00::1", "10.96.0.10:"] {
            assert_eq!(parsed(text), Err(NoDestination::Address), "{text}");
        }
        assert_eq!(parsed("10.96.0.10:0"), Err(NoDestination::Port));
    }

    #[test]
    fn an_address_without_a_port_stands_for_its_service_ports() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let key = |text: &str, port, proto| FrontendKey::new(addr(text), Port::new(port), proto);
        let frontends = [
            key("10.96.0.10", 443, Proto::TCP),
            key("10.96.0.10", 80, Proto::UDP),
            key("10.96.0.10", 80, Proto::TCP),
            key("10.96.0.11", 80, Proto::TCP),
            key("0.0.0.0", 30080, Proto::TCP),
            key("::", 30081, Proto::TCP),
            key("192.0.2.1", 9000, Proto::TCP),
            FrontendKey::owned_block(addr("10.96.0.10")),
        ];
        let mut store = Memory::new(4);
        store.insert_node_addr(addr("192.0.2.1"), NodeAddrFlags::NODE_PORT).unwrap();
        store.insert_node_addr(addr("192.0.2.2"), NodeAddrFlags::LOCAL).unwrap();
        let ports = |text: &str, origin| -> Vec<String> {
            let tuples = ports_of(&store, frontends, (addr(text), origin));
            tuples.iter().map(|tuple| format!("{}/{}", tuple.port.get(), tuple.proto)).collect()
        };
        assert_eq!(ports("10.96.0.10", Origin::Pod), ["80/tcp", "80/udp", "443/tcp"]);
        assert_eq!(ports("192.0.2.1", Origin::Pod), ["9000/tcp", "30080/tcp"]);
        assert_eq!(ports("192.0.2.2", Origin::Pod), [""; 0], "no NodePorts on that address");
        assert_eq!(ports("127.0.0.1", Origin::Host), ["30080/tcp"]);
        assert_eq!(ports("127.0.0.1", Origin::Pod), [""; 0]);
        assert_eq!(ports("::1", Origin::Host), ["30081/tcp"]);
    }
}
