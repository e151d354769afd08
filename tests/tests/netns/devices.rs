//! The devices of a node as its agent follows them: those that are wanted in the namespace that the follower was started
//! in, and their changes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shunt::devices::{Choice, Follower, Hooked};
use tests::netns::Netns;
use tokio::sync::mpsc::{self, Receiver};

const LIMIT: Duration = Duration::from_secs(10);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Name, `pods` if it leads there, and the sources.
fn line(device: &Hooked) -> String {
    let pods = if device.leads_to_pods { " pods" } else { "" };
    let sources = device.v4.map(IpAddr::V4).into_iter().chain(device.v6.map(IpAddr::V6));
    let start = format!("{}{pods}", device.name);
    sources.fold(start, |line, ip| format!("{line} {ip}"))
}

/// Waits until the list is this one; lists on the way there may hold part of it.
async fn until(lists: &mut Receiver<Vec<Hooked>>, expected: &[&str]) -> Vec<Hooked> {
    let mut last = Vec::new();
    let wait = async {
        loop {
            last = lists.recv().await.expect("the follower has ended");
            if last.iter().map(line).eq(expected.iter().copied()) {
                return;
            }
        }
    };
    let outcome = tokio::time::timeout(LIMIT, wait).await;
    assert!(outcome.is_ok(), "{expected:?} did not come, but {last:?}");
    last
}

/// Nothing comes for a while in which something would have.
async fn silence(lists: &mut Receiver<Vec<Hooked>>) {
    let came = tokio::time::timeout(Duration::from_millis(200), lists.recv()).await;
    assert!(came.is_err(), "{came:?}");
}

#[test]
fn devices_are_followed_where_the_follower_was_started() {
    let (node, world) = (Netns::create("devices").unwrap(), Netns::create("world").unwrap());
    let pods = ["pod_a", "pod_b"].map(|label| Netns::create(label).unwrap());
    let follow = || async {
        let (sender, mut lists) = mpsc::channel(8);
        let _follower = Follower::follow(Choice::default(), sender).unwrap();
        until(&mut lists, &[]).await;

        // Between its making and its address a card that is an end of a pair looks like a pod's.
        node.veth("eth0", &world, "port").unwrap();
        node.add_address("eth0", "192.0.2.7".parse().unwrap(), 24).unwrap();
        until(&mut lists, &["eth0 192.0.2.7"]).await;
        node.ip("address add 192.0.2.8/24 dev eth0").unwrap();
        silence(&mut lists).await;
        node.ip("address delete 192.0.2.7/24 dev eth0").unwrap();
        node.ip("address add 198.51.100.7/24 dev eth0").unwrap();
        until(&mut lists, &["eth0 198.51.100.7"]).await;

        // By its default route alone it is a card too, which is heard of by the route.
        node.ip("address delete 198.51.100.7/24 dev eth0").unwrap();
        node.ip("address add 192.0.2.7/32 dev eth0").unwrap();
        until(&mut lists, &["eth0 pods 192.0.2.7"]).await;
        node.add_route("default dev eth0").unwrap();
        until(&mut lists, &["eth0 192.0.2.7"]).await;
        node.ip("route add 203.0.113.0/24 dev eth0").unwrap();
        silence(&mut lists).await;

        // A pod routed, and a pod on a bridge.
        node.veth("veth1", &pods[0], "eth0").unwrap();
        until(&mut lists, &["eth0 192.0.2.7", "veth1 pods 192.0.2.7"]).await;
        node.ip("link add cni0 type bridge").unwrap();
        node.ip("address add 10.244.1.1/24 dev cni0").unwrap();
        node.veth("veth2", &pods[1], "eth0").unwrap();
        node.ip("link set veth2 master cni0").unwrap();
        let all = ["eth0 192.0.2.7", "veth1 pods 192.0.2.7", "cni0 pods 10.244.1.1", "veth2 pods 192.0.2.7"];
        let list = until(&mut lists, &all).await;
        let shown = node.ip("-o link show veth2").unwrap();
        assert_eq!(shown.split_once(':').unwrap().0, list[3].index.to_string());

        // A port that is no pod's makes it a bridge to anywhere.
        node.ip("link add plain type veth peer name far").unwrap();
        node.ip("link set plain master cni0").unwrap();
        until(&mut lists, &[all[0], all[1], "cni0 10.244.1.1", all[3]]).await;
        node.ip("link delete plain").unwrap();
        until(&mut lists, &all).await;
        node.ip("link delete veth1").unwrap();
        until(&mut lists, &[all[0], all[2], all[3]]).await;
        // Its routes go without a word.
        node.ip("link set eth0 down").unwrap();
        until(&mut lists, &["eth0 pods 192.0.2.7", "cni0 pods 10.244.1.1", "veth2 pods 192.0.2.7"]).await;
        node.ip("link delete cni0").unwrap();
        node.ip("link delete eth0").unwrap();
        node.ip("link delete veth2").unwrap();
        until(&mut lists, &[]).await;
    };
    node.inside(|| runtime().block_on(follow())).unwrap();
}

#[test]
fn a_pods_device_is_known_within_milliseconds_also_among_many() {
    const PODS: usize = 60;
    let (node, pod) = (Netns::create("devices").unwrap(), Netns::create("pod").unwrap());
    let add = |number: usize| {
        node.ip(&format!("link add veth{number} type veth peer name e{number} netns {}", pod.name()))
            .unwrap();
        Instant::now()
    };
    let follow = || async {
        let (sender, mut lists) = mpsc::channel(8);
        let _follower = Follower::follow(Choice::default(), sender).unwrap();
        let mut known = until(&mut lists, &[]).await;
        let mut waits = Vec::new();
        for number in 0..PODS {
            let made = add(number);
            while known.len() != number + 1 {
                known = tokio::time::timeout(LIMIT, lists.recv()).await.unwrap().unwrap();
            }
            waits.push(made.elapsed());
        }
        waits.sort_unstable();
        println!("after `ip` has ended: median {:?}, longest {:?}", waits[PODS / 2], waits[PODS - 1]);
        assert!(waits[PODS / 2] < Duration::from_millis(20), "{waits:?}");

        // The kernel drops notices when they come too fast; the last state must arrive all the same.
        let lines =
            (0..500).flat_map(|it| [format!("link add b{it} type bridge"), format!("link delete b{it}")]);
        let lines: Vec<String> = lines.chain(["link add last type bridge".to_owned()]).collect();
        node.ip_batch(&lines).unwrap();
        node.ip("address add 10.244.1.1/24 dev last").unwrap();
        tokio::time::timeout(LIMIT, async {
            while known.last().map(line).as_deref() != Some("last pods 10.244.1.1") {
                known = lists.recv().await.unwrap();
            }
        })
        .await
        .unwrap();
        assert_eq!(known.len(), PODS + 1);
    };
    node.inside(|| runtime().block_on(follow())).unwrap();
}

#[test]
fn names_choose_devices_and_one_that_comes_later_is_taken() {
    let (node, far) = (Netns::create("devices").unwrap(), Netns::create("far").unwrap());
    let choice = Choice {
        devices: "late0,net*".parse().unwrap(),
        pod_devices: "none".parse().unwrap(),
        more_pods: None,
    };
    let follow = || async {
        let (sender, mut lists) = mpsc::channel(8);
        let _follower = Follower::follow(choice.clone(), sender).unwrap();
        until(&mut lists, &[]).await;
        node.veth("eth0", &far, "p0").unwrap();
        node.add_address("eth0", "192.0.2.7".parse().unwrap(), 24).unwrap();
        silence(&mut lists).await;
        node.ip("link add late0 type bridge").unwrap();
        until(&mut lists, &["late0 pods 192.0.2.7"]).await;
        node.ip("link add net7 type bridge").unwrap();
        until(&mut lists, &["late0 pods 192.0.2.7", "net7 pods 192.0.2.7"]).await;
        node.ip("link set net7 name else7").unwrap();
        until(&mut lists, &["late0 pods 192.0.2.7"]).await;
    };
    node.inside(|| runtime().block_on(follow())).unwrap();
}
