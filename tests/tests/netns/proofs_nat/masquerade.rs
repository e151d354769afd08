//! A plug-in that masquerades by itself: netfilter's own SNAT in postrouting, for what comes from outside to pods of
//! other nodes, over VXLAN. Ours finds no flow of the new source and leaves it alone, in both directions.
//!
//! A client behind node 1; a pod of node 2 behind the overlay, and a backend on the host of node 2, which no plug-in
//! masquerades for. Node 2 knows no way to the client.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use tests::netns::Netns;
use tests::topology::Cluster;

use super::nat::layout::counter;
use super::nat::{Hook, Nat};
use super::{PORT, listening, vips};
use crate::overlay;
use crate::traffic::{Client, Server, Way, exchange};
use crate::wire;
use crate::witness::{Flow, Rules, Witness};

/// The overlay's addresses on node 1.
const OVERLAY_ADDRESSES: [&str; 2] = ["10.244.1.0", "fd00:10:244:1::"];
/// The port at which the VIPs lead to the host of node 2.
const HOST_PORT: u16 = 81;

/// A plug-in's rules in the manner of flannel's.
const MASQUERADE: &str = "table inet plugin {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.244.0.0/16 return
        ip6 saddr fd00:10:244::/48 return
        ip daddr 10.244.0.0/16 masquerade fully-random
        ip6 daddr fd00:10:244::/48 masquerade fully-random
    }
}";

/// Who gives a packet to the overlay its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Plugin,
    Us,
    Nobody,
}

struct Scene {
    nat: Nat,
    _servers: [Server; 2],
    client: Netns,
    cluster: Cluster,
}

impl Scene {
    /// Ours is told to change the source on both devices in any case but the last.
    fn new(by: By) -> Result<Self> {
        let cluster = Cluster::new(2, 1)?;
        let (node, far) = (cluster.node(1), cluster.node(2));
        overlay::lay(&cluster)?;
        let client = Netns::create("client")?;
        wire::wire(&node.netns, &client)?;
        if by == By::Plugin {
            node.netns.run("nft", &[MASQUERADE])?;
        }
        let pod = cluster.pod(2, 1);
        let (pods, hosts) = (listening([pod.v4, pod.v6]), listening(far.addresses()));
        let servers = [Server::start(&pod.netns, &pods)?, Server::start(&far.netns, &hosts)?];
        let mut nat = Nat::load()?;
        for ((vip, pod), host) in vips().into_iter().zip(pods).zip(hosts) {
            nat.serve(SocketAddr::new(vip, PORT), pod)?;
            nat.serve(SocketAddr::new(vip, HOST_PORT), host)?;
        }
        for device in ["ext0", "eth0", overlay::DEVICE] {
            nat.attach(&node.netns, device, &[Hook::Ingress, Hook::Egress])?;
        }
        for (own, inner) in node.addresses().into_iter().zip(OVERLAY_ADDRESSES) {
            nat.masquerade(&node.netns, "eth0", own)?;
            if by != By::Nobody {
                nat.masquerade(&node.netns, overlay::DEVICE, inner.parse()?)?;
            }
        }
        Ok(Self { nat, _servers: servers, client, cluster })
    }

    fn exchange(&self, (vip, port): (IpAddr, u16), way: Way) -> Result<Client> {
        exchange(&self.client, SocketAddr::new(vip, port), way)
    }
}

/// Every exchange with the pod comes through, and is seen as coming from the overlay's address of node 1.
fn check_overlay(scene: &Scene) {
    for (vip, own) in vips().into_iter().zip(OVERLAY_ADDRESSES) {
        for way in Way::BOTH {
            let seen = scene.exchange((vip, PORT), way).unwrap();
            assert_eq!(seen.seen.ip(), own.parse::<IpAddr>().unwrap(), "{way:?} to {vip}");
        }
    }
}

#[test]
fn ours_leaves_alone_what_the_plug_in_masquerades_and_serves_the_rest() {
    let scene = Scene::new(By::Plugin).unwrap();
    let witness = Witness::start(&scene.cluster.node(1).netns, Rules::Watch).unwrap();
    check_overlay(&scene);
    assert_eq!(scene.nat.count(counter::SNAT), 0, "ours has changed a source that was changed already");
    assert_eq!(scene.nat.count(counter::UN_SNAT), 0);
    for (vip, node) in vips().into_iter().zip(scene.cluster.node(1).addresses()) {
        for way in Way::BOTH {
            let seen = scene.exchange((vip, HOST_PORT), way).unwrap();
            assert_eq!(seen.seen.ip(), node, "{way:?} to {vip}");
        }
    }
    assert!(scene.nat.count(counter::SNAT) > 0 && scene.nat.count(counter::UN_SNAT) > 0);
    assert_eq!(scene.nat.count(counter::FAILED), 0);
    check_tracked(&scene, &witness);
}

/// Connection tracking has the client and the pod, and the plug-in's source where the answers go; never the VIP.
fn check_tracked(scene: &Scene, witness: &Witness<'_>) {
    let pod = scene.cluster.pod(2, 1);
    let told = [witness.told(|flow| flow.is_replied).unwrap(), witness.listed().unwrap()].concat();
    for (at, client) in wire::clients().into_iter().enumerate() {
        let backend = [pod.v4, pod.v6][at];
        let inner: IpAddr = OVERLAY_ADDRESSES[at].parse().unwrap();
        for way in Way::BOTH {
            let is_ours = |flow: &Flow| {
                flow.protocol == way.protocol()
                    && flow.original == (client, backend)
                    && flow.reply == (backend, inner)
                    && flow.is_replied
            };
            assert!(told.iter().any(is_ours), "{way:?} from {client}: {told:?}");
        }
    }
    let vips = vips();
    let names_vip = |flow: &&Flow| {
        let ends = [flow.original.0, flow.original.1, flow.reply.0, flow.reply.1];
        ends.iter().any(|end| vips.contains(end))
    };
    assert_eq!(told.iter().find(names_vip), None);
    assert_eq!(witness.invalid_forwarded().unwrap(), 0);
    assert_eq!(witness.invalid_tracked().unwrap(), 0);
}

#[test]
fn ours_changes_the_source_on_the_overlay_where_no_plug_in_does() {
    let scene = Scene::new(By::Us).unwrap();
    check_overlay(&scene);
    assert!(scene.nat.count(counter::SNAT) > 0 && scene.nat.count(counter::UN_SNAT) > 0);
    assert_eq!(scene.nat.count(counter::FAILED), 0);
}

/// The control: somebody has to.
#[test]
fn nothing_comes_back_over_the_overlay_where_nobody_changes_the_source() {
    let scene = Scene::new(By::Nobody).unwrap();
    for vip in vips() {
        let outcome = scene.exchange((vip, PORT), Way::Udp);
        assert!(outcome.is_err(), "{outcome:?}");
    }
}
