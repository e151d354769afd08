//! At which of its addresses a node serves NodePorts to clients outside (`nodePortAddresses`).

use std::net::SocketAddr;

use tests::agent::Agent;

use super::layout::Layout;
use super::policies::{End, end, trace};
use super::site::{Backend, Site};
use crate::traffic::{Server, Way, exchange};

/// The node's addresses on its link to the client.
const ON_THE_LINK: [&str; 2] = ["172.31.0.1", "fd00:172:31::1"];

/// The NodePort of a backend: at the addresses of the node's object, then at those on its link to the client.
fn node_ports(site: &Site, backend: Backend) -> [[SocketAddr; 2]; 2] {
    let own = site.cluster.node(1).addresses();
    let number = backend.frontends(&site.cluster)[0].port();
    [own, ON_THE_LINK.map(|ip| ip.parse().unwrap())].map(|ips| ips.map(|ip| SocketAddr::new(ip, number)))
}

/// What becomes of the client, and what was foretold.
#[track_caller]
fn ends(site: &Site, agent: &Agent<'_>, (to, is_served): (SocketAddr, bool)) {
    let (expected, action) = if is_served { (End::Served, "forward") } else { (End::Refused, "leave-alone") };
    for way in Way::BOTH {
        assert_eq!(end(site, to, way), expected, "{way:?} to {to}");
        let trace = trace(agent, to, way);
        assert_eq!(trace["verdict"]["action"], action, "{way:?} to {to}: {trace}");
    }
}

#[test]
fn node_ports_are_the_nodes_own_at_addresses_that_are_not_chosen() {
    let site = Site::new(Layout::Routed).unwrap();
    let backends = [Backend::LocalPod, Backend::RemotePod];
    for (chosen, [is_v4, is_v6], on_the_link) in [
        ("192.0.2.0/24,2001:db8:ffff::/64", [false, false], false),
        ("172.30.0.0/24,2001:db8:ffff::/64", [true, false], false),
        ("172.30.0.0/24,fd00:172:30::/64", [true, true], false),
        ("primary", [true, true], false),
        ("all", [true, true], true),
    ] {
        let agents = site.agents_with(&["--nodeport-addresses", chosen]);
        for backend in backends {
            let [[own_v4, own_v6], [link_v4, link_v6]] = node_ports(&site, backend);
            for what in [(own_v4, is_v4), (own_v6, is_v6), (link_v4, on_the_link), (link_v6, on_the_link)] {
                ends(&site, &agents[0], what);
            }
            // Balancers' and external IPs are served whatever is chosen.
            for to in &backend.frontends(&site.cluster)[2..] {
                ends(&site, &agents[0], (*to, true));
            }
        }
    }
}

/// It is the node's own stack that answers: whoever listens there is reached.
#[test]
fn who_listens_at_an_address_that_is_not_chosen_is_reached_there() {
    let site = Site::new(Layout::Routed).unwrap();
    let own = node_ports(&site, Backend::RemotePod)[0];
    let _server = Server::start(&site.cluster.node(1).netns, &own).unwrap();
    for (chosen, is_served) in [("192.0.2.0/24,2001:db8:ffff::/64", false), ("primary", true)] {
        let _agents = site.agents_with(&["--nodeport-addresses", chosen]);
        for to in own {
            for way in Way::BOTH {
                let seen = exchange(&site.client, to, way).unwrap();
                // The Service's backend is elsewhere, and would see this node.
                assert_eq!(seen.own != seen.seen, is_served, "{chosen}, {way:?} to {to}: {seen:?}");
            }
        }
    }
}
