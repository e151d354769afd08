//! Addresses and ranges as Kubernetes reads them: leniently, and to one canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address. IPv4 octets may have leading zeros and are decimal all the same, since objects from before the API
/// server refused them may still be stored; an IPv4-mapped IPv6 address is the IPv4 address. No zone, no white space.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_ipv4(text).map(IpAddr::V4);
    }
    let ip = match text.parse::<Ipv6Addr>() {
        Ok(ip) => ip,
        Err(_) => parse_ipv6_with_ipv4_tail(text)?,
    };
    Some(IpAddr::V6(ip).to_canonical())
}

/// A range; host bits are cleared. A range inside ::ffff:0:0/96 is the IPv4 range.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = parse_decimal(length).and_then(|length| u8::try_from(length).ok())?;
    let mut address = parse_ip(address)?;
    let is_mapped = address.is_ipv4() && text.contains(':');
    let length = match (is_mapped, length.checked_sub(96)) {
        (true, Some(length)) => length,
        (true, None) => {
            address = IpAddr::V6(parse_v6(address));
            length
        }
        (false, _) => length,
    };
    Some(IpNet::new(address, length).ok()?.trunc())
}

fn parse_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parts.next().and_then(parse_decimal).and_then(|number| u8::try_from(number).ok())?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// `::ffff:010.0.0.1` and the like: the standard parser refuses the leading zero.
fn parse_ipv6_with_ipv4_tail(text: &str) -> Option<Ipv6Addr> {
    let (head, tail) = text.rsplit_once(':')?;
    let tail = parse_ipv4(tail)?;
    format!("{head}:{tail}").parse().ok()
}

/// Digits only: the standard parser accepts a sign.
fn parse_decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Why an address must not be a frontend, if so. The API server refuses these; a manifest has none to ask. The
/// unspecified address means NodePorts in the maps, and loopback belongs to each pod by itself.
pub(super) fn frontend_objection(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("the unspecified address cannot be a frontend")
    } else if ip.is_loopback() {
        Some("a loopback address cannot be a frontend")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast address cannot be a frontend")
    } else {
        None
    }
}

/// Why an address must not be an endpoint, if so: the API server's own rule for slices. It keeps a Service from being
/// a way into the caller's loopback or to a link-local metadata server.
pub(super) fn endpoint_objection(ip: IpAddr) -> Option<&'static str> {
    let is_link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("the unspecified address cannot be an endpoint")
    } else if ip.is_loopback() {
        Some("a loopback address cannot be an endpoint")
    } else if is_link_local {
        Some("a link-local address cannot be an endpoint")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast address cannot be an endpoint")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        parse_ip(text).map(|ip| ip.to_string())
    }

    #[test]
    fn two_spellings_are_one_address() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.0.01", Some("10.0.0.1")),
            ("0000000010.0.0.08", Some("10.0.0.8")),
            ("fd00:0:0::01", Some("fd00::1")),
            ("FD00::1", Some("fd00::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::ffff:010.0.0.1", Some("10.0.0.1")),
            ("::ffff:a00:1", Some("10.0.0.1")),
            ("fd00::1%eth0", None),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("10..0.1", None),
            (" 10.0.0.1", None),
            ("0x0a.0.0.1", None),
            ("web.example", None),
            ("10.0.0.99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(canonical(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_lose_their_host_bits() {
        for (text, expected) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("010.0.0.0/08", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::1/64", Some("fd00::/64")),
            ("::/0", Some("::/0")),
            ("::ffff:10.0.0.9/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.9/8", Some("::/8")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/-1", None),
        ] {
            assert_eq!(parse_net(text).map(|net| net.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_prints_parses_back(bits: u128, v4: bool) {
            let ip = if v4 { IpAddr::V4(Ipv4Addr::from(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from(bits)) };
            prop_assert_eq!(parse_ip(&ip.to_string()), Some(ip.to_canonical()));
        }

        #[test]
        fn leading_zeros_change_nothing(octets: [u8; 4], zeros in prop::array::uniform4(0usize..5)) {
            let parts: Vec<String> =
                octets.iter().zip(zeros).map(|(octet, zeros)| format!("{}{octet}", "0".repeat(zeros))).collect();
            prop_assert_eq!(parse_ip(&parts.join(".")), Some(IpAddr::from(octets)));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (parse_ip(&text), parse_net(&text));
        }
    }
}
