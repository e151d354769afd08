//! Who is reached from outside, what the backend sees of the client, and what connection tracking sees of both.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::layout::Layout;
use super::site::{Backend, Site};
use crate::traffic::{Transfer, Way, exchange};
use crate::wire;
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
        let node = site.cluster.node(1);
        let witness = Witness::start(&node.netns, Rules::PodsOnly).unwrap();
        let _others: Vec<Witness<'_>> = site.cluster.nodes[1..]
            .iter()
            .map(|node| Witness::start(&node.netns, Rules::PodsOnly).unwrap())
            .collect();
        let _agents = site.agents();
        for backend in [Backend::LocalPod, Backend::RemotePod] {
            for frontend in backend.frontends(&site.cluster) {
                for way in Way::BOTH {
                    exchange(&site.client, frontend, way)
                        .unwrap_or_else(|error| panic!("{layout:?}, {backend:?}: {error:#}"));
                }
            }
        }
        check_tracked(&site, &witness, layout);
    }
}

fn check_tracked(site: &Site, witness: &Witness<'_>, layout: Layout) {
    let told = [witness.told(|flow| flow.is_replied).unwrap(), witness.listed().unwrap()].concat();
    let clients = wire::clients();
    for backend in [Backend::LocalPod, Backend::RemotePod] {
        let (_, ips) = backend.place(&site.cluster);
        for (client, ip) in clients.into_iter().zip(ips) {
            for way in Way::BOTH {
                let is_it = |flow: &&Flow| {
                    flow.protocol == way.protocol() && flow.original == (client, ip) && flow.is_replied
                };
                let flow = told.iter().find(is_it);
                let flow = flow.unwrap_or_else(|| panic!("{layout:?}: no {way:?} to {ip}: {told:?}"));
                // Where the plug-in masquerades, that is its own business, and connection tracking undoes it.
                let is_masqueraded = layout == Layout::Overlay && backend.is_remote();
                assert_eq!(flow.is_between(client, ip), !is_masqueraded, "{layout:?}: {flow:?}");
            }
        }
    }
    let vips: Vec<IpAddr> = Backend::ALL
        .iter()
        .flat_map(|backend| backend.frontends(&site.cluster))
        .map(|at: SocketAddr| at.ip())
        .collect();
    let node = site.cluster.node(1).addresses();
    let names_vip = |flow: &&Flow| {
        let ends = [flow.original.0, flow.original.1];
        ends.iter().any(|end| vips.contains(end) && !node.contains(end))
    };
    assert_eq!(told.iter().find(names_vip), None, "{layout:?}");
    assert_eq!(witness.invalid_forwarded().unwrap(), 0, "{layout:?}");
    assert_eq!(witness.invalid_tracked().unwrap(), 0, "{layout:?}");
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
