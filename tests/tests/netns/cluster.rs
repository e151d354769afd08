//! The small cluster by itself, without an agent: the control of every test that stands on it.

use std::net::SocketAddr;

use tests::topology::Cluster;

#[test]
fn everyone_reaches_every_pod_and_nobody_a_vip() {
    let cluster = Cluster::new(2, 2).unwrap();
    let pods: Vec<_> = cluster.nodes.iter().flat_map(|node| &node.pods).collect();
    let servers: Vec<_> = pods
        .iter()
        .map(|pod| {
            pod.place().serve([pod.v4, pod.v6].map(|ip| (SocketAddr::new(ip, 80), &*pod.name))).unwrap()
        })
        .collect();
    let hosts = cluster.nodes.iter().map(tests::topology::Node::host);
    for place in hosts.chain(pods.iter().map(|pod| pod.place())) {
        for pod in &pods {
            for (ip, options) in [(pod.v4, &[][..]), (pod.v4, &["--mapped"]), (pod.v6, &[])] {
                let report = place.get(SocketAddr::new(ip, 80), options).unwrap();
                assert_eq!(report.name.as_ref(), Some(&pod.name), "{report:?} from {}", place.netns.name());
            }
            let closed = place.get(SocketAddr::new(pod.v6, 81), &[]).unwrap();
            assert_eq!(closed.error.as_deref(), Some("ECONNREFUSED"), "{closed:?}");
        }
        let vip = place.get("10.96.0.10:80".parse().unwrap(), &["--timeout", "300"]).unwrap();
        assert!(vip.error.is_some(), "{vip:?}");
    }
    drop(servers);
}

#[test]
fn a_server_that_is_closed_under_load_is_noticed() {
    let cluster = Cluster::new(1, 2).unwrap();
    let (client, server) = (cluster.pod(1, 1), cluster.pod(1, 2));
    let target = SocketAddr::new(cluster.node(1).add_addresses(2, 1).unwrap()[0][0], 80);
    let mut servers = server.place().serve([(target, "one")]).unwrap();
    let load = client.place().connects(target, &["--count", "2000", "--read-every", "4"]).unwrap();
    let calm = { load }.wait(std::time::Duration::from_secs(30)).unwrap();
    assert_eq!((calm.connected, calm.failures(), calm.served["one"]), (2000, 0, 500), "{calm:?}");
    assert_eq!(calm.wrong_peer, 0);
    assert_eq!(servers.accepted().unwrap()["one"], 2000);

    let load = client.place().connects(target, &["--pause", "200"]).unwrap();
    servers.send_close(target, std::time::Duration::from_millis(50)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    servers.open(target, "two").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let torn = load.finish().unwrap();
    assert!(torn.failed["ECONNREFUSED"] > 0 && torn.connected > 0, "{torn:?}");
    assert!(servers.accepted().unwrap()["two"] > 0);
}
