//! Health checks of Services (`healthCheckNodePort`), as the prober of a load balancer asks for them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use tests::agent::Agent;
use tests::agent::ask::ask_at;
use tests::manifests::ManifestDir;
use tests::netns::Netns;
use tests::topology::{Cluster, Node};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(20);
const NUMBER: u16 = 31_000;

/// Two nodes, manifests, and somebody outside of the nodes who asks.
struct Site {
    cluster: Cluster,
    manifests: ManifestDir,
    prober: Netns,
}

/// What of the Service differs from test to test.
#[derive(Clone, Copy)]
struct Balanced {
    kind: &'static str,
    policy: &'static str,
    number: u16,
}

const LOCAL: Balanced = Balanced { kind: "LoadBalancer", policy: "Local", number: NUMBER };

impl Site {
    fn new() -> Self {
        let cluster = Cluster::new(2, 2).unwrap();
        let manifests = ManifestDir::create().unwrap();
        manifests.write_cluster(&cluster).unwrap();
        let prober = Netns::create("prober").unwrap();
        cluster.plug(&prober, 9).unwrap();
        let site = Self { cluster, manifests, prober };
        site.write(LOCAL);
        site
    }

    fn write(&self, balanced: Balanced) {
        let Balanced { kind, policy, number } = balanced;
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\n\
             spec:\n  type: {kind}\n  clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, \"fd00:10:96::10\"]\n\
             \x20 ipFamilies: [IPv4, IPv6]\n  externalTrafficPolicy: {policy}\n  healthCheckNodePort: {number}\n\
             \x20 ports: [{{port: 80, nodePort: 30080}}]\n"
        );
        self.manifests.write("web.yaml", &text).unwrap();
    }

    /// Lists endpoints, each with its node and conditions.
    fn list(&self, family: usize, endpoints: &[(IpAddr, &str, &str)]) {
        let family = ["IPv4", "IPv6"][family];
        let endpoint = |(ip, node, conditions): &(IpAddr, &str, &str)| {
            format!("- {{addresses: [\"{ip}\"], nodeName: {node}, conditions: {{{conditions}}}}}\n")
        };
        let endpoints = endpoints.iter().map(endpoint).collect::<Vec<_>>().concat();
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: shop, name: web-{family}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: {family}\nports: [{{port: 8080}}]\nendpoints:\n{endpoints}"
        );
        self.manifests.write(&format!("web-{family}.yaml"), &text).unwrap();
    }

    fn agents(&self) -> Vec<Agent<'_>> {
        self.cluster.nodes.iter().map(|node| Agent::start(node, self.manifests.path()).unwrap()).collect()
    }

    /// Waits until the node says so, and in that family.
    #[track_caller]
    fn tells(&self, (node, family): (&Node, usize), number: u16, wanted: (u16, usize)) {
        let address = SocketAddr::new(node.addresses()[family], number);
        wait::until_ok(LIMIT, &format!("{address} to tell {wanted:?}"), || {
            let answer = ask_at(&self.prober, address).map_err(|error| format!("{error:#}"))?;
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let told = (answer.code, body["localEndpoints"].as_u64().unwrap() as usize);
            let weight = format!("X-Load-Balancing-Endpoint-Weight: {}\r\n", told.1);
            assert!(format!("{}\r\n", answer.head).contains(&weight), "{}", answer.head);
            assert_eq!(body["service"], serde_json::json!({ "namespace": "shop", "name": "web" }));
            if told == wanted { Ok(()) } else { Err(format!("{answer}")) }
        })
        .unwrap();
    }

    /// Waits until nobody answers there.
    #[track_caller]
    fn refuses(&self, node: &Node, number: u16) {
        for address in node.addresses().map(|ip| SocketAddr::new(ip, number)) {
            wait::until_ok(LIMIT, &format!("{address} to refuse"), || match ask_at(&self.prober, address) {
                Ok(answer) => Err(format!("{answer}")),
                Err(error) if is_refusal(&error) => Ok(()),
                Err(error) => Err(format!("{error:#}")),
            })
            .unwrap();
        }
    }
}

fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

const READY: &str = "ready: true";
const DRAINING: &str = "ready: false, serving: true, terminating: true";

#[test]
fn each_node_tells_its_own_endpoints_in_each_family() {
    let site = Site::new();
    let (one, two) = (site.cluster.node(1), site.cluster.node(2));
    let pods = [site.cluster.pod(1, 1), site.cluster.pod(1, 2)];
    site.list(0, &pods.map(|pod| (pod.v4, "node-1", READY)));
    site.list(1, &[(pods[0].v6, "node-1", READY)]);
    let mut agents = site.agents();
    site.tells((one, 0), NUMBER, (200, 2));
    site.tells((one, 1), NUMBER, (200, 1));
    site.tells((two, 0), NUMBER, (503, 0));
    site.tells((two, 1), NUMBER, (503, 0));

    // An endpoint that drains gets connections while there is no other, and the balancer is sent elsewhere.
    site.list(0, &pods.map(|pod| (pod.v4, "node-1", DRAINING)));
    site.tells((one, 0), NUMBER, (503, 0));
    site.tells((one, 1), NUMBER, (200, 1));
    let dumped = agents[0].shunt(&["dump", "backends", "--service", "shop/web"]).unwrap();
    assert!(dumped.contains(&pods[0].v4.to_string()), "{dumped}");
    site.list(0, &[(pods[1].v4, "node-1", READY), (pods[0].v4, "node-2", READY)]);
    site.tells((one, 0), NUMBER, (200, 1));
    site.tells((two, 0), NUMBER, (200, 1));

    // The sockets are the agent's, whatever stays in force.
    agents[0].terminate().unwrap();
    site.refuses(one, NUMBER);
    agents[0].start_again().unwrap();
    site.tells((one, 0), NUMBER, (200, 1));
}

#[test]
fn it_comes_and_goes_with_policy_type_and_number() {
    let site = Site::new();
    let node = site.cluster.node(1);
    site.list(0, &[(site.cluster.pod(1, 1).v4, "node-1", READY)]);
    let agent = Agent::start(node, site.manifests.path()).unwrap();
    site.tells((node, 0), NUMBER, (200, 1));
    for other in [
        Balanced { policy: "Cluster", ..LOCAL },
        Balanced { kind: "NodePort", ..LOCAL },
        Balanced { number: 0, ..LOCAL },
    ] {
        site.write(other);
        site.refuses(node, NUMBER);
        site.write(LOCAL);
        site.tells((node, 0), NUMBER, (200, 1));
    }
    site.write(Balanced { number: NUMBER + 1, ..LOCAL });
    site.tells((node, 0), NUMBER + 1, (200, 1));
    site.refuses(node, NUMBER);
    assert_eq!(agent.progress().unwrap().health_checks.listening, 2);
    site.manifests.remove("web.yaml").unwrap();
    site.refuses(node, NUMBER + 1);
    assert_eq!(agent.progress().unwrap().health_checks.listening, 0);
}

#[test]
fn it_is_answered_where_node_ports_are() {
    let site = Site::new();
    let node = site.cluster.node(1);
    site.list(0, &[(site.cluster.pod(1, 1).v4, "node-1", READY)]);
    let loopback = SocketAddr::new([127, 0, 0, 1].into(), NUMBER);
    for (flag, on_loopback, outside) in
        [("primary", false, true), ("all", true, true), ("localhost", true, false)]
    {
        let arguments = ["--nodeport-addresses", flag];
        let mut agent = Agent::start_with(node, site.manifests.path(), &arguments).unwrap();
        if outside {
            site.tells((node, 0), NUMBER, (200, 1));
        } else {
            wait::until_ok(LIMIT, "loopback", || {
                ask_at(&node.netns, loopback).map_err(|error| error.to_string())
            })
            .unwrap();
            site.refuses(node, NUMBER);
        }
        let seen = ask_at(&node.netns, loopback);
        assert_eq!(seen.as_ref().is_ok_and(|answer| answer.code == 200), on_loopback, "{flag}: {seen:?}");
        assert_eq!(seen.as_ref().is_err_and(is_refusal), !on_loopback, "{flag}: {seen:?}");
        agent.terminate().unwrap();
    }
    // An address that comes later is listened on once it is there.
    let further: IpAddr = [172, 30, 0, 200].into();
    let arguments = ["--nodeport-addresses", "172.30.0.200/32"];
    let agent = Agent::start_with(node, site.manifests.path(), &arguments).unwrap();
    site.tells((node, 1), NUMBER, (503, 0));
    assert_eq!(agent.progress().unwrap().health_checks.listening, 1);
    node.netns.add_address("eth0", further, 24).unwrap();
    let address = SocketAddr::new(further, NUMBER);
    wait::until_ok(LIMIT, "the new address", || {
        ask_at(&site.prober, address).map_err(|error| error.to_string())
    })
    .unwrap();
    assert_eq!(agent.progress().unwrap().health_checks.failed.count, 0);
}

#[test]
fn a_number_that_somebody_has_is_told_and_taken_once_it_is_free() {
    let site = Site::new();
    let node = site.cluster.node(1);
    site.list(0, &[(site.cluster.pod(1, 1).v4, "node-1", READY)]);
    let holder = node.netns.inside(|| TcpListener::bind(("0.0.0.0", NUMBER)).unwrap()).unwrap();
    let agent = Agent::start(node, site.manifests.path()).unwrap();
    // The other family is free.
    site.tells((node, 1), NUMBER, (503, 0));
    let checks = agent.progress().unwrap().health_checks;
    let address = SocketAddr::new(node.addresses()[0], NUMBER);
    assert_eq!((checks.listening, checks.failed.count, checks.failed.first[0].address), (1, 1, address));
    let status = agent.shunt(&["status"]).unwrap();
    let line = format!("shop/web: listen on {address}: Address already in use");
    assert!(status.contains("1 health checks not answered") && status.contains(&line), "{status}");
    assert_eq!(agent.log().matches("cannot answer health checks").count(), 1, "{}", agent.log());
    drop(holder);
    site.tells((node, 0), NUMBER, (200, 1));
    // Beside a kube-proxy it is that one's.
    drop(agent);
    let arguments = ["--health-check-node-ports", "false"];
    let agent = Agent::start_with(node, site.manifests.path(), &arguments).unwrap();
    site.refuses(node, NUMBER);
    assert_eq!(agent.progress().unwrap().health_checks.failed.count, 0);
}
