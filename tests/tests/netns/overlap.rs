//! Addresses, ports and protocols that several have a claim to: who is served where, and who takes over.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::Agent;
use tests::load::{Place, Servers};
use tests::wait;

use crate::proofs_object::{App, Shell};
use crate::scenario::{BACKEND_PORT, PORT, Scenario};
use crate::shop::{
    CLUSTER_IPS, EXTERNAL_IPS, KINDS, LB_IPS, NODE_PORT, ask, at, clients, comes_to_be_unserved,
    comes_to_meet_both, endpoint, ingress, laid_over, list, looks, on_node, put, service, settles, slice,
    tcp, udp, write,
};

/// Cluster IPs of a second Service.
const RIVAL_IPS: [&str; 2] = ["10.96.0.71", "fd00:10:96::71"];
/// Port of its backend, which lies in the pod that is one of the first Service's.
const RIVAL_PORT: u16 = 8081;

/// Everything but the agent: the first Service, whose backends are listed on these nodes.
fn shop(nodes: &[usize]) -> Scenario {
    let scenario = Scenario::new();
    write(&scenario, json!({}), &ingress());
    list(&scenario, nodes);
    scenario
}

fn agent<'a>(scenario: &'a Scenario, arguments: &[&str]) -> Agent<'a> {
    Agent::start_with(scenario.cluster.node(1), scenario.manifests.path(), arguments).unwrap()
}

/// Starts servers of both protocols that answer `name`.
fn serve(place: Place<'_>, addresses: [SocketAddr; 2], name: &str) -> Servers {
    let mut servers = place.serve(addresses.map(|address| (address, name))).unwrap();
    for address in addresses {
        servers.open_udp(address, name).unwrap();
    }
    servers
}

/// The second Service's backend.
fn serve_rival(scenario: &Scenario) -> Servers {
    let pod = scenario.cluster.pod(1, 2);
    serve(pod.place(), [pod.v4, pod.v6].map(|ip| SocketAddr::new(ip, RIVAL_PORT)), "rival")
}

/// Writes the second Service, of type ClusterIP, with its slices.
fn write_rival(scenario: &Scenario, spec: Value) {
    let usual = json!({ "type": "ClusterIP", "clusterIP": RIVAL_IPS[0], "clusterIPs": RIVAL_IPS });
    let mut rival = service(laid_over(usual, spec), &json!([]));
    rival["metadata"]["name"] = json!("rival");
    put(scenario, &rival);
    for family in [0, 1] {
        let endpoints = vec![endpoint(scenario, family, (1, 2))];
        let ports = json!([tcp(RIVAL_PORT), udp(RIVAL_PORT)]);
        put(scenario, &slice(("rival", family), &ports, endpoints));
    }
}

/// The ports of a Service without a NodePort, at `number`.
fn plain_ports(number: u16) -> Value {
    json!(
        ["tcp", "udp"]
            .map(|name| { json!({ "name": name, "protocol": name.to_uppercase(), "port": number }) })
    )
}

#[test]
fn an_address_that_two_services_claim_is_one_of_theirs_and_then_the_others() {
    let scenario = shop(&[2]);
    let _servers = serve_rival(&scenario);
    let write_rival = || write_rival(&scenario, json!({ "ports": plain_ports(PORT) }));
    write_rival();
    let _agent = agent(&scenario, &[]);
    let [pod, host] = clients(&scenario);
    let shared = at(EXTERNAL_IPS, PORT);
    let all_get = |wanted: &str| {
        for (client, target, kind) in [(pod, shared[0], KINDS[0]), (host, shared[1], KINDS[1])] {
            settles(client, (target, kind), wanted);
        }
    };
    // Nobody promises which of them it is.
    let winner = ask(pod, shared[0], &[]).name.unwrap();
    all_get(&winner);
    for (target, name) in [(at(CLUSTER_IPS, PORT)[0], "pod-2-2"), (at(RIVAL_IPS, PORT)[0], "rival")] {
        settles(pod, (target, KINDS[0]), name);
    }
    let remove =
        |name: &str| scenario.manifests.remove(if name == "rival" { "rival.json" } else { "shop.json" });
    let write_again = |name: &str| {
        if name == "rival" { write_rival() } else { write(&scenario, json!({}), &ingress()) }
    };
    let loser = if winner == "rival" { "pod-2-2" } else { "rival" };
    remove(&winner).unwrap();
    all_get(loser);
    write_again(&winner);
    let own = if winner == "rival" { RIVAL_IPS } else { CLUSTER_IPS };
    wait::until(Duration::from_secs(5), "the first again", || Ok(ask(pod, at(own, PORT)[0], &[]).name))
        .unwrap();
    remove(loser).unwrap();
    all_get(&winner);
}

#[test]
fn protocols_that_share_a_number_have_endpoints_of_their_own() {
    let scenario = shop(&[]);
    // One Service port serves, and the other has nobody.
    let list = |ports: &[(Value, usize)]| {
        for family in [0, 1] {
            for (index, (port, node)) in ports.iter().enumerate() {
                let endpoints = vec![endpoint(&scenario, family, (*node, 2))];
                let mut slice = slice(("shop", family), &json!([port]), endpoints);
                // The first takes the place of the usual slice.
                if index > 0 {
                    slice["metadata"]["name"] = json!(format!("shop-{family}-{index}"));
                }
                put(&scenario, &slice);
            }
        }
    };
    let _agent = agent(&scenario, &[]);
    for (name, ports, wanted) in [
        ("tcp", vec![(tcp(BACKEND_PORT), 1)], ["pod-1-2", "ECONNREFUSED"]),
        ("udp", vec![(udp(BACKEND_PORT), 1)], ["ECONNREFUSED", "pod-1-2"]),
        ("both", vec![(udp(BACKEND_PORT), 1), (tcp(BACKEND_PORT), 2)], ["pod-2-2", "pod-1-2"]),
    ] {
        println!("{name}");
        list(&ports);
        for (client, (target, kind)) in looks(&scenario) {
            settles(client, (target, kind), wanted[usize::from(!kind.is_empty())]);
        }
    }
}

#[test]
fn one_service_port_may_lead_to_several_target_ports() {
    let scenario = shop(&[]);
    let _servers = serve_rival(&scenario);
    for family in [0, 1] {
        let endpoints = || vec![endpoint(&scenario, family, (1, 2))];
        put(&scenario, &slice(("shop", family), &json!([tcp(BACKEND_PORT), udp(BACKEND_PORT)]), endpoints()));
        // And one whose ports say nothing, or zero.
        let silent = json!([{ "name": "tcp", "protocol": "TCP" }, udp(0)]);
        for (name, ports) in [("more", json!([tcp(RIVAL_PORT), udp(RIVAL_PORT)])), ("silent", silent)] {
            let mut slice = slice(("shop", family), &ports, endpoints());
            slice["metadata"]["name"] = json!(format!("shop-{name}-{family}"));
            put(&scenario, &slice);
        }
    }
    let _agent = agent(&scenario, &[]);
    for (client, (target, kind)) in looks(&scenario) {
        let names: std::collections::BTreeSet<_> =
            (0..24).map(|_| ask(client, target, kind)).map(|seen| seen.name.unwrap()).collect();
        assert_eq!(names, ["pod-1-2", "rival"].map(str::to_owned).into(), "{target} {kind:?}");
    }
}

/// A socket that is not connected does not hear that nobody listens.
fn unless_unheard<'a>(kind: &[&str], wanted: &'a str) -> &'a str {
    if wanted == "ECONNREFUSED" && kind == KINDS[2] { "timeout" } else { wanted }
}

#[test]
fn a_node_port_holds_no_socket_shadows_one_and_gives_its_number_back_at_once() {
    let scenario = shop(&[2]);
    let _agent = agent(&scenario, &[]);
    let node = scenario.cluster.node(1);
    let [pod, host] = clients(&scenario);
    // That it can listen there shows that nobody else does.
    let _local = serve(host, on_node(&scenario, 1), "local");
    let all_get = |number: u16, wanted: &str| {
        for (client, kind) in [(pod, KINDS[0]), (host, KINDS[1]), (pod, KINDS[2]), (host, KINDS[0])] {
            for ip in node.addresses() {
                settles(client, (SocketAddr::new(ip, number), kind), unless_unheard(kind, wanted));
            }
        }
    };
    all_get(NODE_PORT, "pod-2-2");
    let mut ports = plain_ports(PORT);
    for port in [0, 1] {
        ports[port]["nodePort"] = json!(NODE_PORT + 1);
    }
    write(&scenario, json!({ "ports": ports }), &ingress());
    all_get(NODE_PORT + 1, "pod-2-2");
    all_get(NODE_PORT, "local");
    // What the host itself sends from such a port has nothing to do with it.
    let mut app = App::start(&node.netns, &node.cgroup, Shell::Bare).unwrap();
    let direct = SocketAddr::new(scenario.cluster.pod(2, 2).v4, BACKEND_PORT);
    let from = SocketAddr::new(node.addresses()[0], NODE_PORT + 1);
    assert_eq!(app.tell(&format!("dial out {direct} from {from}")).unwrap(), direct.to_string());
    scenario.manifests.remove("shop.json").unwrap();
    all_get(NODE_PORT + 1, "ECONNREFUSED");
}

#[test]
fn the_number_of_a_node_port_is_served_on_node_addresses_alone() {
    let scenario = shop(&[1]);
    let _agent = agent(&scenario, &["--nodeport-addresses", "all"]);
    for client in clients(&scenario) {
        for target in at(CLUSTER_IPS, NODE_PORT) {
            for kind in KINDS {
                assert_eq!(ask(client, target, kind).error.as_deref(), Some("ECONNREFUSED"), "{target}");
            }
        }
        for ips in [LB_IPS, EXTERNAL_IPS] {
            for (control, target) in at(ips, PORT).into_iter().zip(at(ips, NODE_PORT)) {
                assert_eq!(ask(client, control, &[]).name.as_deref(), Some("pod-1-2"));
                for kind in KINDS {
                    let report = ask(client, target, kind);
                    assert!(report.name.is_none(), "{report:?}");
                }
            }
        }
    }
}

#[test]
fn all_addresses_of_the_node_serve_node_ports_where_that_is_asked_for() {
    let scenario = shop(&[1]);
    // Pods know the node by this one, and no Node object has it.
    let gateway: SocketAddr = format!("10.244.1.1:{NODE_PORT}").parse().unwrap();
    for (flag, wanted) in [("primary", "ECONNREFUSED"), ("all", "pod-1-2"), ("10.244.1.0/24", "pod-1-2")] {
        let _agent = agent(&scenario, &["--nodeport-addresses", flag]);
        for client in clients(&scenario) {
            for kind in KINDS {
                settles(client, (gateway, kind), unless_unheard(kind, wanted));
            }
            let own = on_node(&scenario, 1)[0];
            settles(client, (own, &[]), if flag.contains('/') { "ECONNREFUSED" } else { "pod-1-2" });
        }
    }
}

#[test]
fn balancers_are_served_without_node_ports_by_their_addresses_and_while_they_have_them() {
    let scenario = shop(&[1]);
    let named = json!([{ "hostname": "shop.example" }, { "ip": LB_IPS[0] }, { "ip": LB_IPS[1] }]);
    let more = json!([{ "ip": LB_IPS[0] }, { "ip": "203.0.113.10" }, { "hostname": "shop.example" }]);
    let without = json!({ "allocateLoadBalancerNodePorts": false, "ports": plain_ports(PORT) });
    write(&scenario, without.clone(), &named);
    let _agent = agent(&scenario, &[]);
    let served = |ips: &[&str]| {
        for (index, ip) in ips.iter().enumerate() {
            let client = clients(&scenario)[index % 2];
            let target = SocketAddr::new(ip.parse().unwrap(), PORT);
            for kind in KINDS {
                settles(client, (target, kind), "pod-1-2");
            }
        }
    };
    served(&LB_IPS);
    for target in on_node(&scenario, 1) {
        settles(clients(&scenario)[0], (target, &[]), "ECONNREFUSED");
    }
    write(&scenario, without.clone(), &more);
    served(&[LB_IPS[0], "203.0.113.10"]);
    for client in clients(&scenario) {
        comes_to_be_unserved(client, (at(LB_IPS, PORT)[1], KINDS[0]));
    }
    write(&scenario, without, &json!([]));
    for client in clients(&scenario) {
        comes_to_be_unserved(client, (at(LB_IPS, PORT)[0], KINDS[1]));
    }
    served(&EXTERNAL_IPS);
}

#[test]
fn an_external_ip_of_the_node_itself_comes_before_its_sockets_and_node_ports() {
    let scenario = shop(&[2]);
    let _servers = serve_rival(&scenario);
    let _agent = agent(&scenario, &[]);
    let node = scenario.cluster.node(1);
    let [pod, host] = clients(&scenario);
    let [here, other] = [9_080, 9_081].map(|port| node.addresses().map(|ip| SocketAddr::new(ip, port)));
    let _local = [here, other].map(|addresses| serve(host, addresses, "local"));
    let all_get = |targets: [SocketAddr; 2], wanted: &str| {
        for (client, kind) in [(pod, KINDS[0]), (host, KINDS[1]), (pod, KINDS[2]), (host, KINDS[0])] {
            for target in targets {
                settles(client, (target, kind), wanted);
            }
        }
    };
    all_get(here, "local");
    write_rival(&scenario, json!({ "externalIPs": node.addresses(), "ports": plain_ports(here[0].port()) }));
    all_get(here, "rival");
    all_get(other, "local");
    all_get(on_node(&scenario, 1), "pod-2-2");
    write_rival(&scenario, json!({ "externalIPs": node.addresses(), "ports": plain_ports(NODE_PORT) }));
    all_get(on_node(&scenario, 1), "rival");
    all_get(here, "local");
    scenario.manifests.remove("rival.json").unwrap();
    all_get(on_node(&scenario, 1), "pod-2-2");
}

#[test]
fn several_slices_make_one_set() {
    let scenario = shop(&[]);
    // Each endpoint in a slice of its own, and one of them twice: once as what it no longer is.
    for family in [0, 1] {
        let listed = |node: usize, rest: Value| laid_over(endpoint(&scenario, family, (node, 2)), rest);
        let leaving = json!({ "conditions": { "ready": false, "serving": true, "terminating": true } });
        for (name, endpoint) in
            [("one", listed(1, json!({}))), ("two", listed(2, json!({}))), ("old", listed(2, leaving))]
        {
            let mut slice =
                slice(("shop", family), &json!([tcp(BACKEND_PORT), udp(BACKEND_PORT)]), vec![endpoint]);
            slice["metadata"]["name"] = json!(format!("shop-{name}-{family}"));
            put(&scenario, &slice);
        }
    }
    let _agent = agent(&scenario, &[]);
    for (client, look) in looks(&scenario) {
        comes_to_meet_both(client, look);
    }
}
