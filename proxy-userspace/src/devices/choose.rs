//! From what is known of a network namespace to the devices that are wanted.
//!
//! A device is one of **pods** if it is the host end of a pair (veth or netkit) whose other end is in another network
//! namespace, and others do not reach the node through it. In a container that is a node, `eth0` is such an end too: it has
//! a default route, or an address in a network of others. An address of a single host (`/32`, `/128`) is none, since
//! plug-ins like `ptp` give each pair the gateway's. A bridge leads to pods if each of its ports does and no default route
//! leads out by it; one without ports is about to get them.
//!
//! Any other device is wanted if a default route leads out by it or if it has an address by which others know the node:
//! what enters from clients, and on devices of overlays (VXLAN, WireGuard, IP in IP) what remote backends reply. The ports
//! of such a bridge or bond are not wanted, since all that they carry passes the device above them. Loopback and dummy
//! devices never are: nothing arrives there from elsewhere (NodeLocal DNSCache, `kube-ipvs0`). Whether a device is up does
//! not matter: its first packet is to meet the programs.

use super::Hooked;
use super::facts::{Address, Facts, Kind, Link};
use super::selection::{Pattern, Selection};
use super::sources::sources;

/// Bridges on bonds on ... at most: a listing that was torn may hold a ring.
const DEPTH: usize = 8;

/// What the user says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// `--devices`; with none there is no packet path at all. A name is taken as it is, whatever the device; a pattern
    /// takes no device of pods.
    pub devices: Selection,
    /// `--pod-devices`; what it names leads to pods.
    pub pod_devices: Selection,
    /// What else leads to pods: `detectLocal` of kube-proxy's configuration.
    pub more_pods: Option<Pattern>,
}

/// The devices that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// By ascending index.
    pub hooked: Vec<Hooked>,
    /// Names and patterns that are no device's, with the flag that has them.
    pub unmatched: Vec<(&'static str, String)>,
}

/// The devices that `choice` comes to among `facts`.
pub fn choose(facts: &Facts, choice: &Choice) -> Chosen {
    if choice.devices == Selection::None {
        return Chosen::default();
    }
    let view = View { facts, choice };
    let wanted = facts.links.iter().filter(|link| view.wants(link));
    let mut hooked: Vec<Hooked> = wanted.map(|link| view.hooked(link)).collect();
    hooked.sort_unstable();
    let of_flag = |flag, selection: &Selection| -> Vec<(&'static str, String)> {
        let is_unmatched = |pattern: &&Pattern| !facts.links.iter().any(|link| pattern.matches(&link.name));
        selection.patterns().iter().filter(is_unmatched).map(|pattern| (flag, pattern.to_string())).collect()
    };
    let unmatched =
        [of_flag("--devices", &choice.devices), of_flag("--pod-devices", &choice.pod_devices)].concat();
    Chosen { hooked, unmatched }
}

struct View<'a> {
    facts: &'a Facts,
    choice: &'a Choice,
}

impl View<'_> {
    fn hooked(&self, link: &Link) -> Hooked {
        let (v4, v6) = sources(self.facts, link.index);
        Hooked {
            index: link.index,
            name: link.name.clone(),
            leads_to_pods: self.leads_to_pods(link),
            is_bare: link.is_bare,
            shortens: self.shortens(link),
            v4,
            v6,
        }
    }

    fn wants(&self, link: &Link) -> bool {
        if !link.carries_packets() {
            return false;
        }
        if self.choice.devices.names(&link.name) {
            return true;
        }
        if self.is_of_pods(link) {
            return match &self.choice.pod_devices {
                Selection::Auto => true,
                Selection::None => false,
                Selection::Names(_) => self.choice.pod_devices.lists(&link.name),
            };
        }
        match &self.choice.devices {
            Selection::Auto => self.is_of_node(link) && !self.is_covered(link),
            Selection::None => false,
            Selection::Names(_) => self.choice.devices.lists(&link.name),
        }
    }

    fn leads_to_pods(&self, link: &Link) -> bool {
        self.is_bridge_of_pods(link) || self.is_of_pods(link) && !self.choice.devices.names(&link.name)
    }

    /// Packets that are handed to a pod past its device must come out in another network namespace; of what is a port, its
    /// master decides.
    fn shortens(&self, link: &Link) -> bool {
        let is_pair = link.kind == Kind::Veth && link.is_peer_elsewhere;
        !link.is_bare && link.master.is_none() && (is_pair || !self.leads_to_pods(link))
    }

    /// A device of pods, by the user's word or by the facts.
    fn is_of_pods(&self, link: &Link) -> bool {
        self.choice.pod_devices.lists(&link.name)
            || self.choice.more_pods.as_ref().is_some_and(|pattern| pattern.matches(&link.name))
            || self.is_pod_end(link)
    }

    fn is_pod_end(&self, link: &Link) -> bool {
        let is_pair = matches!(link.kind, Kind::Veth | Kind::Netkit) && link.is_peer_elsewhere;
        let has_neighbours = || self.facts.node_addresses(link.index).any(Address::has_neighbours);
        is_pair && !self.facts.has_default_route(link.index) && !has_neighbours()
    }

    fn is_bridge_of_pods(&self, link: &Link) -> bool {
        link.kind == Kind::Bridge
            && !self.facts.has_default_route(link.index)
            && self.facts.ports(link.index).all(|port| self.is_of_pods(port))
    }

    /// Whether others reach the node through it, or the node them.
    fn is_of_node(&self, link: &Link) -> bool {
        link.carries_packets()
            && (self.facts.has_default_route(link.index)
                || self.facts.node_addresses(link.index).next().is_some())
    }

    /// Whether all that it carries passes another device that is wanted.
    fn is_covered(&self, link: &Link) -> bool {
        let above = |link: &&Link| self.facts.link(link.master?);
        std::iter::successors(Some(link), above)
            .skip(1)
            .take(DEPTH)
            .take_while(|master| master.kind != Kind::Vrf)
            .any(|master| self.is_of_node(master))
    }
}
