//! The addresses of a node's interfaces: those of the namespace that the source was opened in, and their changes.

use std::net::IpAddr;
use std::time::Duration;

use shunt::model::{Event, Listing};
use shunt::source::Batch;
use shunt::source::node::NodeAddresses;
use tests::netns::Netns;
use tokio::sync::mpsc::{self, Receiver};

const LIMIT: Duration = Duration::from_secs(10);

async fn next(batches: &mut Receiver<Batch>) -> Vec<Event> {
    tokio::time::timeout(LIMIT, batches.recv()).await.unwrap().unwrap().events
}

/// Waits for all of these addresses, IPv6 link-local ones aside: they come when they like.
async fn until(batches: &mut Receiver<Batch>, expected: &[&str]) {
    let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
    let is_stable = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut last = Vec::new();
    tokio::time::timeout(LIMIT, async {
        while last != expected {
            last = match &next(batches).await[..] {
                [Event::NodeAddresses(all)] => all.iter().copied().filter(is_stable).collect(),
                other => panic!("{other:?}"),
            };
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{expected:?} did not come"));
}

#[test]
fn addresses_are_followed_where_the_source_was_opened() {
    let (netns, far) = (Netns::create("addresses").unwrap(), Netns::create("far").unwrap());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    netns
        .inside(|| {
            runtime().block_on(async {
                let (sender, mut batches) = mpsc::channel(8);
                let _source = NodeAddresses::follow(sender).unwrap();
                let loopback = ["127.0.0.1", "::1"].map(|text| text.parse().unwrap()).to_vec();
                let listing = Listing::NodeAddresses;
                let expected =
                    [Event::ListStarted(listing), Event::NodeAddresses(loopback), Event::ListEnded(listing)];
                assert_eq!(next(&mut batches).await, expected);

                netns.veth("d0", &far, "d0").unwrap();
                netns.add_address("d0", "10.0.0.1".parse().unwrap(), 24).unwrap();
                until(&mut batches, &["10.0.0.1", "127.0.0.1", "::1"]).await;
                netns.add_address("d0", "fd00::1".parse().unwrap(), 64).unwrap();
                until(&mut batches, &["10.0.0.1", "127.0.0.1", "::1", "fd00::1"]).await;
                netns.ip("address add 10.1.0.1 peer 10.1.0.2 dev d0").unwrap();
                until(&mut batches, &["10.0.0.1", "10.1.0.1", "127.0.0.1", "::1", "fd00::1"]).await;

                // What kube-proxy keeps on its interface is not the node's, unless it is on another one too.
                for line in [
                    "link add kube-ipvs0 type bridge",
                    "address add 10.96.0.10/32 dev kube-ipvs0",
                    "address add 10.0.0.1/32 dev kube-ipvs0",
                    "address add 10.3.0.1/32 dev d0",
                ] {
                    netns.ip(line).unwrap();
                }
                let own = ["10.0.0.1", "10.1.0.1", "10.3.0.1", "127.0.0.1", "::1", "fd00::1"];
                until(&mut batches, &own).await;
                netns.ip("link del kube-ipvs0").unwrap();

                // The kernel drops notices when they come too fast; the last state must arrive all the same.
                let adds =
                    (0..2000).map(|it| format!("address add 10.2.{}.{}/32 dev d0", it / 250, it % 250 + 1));
                netns.ip_batch(&adds.collect::<Vec<_>>()).unwrap();
                netns.ip("link del d0").unwrap();
                until(&mut batches, &["127.0.0.1", "::1"]).await;
            });
        })
        .unwrap();
}
