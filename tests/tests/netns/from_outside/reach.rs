//! Who is reached from outside, what the backend sees of the client, and what connection tracking sees of both.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::scenario::BACKEND_PORT;
use crate::traffic::{Transfer, Way, exchange};
use crate::witness::{Flow, Rules, Witness};

/// `IPPROTO_RAW`: packets with their headers.
const RAW: i32 = 255;

/// Every frontend by TCP and UDP, over IPv4 and IPv6.
fn reaches_all(site: &Site, layout: Layout) {
    for backend in Backend::ALL {
        for frontend in backend.frontends(&site.cluster) {
            for way in Way::BOTH {
                let seen = exchange(&site.client, frontend, way)
                    .unwrap_or_else(|error| panic!("{layout:?}, {backend:?}: {error:#}"));
                // A backend on the node that was asked sees the client itself.
                assert_eq!(seen.seen == seen.own, !backend.is_remote(), "{layout:?}, {backend:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn every_frontend_leads_to_local_and_remote_backends_in_every_layout() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        let _agents = site.agents();
        reaches_all(&site, layout);
    }
}

/// A plug-in's rules drop what is invalid, and all that is neither known nor a pod's.
#[test]
fn rules_of_a_plug_in_see_clients_and_backends_and_nothing_invalid() {
    for layout in Layout::ALL {
        let site = Site::new(layout).unwrap();
        let nodes = site.cluster.nodes.iter();
        let witnesses: Vec<Witness<'_>> =
            nodes.map(|node| Witness::start(&node.netns, Rules::PodsOnly).unwrap()).collect();
        let _agents = site.agents();
        let mut made = Vec::new();
        for backend in [Backend::LocalPod, Backend::RemotePod] {
            for frontend in backend.frontends(&site.cluster) {
                for way in Way::BOTH {
                    let seen = exchange(&site.client, frontend, way)
                        .unwrap_or_else(|error| panic!("{layout:?}, {backend:?}: {error:#}"));
                    made.push(Made { backend, way, own: seen.own });
                }
            }
        }
        check_tracked(&site, &witnesses[0], (layout, &made));
        for (node, witness) in site.cluster.nodes.iter().zip(&witnesses) {
            assert_eq!(witness.invalid_forwarded().unwrap(), 0, "{layout:?}, {}", node.name);
            assert_eq!(witness.invalid_tracked().unwrap(), 0, "{layout:?}, {}", node.name);
        }
    }
}

/// An exchange that was made, and the client's own end of it.
#[derive(Debug)]
struct Made {
    backend: Backend,
    way: Way,
    own: SocketAddr,
}

/// The node that was asked has tracked each exchange between the client and its backend, and knows of no frontend.
fn check_tracked(site: &Site, witness: &Witness<'_>, (layout, made): (Layout, &[Made])) {
    let told = witness.told(|flow| flow.is_replied).unwrap();
    let listed = witness.listed().unwrap();
    let mut count: BTreeMap<(IpAddr, IpAddr, &str), usize> = BTreeMap::new();
    for Made { backend, way, own } in made {
        let (_, ips) = backend.place(&site.cluster);
        let ip = ips[usize::from(own.is_ipv6())];
        let ends = [*own, SocketAddr::new(ip, BACKEND_PORT)];
        let is_it =
            |flow: &&Flow| flow.protocol == way.protocol() && flow.ends[..2] == ends[..] && flow.is_replied;
        let flow = listed.iter().find(is_it);
        let flow = flow.unwrap_or_else(|| panic!("{layout:?}: no {way:?} of {ends:?}: {listed:?}"));
        // Where the plug-in masquerades, that is its own business, and connection tracking undoes it.
        let is_masqueraded = layout == Layout::Overlay && backend.is_remote();
        assert_eq!(flow.is_between(own.ip(), ip), !is_masqueraded, "{layout:?}: {flow:?}");
        *count.entry((own.ip(), ip, way.protocol())).or_default() += 1;
    }
    // Each client, backend and protocol, by three frontends.
    assert_eq!((count.len(), made.len()), (8, 24), "{count:?}");
    for ((client, ip, protocol), made) in count {
        let is_it = |flow: &&Flow| flow.protocol == protocol && flow.original == (client, ip);
        let tracked = listed.iter().filter(is_it).count();
        assert!(tracked >= made, "{layout:?}: {tracked} of {made} {protocol} from {client} to {ip}");
    }
    let frontends: Vec<SocketAddr> =
        Backend::ALL.iter().flat_map(|backend| backend.frontends(&site.cluster)).collect();
    let node = site.cluster.node(1).addresses();
    // The node's own address may be an end, but not with a NodePort.
    let is_vip = |end: &SocketAddr| {
        frontends.contains(end) || frontends.iter().any(|at| at.ip() == end.ip() && !node.contains(&end.ip()))
    };
    let names_vip = |flow: &&Flow| flow.ends.iter().any(is_vip);
    assert_eq!(told.iter().chain(&listed).find(names_vip), None, "{layout:?}");
}

/// Bytes of a long transfer in each direction; `SHUNT_TRANSFER_BYTES` says otherwise.
const LONG: usize = 64 << 20;

#[test]
fn long_transfers_come_through_whole_in_both_directions() {
    let length = std::env::var("SHUNT_TRANSFER_BYTES").map_or(LONG, |text| text.parse().unwrap());
    let site = Site::new(Layout::Routed).unwrap();
    let _agents = site.agents();
    for backend in Backend::ALL {
        for frontend in backend.frontends(&site.cluster) {
            let begun = Instant::now();
            let transfer = Transfer::open(&site.client, (None, frontend)).unwrap();
            transfer.complete(length).unwrap_or_else(|error| panic!("{backend:?} {frontend}: {error:#}"));
            println!("{length} bytes to {backend:?} by {frontend} and back: {:?}", begun.elapsed());
        }
    }
}

/// Segments of somebody who knows the ends of a connection and nothing else.
fn forge(site: &Site, (from, to): (SocketAddr, SocketAddr)) {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else { panic!("IPv4 only") };
    site.client
        .inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).unwrap();
            for number in 0..64_u32 {
                let sequence = number.wrapping_mul(0x0400_0000);
                let tcp = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp(
                    from.port(),
                    to.port(),
                    sequence,
                    9,
                );
                let tcp = if number % 2 == 0 { tcp.rst() } else { tcp.ack(sequence ^ 0x5555_5555) };
                let mut packet = Vec::new();
                tcp.write(&mut packet, b"forged").unwrap();
                socket.send_to(&packet, &SocketAddr::new(dst.into(), 0).into()).unwrap();
            }
        })
        .unwrap();
}

#[test]
fn segments_out_of_the_window_break_no_connection() {
    let site = Site::new(Layout::Routed).unwrap();
    let _agents = site.agents();
    for backend in Backend::ALL {
        for frontend in backend.frontends(&site.cluster).into_iter().filter(SocketAddr::is_ipv4) {
            let transfer = Transfer::open(&site.client, (None, frontend)).unwrap();
            forge(&site, (transfer.own().unwrap(), frontend));
            transfer.complete(1 << 20).unwrap_or_else(|error| panic!("{backend:?} {frontend}: {error:#}"));
        }
    }
}
