//! Clients of UDP that keep one socket while the backend of their Service is another: beside kube-proxy.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::cluster::Api;
use tests::cluster::objects::{Ref, SLICE};
use tests::load::{Servers, Talker};
use tests::topology::{Cluster, Node, Pod};

use crate::pair::{ConfigFile, cluster, configuration, start};

const PORT: u16 = 53;
const BACKEND_PORT: u16 = 5353;
const VIPS: [&str; 2] = ["10.96.7.53", "fd00:10:96::753"];
/// Within which a client of ours must have followed.
const PROMISED: Duration = Duration::from_secs(1);
/// How long a client is looked at: kube-proxy writes once a second.
const LIMIT: Duration = Duration::from_secs(8);

fn create(api: &Api, backend: &Pod) {
    api.create(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "default", "name": "names" },
        "spec": {
            "clusterIP": VIPS[0], "clusterIPs": VIPS, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "protocol": "UDP", "port": PORT, "targetPort": BACKEND_PORT }],
        },
    }))
    .unwrap();
    for (family, ip) in ["IPv4", "IPv6"].into_iter().zip([backend.v4, backend.v6]) {
        api.create(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("names-{}", family.to_lowercase()),
                "labels": { "kubernetes.io/service-name": "names" },
            },
            "addressType": family, "ports": [{ "name": "", "protocol": "UDP", "port": BACKEND_PORT }],
            "endpoints": endpoints(ip),
        }))
        .unwrap();
    }
}

fn endpoints(ip: IpAddr) -> Value {
    json!([{ "addresses": [ip], "conditions": { "ready": true } }])
}

fn list(api: &Api, backend: &Pod) {
    for (name, ip) in ["names-ipv4", "names-ipv6"].into_iter().zip([backend.v4, backend.v6]) {
        let slice = Ref { kind: SLICE, namespace: Some("default"), name };
        api.patch(&slice, json!({ "endpoints": endpoints(ip) })).unwrap();
    }
}

/// A client, who it is, and what it saw last.
struct Client {
    who: String,
    talker: Talker,
    local: Option<SocketAddr>,
}

fn clients(node: &Node) -> Vec<Client> {
    let mut clients = Vec::new();
    for (place, name) in [(node.pods[0].place(), "pod"), (node.host(), "host")] {
        for vip in VIPS {
            for (kind, options) in
                [("connected", &["--timeout", "200"][..]), ("free", &["--timeout", "200", "--free"])]
            {
                let target = SocketAddr::new(vip.parse().unwrap(), PORT);
                let talker = place.talker(target, options).unwrap();
                clients.push(Client { who: format!("{name}, {kind}, {vip}"), talker, local: None });
            }
        }
    }
    clients
}

/// Asks until `wanted` answers: how long that took, and how many datagrams got no answer after its first.
fn follow(client: &mut Client, wanted: &Pod, event: Instant) -> Option<(Duration, u32)> {
    let mut took = None;
    let mut lost = 0;
    for _ in 0..10_000 {
        let report = client.talker.ask().unwrap();
        let is_served = report.name.as_deref() == Some(&*wanted.name);
        if took.is_some() {
            lost += u32::from(!is_served);
        } else if is_served {
            took = Some(event.elapsed());
        } else if event.elapsed() > LIMIT {
            return None;
        }
        if let Some(took) = took
            && event.elapsed() > took + Duration::from_millis(200)
        {
            assert!(
                client.local.is_none_or(|local| Some(local) == report.local),
                "{}: another port",
                client.who
            );
            client.local = report.local;
            return Some((took, lost));
        }
        sleep(Duration::from_millis(2));
    }
    None
}

/// Seconds until each client of a node has followed.
fn watch(
    node: &Node,
    clients: &mut [Client],
    (wanted, event): (&Pod, Instant),
) -> Vec<Option<(Duration, u32)>> {
    let all: Vec<_> = std::thread::scope(|scope| {
        let each: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(move || follow(client, wanted, event))).collect();
        each.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (client, outcome) in clients.iter().zip(&all) {
        match outcome {
            Some((took, lost)) => {
                println!("{}, {}: {} after {took:?}, {lost} lost then", node.name, client.who, wanted.name);
            }
            None => println!("{}, {}: not {} within {LIMIT:?}", node.name, client.who, wanted.name),
        }
    }
    all
}

#[test]
fn clients_that_keep_a_socket_follow_within_a_second() {
    let topology = Cluster::new(2, 2).unwrap();
    let control = cluster(&topology);
    let api = control.api().unwrap();
    let backends = [topology.pod(1, 2), topology.pod(2, 2)];
    let _servers: Vec<Servers> = backends
        .iter()
        .map(|pod| {
            let mut servers = pod.place().serve([]).unwrap();
            for ip in [pod.v4, pod.v6] {
                servers.open_udp(SocketAddr::new(ip, BACKEND_PORT), &pod.name).unwrap();
            }
            servers
        })
        .collect();
    create(api, backends[0]);
    let nodes = [topology.node(1), topology.node(2)];
    let file = ConfigFile::new(&configuration(&control, nodes[0]));
    let (_agent, _proxy) = start(&control, nodes, &file);
    let mut all = nodes.map(clients);
    for (node, clients) in nodes.iter().zip(&mut all) {
        let began = watch(node, clients, (backends[0], Instant::now()));
        assert!(began.iter().all(Option::is_some), "{} serves nobody", node.name);
    }
    for wanted in [backends[1], backends[0]] {
        list(api, wanted);
        let event = Instant::now();
        let [ours, theirs] = &mut all;
        let (ours, _theirs) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| watch(nodes[1], theirs, (wanted, event)));
            (watch(nodes[0], ours, (wanted, event)), theirs.join().unwrap())
        });
        for outcome in ours {
            let (took, lost) = outcome.expect("a client of ours that does not follow");
            assert!(took <= PROMISED && lost == 0, "{took:?}, {lost} lost");
        }
    }
}
