//! A client outside the cluster that reaches node 1 by a link of its own.

use std::net::IpAddr;

use anyhow::Result;
use tests::netns::Netns;

/// The node's end of the link, and the client's.
const GATEWAYS: [&str; 2] = ["172.31.0.1", "fd00:172:31::1"];
const CLIENTS: [&str; 2] = ["172.31.0.2", "fd00:172:31::2"];

/// The client's addresses, IPv4 and IPv6.
pub(crate) fn clients() -> [IpAddr; 2] {
    CLIENTS.map(|address| address.parse().unwrap())
}

/// Makes the link, `ext0` on the node. All that the client sends goes there.
pub(crate) fn wire(node: &Netns, client: &Netns) -> Result<()> {
    node.veth("ext0", client, "eth0")?;
    for ((gateway, own), prefix) in GATEWAYS.into_iter().zip(clients()).zip([24, 64]) {
        node.add_address("ext0", gateway.parse()?, prefix)?;
        client.add_address("eth0", own, prefix)?;
        client.add_route(&format!("default via {gateway}"))?;
    }
    Ok(())
}
