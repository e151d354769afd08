//! Cluster IPs that somebody has put on an interface of the node: who answers for them, and when.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tests::agent::Agent;
use tests::load::{Place, Servers};
use tests::topology::Node;
use tests::wait;

use crate::scenario::{DNS, PORT, Scenario, WEB};

/// Limit within which a change of addresses is in force.
const CHANGE: Duration = Duration::from_secs(5);
/// What answers on the node itself.
const HERE: &str = "the-node";

/// Answers on every address of the node, as those do whom nobody has told of an address.
fn answer_here(node: &Node) -> Servers {
    let any = ["0.0.0.0", "::"].map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT));
    let mut servers = node.host().serve(any.map(|address| (address, HERE))).unwrap();
    for address in any {
        servers.open_udp(address, HERE).unwrap();
    }
    servers
}

fn vips() -> [IpAddr; 4] {
    [WEB[0], WEB[1], DNS[0], DNS[1]].map(|ip| ip.parse().unwrap())
}

/// Puts cluster IPs on an interface of their own, as NodeLocal DNSCache does.
fn add(node: &Node, interface: &str) {
    node.netns.ip(&format!("link add {interface} type bridge")).unwrap();
    node.netns.ip(&format!("link set {interface} up")).unwrap();
    for ip in vips() {
        node.netns.add_address(interface, ip, if ip.is_ipv4() { 32 } else { 128 }).unwrap();
    }
}

fn remove(node: &Node, interface: &str) {
    node.netns.ip(&format!("link del {interface}")).unwrap();
}

/// Targets with the options of a client: TCP, and UDP that is not connected, in both families. A server on every address
/// answers a datagram from whichever the kernel chooses, which a connected client would not hear.
fn targets() -> Vec<(SocketAddr, &'static [&'static str])> {
    let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), PORT);
    let tcp = WEB.map(|ip| (address(ip), &[][..]));
    let udp = DNS.map(|ip| (address(ip), &["--datagram"][..]));
    tcp.into_iter().chain(udp).collect()
}

/// Who answered a client, target by target.
fn answers(client: Place<'_>) -> Vec<String> {
    let said = |(target, options): (SocketAddr, &[&str])| {
        let report = client.get(target, options).unwrap();
        report.name.clone().unwrap_or_else(|| format!("{report:?}"))
    };
    targets().into_iter().map(said).collect()
}

/// Waits until every target is answered here, or none is.
#[track_caller]
fn answered(clients: &[Place<'_>], here: bool) {
    for client in clients {
        wait::until_ok(CHANGE, &format!("the node to answer: {here}"), || {
            let answers = answers(*client);
            let fits = |name: &String| if here { name == HERE } else { name.starts_with("pod-") };
            if answers.iter().all(fits) { Ok(()) } else { Err(format!("{answers:?}")) }
        })
        .unwrap();
    }
}

#[test]
fn a_cluster_ip_on_an_interface_is_left_alone_while_it_is_there() {
    let scenario = Scenario::new();
    let agents = scenario.agents();
    let node = scenario.cluster.node(1);
    let _servers = answer_here(node);
    let [near, far]: [Vec<Place<'_>>; 2] = [0, 2].map(|first| scenario.clients()[first..first + 2].to_vec());
    answered(&near, false);
    for round in 1..=2 {
        add(node, "nodelocaldns");
        answered(&near, true);
        answered(&far, false);
        let vips = agents[0].progress().unwrap().local_vips;
        assert_eq!((vips.count, vips.first.len()), (4, 4), "{vips:?}");
        let status = agents[0].shunt(&["status"]).unwrap();
        assert!(status.contains("  10.96.0.53 of default/dns:80/udp\n"), "{status}");
        assert_eq!(agents[1].progress().unwrap().local_vips.count, 0);
        let log = agents[0].log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("is left alone")).collect();
        assert_eq!(lines.len(), 4 * round, "{log}");
        assert!(lines.iter().all(|line| line.contains("service=default/")), "{lines:?}");
        assert_eq!(agents[0].shunt_verify().unwrap(), "the maps hold what the source says\n");
        remove(node, "nodelocaldns");
        answered(&near, false);
        assert_eq!(agents[0].progress().unwrap().local_vips.count, 0);
    }
}

#[test]
fn an_agent_that_starts_beside_such_an_address_leaves_it_alone_from_the_first() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let _servers = answer_here(node);
    let clients = [scenario.cluster.pod(1, 1).place(), node.host()];
    add(node, "nodelocaldns");
    let mut agent = Agent::start(node, scenario.manifests.path()).unwrap();
    for client in clients {
        assert!(answers(client).iter().all(|name| name == HERE), "{:?}", answers(client));
    }
    // What another start has left is compared with: the flag serves it, and without the flag it goes.
    agent.terminate().unwrap();
    let served = ["--serve-local-vips"];
    let mut agent = Agent::start_with(node, scenario.manifests.path(), &served).unwrap();
    for client in clients {
        assert!(answers(client).iter().all(|name| name.starts_with("pod-")), "{:?}", answers(client));
    }
    assert_eq!(agent.progress().unwrap().local_vips.count, 0);
    assert_eq!(agent.shunt_verify().unwrap(), "the maps hold what the source says\n");
    agent.terminate().unwrap();
    let _agent = Agent::start(node, scenario.manifests.path()).unwrap();
    for client in clients {
        assert!(answers(client).iter().all(|name| name == HERE), "{:?}", answers(client));
    }
}

#[test]
fn what_kube_proxy_keeps_on_its_interface_is_served() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let _servers = answer_here(node);
    let clients = [scenario.cluster.pod(1, 1).place(), node.host()];
    add(node, "kube-ipvs0");
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    for client in clients {
        assert!(answers(client).iter().all(|name| name.starts_with("pod-")), "{:?}", answers(client));
    }
    assert_eq!(agent.progress().unwrap().local_vips.count, 0);
    // On one more interface it is the node's own all the same.
    add(node, "nodelocaldns");
    answered(&clients, true);
    remove(node, "nodelocaldns");
    answered(&clients, false);
    remove(node, "kube-ipvs0");
    answered(&clients, false);
}

/// The node answers on all its addresses from the start, so whoever connects meets it or a pod. When the address goes, the
/// agent learns of it after that, and for so long nobody is there: that is a matter of milliseconds.
#[test]
fn connects_go_on_while_the_address_comes_and_goes() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let _agent = Agent::start(node, scenario.manifests.path()).unwrap();
    let _servers = answer_here(node);
    let clients = [scenario.cluster.pod(1, 1).place(), node.host()];
    for family in [0, 1] {
        let target = SocketAddr::new(WEB[family].parse().unwrap(), PORT);
        let loads = clients.map(|client| client.connects(target, &["--read-every", "1"]).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        add(node, "nodelocaldns");
        answered(&clients, true);
        for load in loads {
            let report = load.finish().unwrap();
            assert_eq!((report.failures(), report.unanswered.len()), (0, 0), "{report:?}");
            assert!(report.served[HERE] > 0 && report.served.len() == 3, "{report:?}");
        }
        let loads = clients.map(|client| client.connects(target, &["--read-every", "1"]).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        remove(node, "nodelocaldns");
        answered(&clients, false);
        for load in loads {
            let report = load.finish().unwrap();
            // A connect whose address has just gone waits for a second or more, and may be the last of this client.
            println!("{target} when the address goes: {report:?}");
            assert!(report.served[HERE] > 0, "{report:?}");
        }
    }
}

/// As with kube-proxy: only cluster IPs are left alone.
#[test]
fn an_external_ip_that_is_the_nodes_own_wins_over_its_sockets() {
    let scenario = Scenario::new();
    let node = scenario.cluster.node(1);
    let _servers = answer_here(node);
    let agent = Agent::start(node, scenario.manifests.path()).unwrap();
    let clients = [scenario.cluster.pod(1, 1).place(), node.host()];
    let asked = |client: Place<'_>, ip: IpAddr| client.get(SocketAddr::new(ip, PORT), &[]).unwrap().name;
    for client in clients {
        for ip in node.addresses() {
            assert_eq!(asked(client, ip).as_deref(), Some(HERE));
        }
    }
    let [v4, v6] = node.addresses();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: web}}\n\
         spec:\n  clusterIP: {0}\n  clusterIPs: [{0}, \"{1}\"]\n  ipFamilies: [IPv4, IPv6]\n\
         \x20 externalIPs: [{v4}, \"{v6}\"]\n  ports: [{{port: {PORT}}}]\n",
        WEB[0], WEB[1]
    );
    scenario.manifests.write("web.yaml", &text).unwrap();
    for (client, ip) in clients.into_iter().flat_map(|client| node.addresses().map(|ip| (client, ip))) {
        wait::until_ok(CHANGE, &format!("{ip} to be served"), || match asked(client, ip) {
            Some(name) if name.starts_with("pod-") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    }
    assert_eq!(agent.progress().unwrap().local_vips.count, 0);
}
