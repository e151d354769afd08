//! kube-proxy on a node of the cluster: the control of every comparison with it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tests::cluster::objects::{Pod, Service};
use tests::cluster::{ControlPlane, KubeProxy, Options};
use tests::load::Place;
use tests::preflight::Preflight;
use tests::topology::{Cluster, Node};
use tests::wait;

const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// Connects often enough that a choice of two shows both but once in a million runs.
const TRIES: usize = 21;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn clients_reach_real_backends_through_its_rules() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = ControlPlane::start(&topology, &Options::default()).unwrap();
    let api = control.api().unwrap();
    api.create_namespace("shop").unwrap();
    let labels = [("app", "web")];
    let service =
        Service { namespace: "shop", name: "web", selector: &labels, port: PORT, target_port: BACKEND_PORT };
    let vips = api.create_service(&service).unwrap();
    let mut servers = Vec::new();
    for node in &topology.nodes {
        api.create_node(node, None).unwrap();
        let pod = &node.pods[1];
        let ips = [pod.v4, pod.v6];
        servers
            .push(pod.place().serve(ips.map(|ip| (SocketAddr::new(ip, BACKEND_PORT), &*pod.name))).unwrap());
        let object = Pod { namespace: "shop", name: &pod.name, node: &node.name, labels: &labels, ips: &ips };
        api.run_pod(&object).unwrap();
    }
    let (one, two) = (topology.pod(1, 2), topology.pod(2, 2));
    api.wait_ready_endpoints(&service.reference(), &[one.v4, one.v6, two.v4, two.v6]).unwrap();

    let node = topology.node(1);
    let clients = [node.pods[0].place(), node.host()];
    for (client, vip) in clients.iter().flat_map(|client| vips.iter().map(move |vip| (client, *vip))) {
        let report = client.get(SocketAddr::new(vip, PORT), &["--timeout", "300"]).unwrap();
        assert!(report.error.is_some(), "before kube-proxy runs: {report:?}");
    }
    let settings = json!({ "nftables": { "minSyncPeriod": "100ms" } });
    let proxy = KubeProxy::start(&control, node, "nftables", &settings).unwrap();
    assert!(node.netns.run("nft", &["list", "tables"]).unwrap().contains("kube-proxy"), "{}", proxy.log());
    let both: BTreeSet<String> = [&one.name, &two.name].map(String::clone).into();
    for (client, vip) in clients.iter().flat_map(|client| vips.iter().map(move |vip| (client, *vip))) {
        served_by(*client, vip, &both);
    }
    let first = Pod { namespace: "shop", name: &one.name, node: "node-1", labels: &labels, ips: &[] };
    api.set_ready(&first.reference(), false).unwrap();
    for (client, vip) in clients.iter().flat_map(|client| vips.iter().map(move |vip| (client, *vip))) {
        served_by(*client, vip, &[two.name.clone()].into());
    }
    checked(node, proxy);
}

/// `shunt check` tells a kube-proxy that runs from the rules of one that has gone.
fn checked(node: &Node, proxy: KubeProxy) {
    let running = Preflight::of(node).unwrap();
    let tables = "table ip kube-proxy, table ip6 kube-proxy";
    assert_eq!(running.about("kube-proxy in nftables").unwrap(), ("info", tables));
    assert_eq!(running.about("kube-proxy").unwrap().1, format!("runs here: pid {}", proxy.pid()));
    let taken = "127.0.0.1:10249 is taken by a kube-proxy (mode nftables)";
    assert_eq!(running.about("--metrics-address").unwrap(), ("warning", taken));
    assert_eq!(running.about("--healthz-address").unwrap().0, "warning");
    drop(proxy);
    let gone = Preflight::of(node).unwrap();
    assert_eq!((gone.code, gone.about("kube-proxy in nftables").unwrap()), (Some(1), ("warning", tables)));
    assert_eq!(gone.about("--metrics-address").unwrap().0, "ok");
}

/// Waits until connects to `vip` are answered by these pods, all of them and no others.
fn served_by(client: Place<'_>, vip: IpAddr, wanted: &BTreeSet<String>) {
    let target = SocketAddr::new(vip, PORT);
    wait::until_ok(LIMIT, &format!("{target} to be served by {wanted:?}"), || {
        let reports = (0..TRIES).map(|_| client.get(target, &["--timeout", "1000"]).unwrap());
        let seen: BTreeSet<String> =
            reports.map(|report| report.name.or(report.error).unwrap_or_default()).collect();
        if seen == *wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
}
