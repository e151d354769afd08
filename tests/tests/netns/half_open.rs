//! A connection of which the far end is gone without a word: only the socket's own options can tell.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use shunt::model::Listing;
use shunt::source::Batch;
use shunt::source::kube::{Access, Bounds, Connection, Identity, Kube};
use tests::apiserver::{ApiServer, NODES};
use tests::netns::Netns;
use tests::wait;
use tokio::sync::mpsc;

const NODE: &str = "node-1";
const SERVER: &str = "198.51.100.1";
const CLIENT: &str = "198.51.100.2";
const LIMIT: Duration = Duration::from_secs(20);
/// Linux counts the parts of it in whole seconds.
const KEEPALIVE: Duration = Duration::from_secs(6);
const FOR_EVER: Duration = Duration::from_hours(1);

/// A source, and the far end of its channel, which must not be closed.
struct Followed {
    kube: Kube,
    _batches: mpsc::Receiver<Batch>,
}

impl Followed {
    /// Nothing but the keepalive bounds how long it waits.
    fn start(netns: &Netns, server: &ApiServer, keepalive: Duration) -> Self {
        let bounds =
            Bounds { answer: FOR_EVER, silence: FOR_EVER, connect: FOR_EVER, keepalive, ..Bounds::default() };
        let nobody = Identity::ServiceAccount(PathBuf::from("/absent"));
        let access = Access::resolve(&[server.url()], nobody).unwrap();
        let (sender, batches) = mpsc::channel(64);
        let kube = netns.inside(|| Kube::follow(access, bounds, NODE, sender)).unwrap().unwrap();
        let followed = Self { kube, _batches: batches };
        wait::until(LIMIT, "all to be followed", || {
            let all = [Listing::Services, Listing::EndpointSlices, Listing::Node, Listing::ServiceCidrs];
            let is_followed = |listing| followed.watch(listing).watching_since.is_some();
            Ok(all.into_iter().all(is_followed).then_some(()))
        })
        .unwrap();
        followed
    }

    fn watch(&self, listing: Listing) -> Connection {
        self.kube.connections().get(listing).unwrap_or_default()
    }
}

#[test]
fn a_server_whose_packets_are_dropped_is_noticed_by_the_keepalive() {
    let (near, far) = (Netns::create("near").unwrap(), Netns::create("far").unwrap());
    near.veth("eth0", &far, "eth0").unwrap();
    near.add_address("eth0", CLIENT.parse().unwrap(), 24).unwrap();
    far.add_address("eth0", SERVER.parse().unwrap(), 24).unwrap();
    let server = far.inside(|| ApiServer::start_at(SERVER.parse().unwrap())).unwrap().unwrap();
    server.put(NODES, json!({ "metadata": { "name": NODE } }));
    let probed = Followed::start(&near, &server, KEEPALIVE);
    // The control: the same without probes within the time of the test.
    let unprobed = Followed::start(&near, &server, FOR_EVER);

    let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; policy drop; }};");
    far.run("nft", &[&format!("table inet gone {{ {} {} }}", chain("input"), chain("output"))]).unwrap();
    let since = Instant::now();
    let lost = || Ok(probed.watch(Listing::Services).lost_since.map(drop));
    wait::until(KEEPALIVE * 3, "the loss to be noticed", lost).unwrap();
    let took = since.elapsed();
    assert!(took > KEEPALIVE / 2 && took < KEEPALIVE * 2, "{took:?}");
    let error = probed.watch(Listing::Services).last_error.unwrap();
    assert!(error.contains("timed out"), "{error}");
    std::thread::sleep((KEEPALIVE * 2).saturating_sub(since.elapsed()));
    let watch = unprobed.watch(Listing::Services);
    assert!(watch.lost_since.is_none() && watch.faults == 0, "{watch:?}");

    far.run("nft", &["delete table inet gone"]).unwrap();
    let back = || Ok(probed.watch(Listing::Services).watching_since.map(drop));
    wait::until(LIMIT, "the server to be followed again", back).unwrap();
}
