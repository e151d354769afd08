//! Where a packet is to be rewritten so that netfilter, routing and a plug-in's rules see client and backend only, in
//! both directions: shown for IPv4 and IPv6, TCP and UDP, with the kernel's connection tracking as the witness.

mod bridge;
mod masquerade;
mod nat;
mod same_device;
mod snat;
mod symmetric;

use std::net::{IpAddr, SocketAddr};

/// The port that VIPs are dialled at.
const PORT: u16 = 80;
/// The port that backends listen at.
const BACKEND_PORT: u16 = 8080;
/// VIPs that no device has.
const VIPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

/// The VIPs, IPv4 and IPv6.
fn vips() -> [IpAddr; 2] {
    VIPS.map(|vip| vip.parse().unwrap())
}

/// Where backends listen that have these addresses.
fn listening<const N: usize>(addresses: [IpAddr; N]) -> [SocketAddr; N] {
    addresses.map(|address| SocketAddr::new(address, BACKEND_PORT))
}
