//! Packets go past a node's stack as long as nobody there wants to see them, and take the long way as soon as somebody does.
//!
//! Which way requests take shows where they would leave the node for the pod: what is handed to the pod's end of its pair of
//! devices is not counted as sent by the node's.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;
use tests::netns::Netns;

use super::layout::Layout;
use super::site::{Backend, Site};

const ECHO_PORT: u16 = 7_000;
/// The node's end of the pod's pair, and of the client's.
const POD_DEVICE: &str = "pod2";
const CLIENT_DEVICE: &str = "ext0";
/// For how long requests are counted, and let go before that: what was found counts for 90 ms at most.
const COUNTED: Duration = Duration::from_millis(100);
const SETTLING: Duration = Duration::from_millis(100);

/// Which way requests take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Short,
    Long,
}

use Taken::{Long, Short};

/// A connection that asks and is answered, one byte at a time.
struct Talk<'a> {
    stream: TcpStream,
    node: &'a Netns,
}

impl<'a> Talk<'a> {
    fn open(site: &'a Site, frontend: SocketAddr) -> Result<Self> {
        let stream = site.client.inside(|| TcpStream::connect(frontend))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, node: &site.cluster.node(1).netns })
    }

    fn ask_for(&mut self, time: Duration) -> Result<u64> {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < time {
            self.stream.write_all(b"?")?;
            let mut answer = [0];
            self.stream.read_exact(&mut answer)?;
            count += 1;
        }
        Ok(count)
    }

    /// Which way all of them take, once it is settled.
    fn taken(&mut self) -> Result<Taken> {
        self.ask_for(SETTLING)?;
        let before = sent(self.node)?;
        let asked = self.ask_for(COUNTED)?;
        let sent = sent(self.node)? - before;
        ensure!(asked > 100, "only {asked} requests");
        ensure!(sent * 10 < asked || sent >= asked, "{sent} packets of {asked} requests took the long way");
        Ok(if sent >= asked { Long } else { Short })
    }
}

/// Packets that the node has sent to the pod's device.
fn sent(node: &Netns) -> Result<u64> {
    let said = node.ip(&format!("-s -j link show {POD_DEVICE}"))?;
    let said: Value = serde_json::from_str(&said)?;
    said[0]["stats64"]["tx"]["packets"].as_u64().context("no count of packets")
}

/// A site with a pod that echoes, behind the first Service.
fn site(layout: Layout) -> Site {
    let site = Site::new(layout).unwrap();
    let (node, ips) = Backend::LocalPod.place(&site.cluster);
    for ip in ips {
        let at = SocketAddr::new(ip, ECHO_PORT);
        let listener = site.cluster.pod(node, 2).netns.inside(|| TcpListener::bind(at)).unwrap().unwrap();
        std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
    }
    site.list_at(Backend::LocalPod, ECHO_PORT).unwrap();
    site
}

/// Gives each byte back until the client goes away.
fn echo(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
}

fn agent<'a>(site: &'a Site, more: &[&str]) -> Agent<'a> {
    let arguments = [&["--devices", "auto"], more].concat();
    Agent::start_with(site.cluster.node(1), site.manifests.path(), &arguments).unwrap()
}

/// The NodePorts of both families.
fn frontends(site: &Site) -> [SocketAddr; 2] {
    let all = Backend::LocalPod.frontends(&site.cluster);
    [all[0], all[1]]
}

/// Somebody who wants to see packets: what brings them, what takes them away, the ways of IPv4 and IPv6 meanwhile, and what
/// `shunt status` says of whom.
struct Somebody {
    comes: String,
    goes: String,
    ways: [Taken; 2],
    told: Told,
}

/// A device, and what is in the way there.
type Told = (&'static str, &'static [&'static str]);

fn nft(family: &str, chain: &str) -> [String; 2] {
    let rules = format!("table {family} somebody {{\n chain c {{\n {chain};\n }}\n }}");
    [format!("nft\n{rules}"), format!("nft\ndelete table {family} somebody")]
}

/// All of them, with what to call them.
fn everybody() -> Vec<(&'static str, Somebody)> {
    let somebody = |[comes, goes]: [String; 2], ways, told| Somebody { comes, goes, ways, told };
    let words = |comes: &str, goes: &str| [comes.to_owned(), goes.to_owned()];
    let hook = |family, hook: &str| nft(family, &format!("type filter hook {hook} priority 0; counter"));
    let at = |side, device| hook("netdev", &format!("{side} device {device}"));
    let queue = words(
        &format!("tc qdisc add dev {POD_DEVICE} root pfifo"),
        &format!("tc qdisc delete dev {POD_DEVICE} root"),
    );
    let policy = |verb| format!("ip xfrm policy {verb} src 198.18.0.0/24 dst 198.18.1.0/24 dir fwd");
    let policy = ["add", "delete"].map(policy);
    let rule = words("ip rule add dport 9 lookup main", "ip rule delete dport 9 lookup main");
    let (client, pod) = (CLIENT_DEVICE, POD_DEVICE);
    let both: &[&str] = &["netfilter of IPv4", "netfilter of IPv6"];
    vec![
        ("forward of IPv4", somebody(hook("ip", "forward"), [Long, Short], (client, &["netfilter of IPv4"]))),
        (
            "prerouting of IPv6",
            somebody(hook("ip6", "prerouting"), [Short, Long], (pod, &["netfilter of IPv6"])),
        ),
        ("postrouting of both", somebody(hook("inet", "postrouting"), [Long, Long], (client, both))),
        ("input of both", somebody(hook("inet", "input"), [Short, Short], (client, &[]))),
        (
            "ingress of the client's device",
            somebody(at("ingress", client), [Long, Long], (client, &["others at its ingress"])),
        ),
        (
            "egress of the pod's device",
            somebody(at("egress", pod), [Long, Long], (pod, &["others at its egress"])),
        ),
        ("a queue at the pod's device", somebody(queue, [Long, Long], (pod, &["a queue"]))),
        ("a policy of IPsec", somebody(policy, [Long, Long], (client, &["IPsec policies"]))),
        (
            "a routing rule that looks at ports",
            somebody(rule, [Long, Long], (client, &["routing rules by port or protocol"])),
        ),
    ]
}

/// Checks what `shunt status` says of the way of packets that enter by a device.
fn assert_told(agent: &Agent, (device, expected): Told, name: &str) {
    let said: Value = serde_json::from_str(&agent.shunt(&["status", "-o", "json"]).unwrap()).unwrap();
    let sides = said["devices"].as_array().unwrap();
    let side = sides.iter().find(|side| side["device"] == device && side["hook"] == "ingress").unwrap();
    let found = &side["shortcuts"];
    let state = match *expected {
        [] => "open",
        ["netfilter of IPv4"] => "open to IPv6",
        ["netfilter of IPv6"] => "open to IPv4",
        _ => "shut",
    };
    assert_eq!((&found["state"], &found["in_the_way"]), (&state.into(), &expected.into()), "{name}");
    let ago = found["seconds_ago"].as_f64().unwrap();
    assert!((0.0..10.0).contains(&ago), "{name}: {ago} s ago");
}

/// Runs words in a namespace; what follows the end of a line is one argument.
fn run(netns: &Netns, words: &str) {
    let (first, rule) = words.split_once('\n').unwrap_or((words, ""));
    let mut words = first.split(' ');
    let program = words.next().unwrap();
    let arguments: Vec<&str> = words.chain(Some(rule).filter(|rule| !rule.is_empty())).collect();
    netns.run(program, &arguments).unwrap();
}

#[test]
fn packets_go_past_the_stack_until_somebody_there_wants_to_see_them() {
    let site = site(Layout::Routed);
    let agent = agent(&site, &[]);
    let node = &site.cluster.node(1).netns;
    let mut talks = frontends(&site).map(|frontend| Talk::open(&site, frontend).unwrap());
    let mut assert_ways = |wanted: [Taken; 2], name: &str| {
        for (talk, wanted) in talks.iter_mut().zip(wanted) {
            let taken = talk.taken().unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(taken, wanted, "{name}");
        }
    };
    assert_ways([Short, Short], "nobody");
    for (name, somebody) in everybody() {
        run(node, &somebody.comes);
        assert_ways(somebody.ways, name);
        assert_told(&agent, somebody.told, name);
        run(node, &somebody.goes);
        assert_ways([Short, Short], &format!("nobody after {name}"));
        assert_told(&agent, (somebody.told.0, &[]), name);
    }
}

#[test]
fn without_shortcuts_or_behind_a_bridge_packets_take_the_stack() {
    for (layout, more) in [(Layout::Routed, &["--shortcuts", "none"][..]), (Layout::Bridge, &[])] {
        let site = site(layout);
        let _agent = agent(&site, more);
        for frontend in frontends(&site) {
            let taken = Talk::open(&site, frontend).unwrap().taken().unwrap();
            assert_eq!(taken, Long, "{layout:?} {frontend}");
        }
    }
}

/// A client that is reached by another device than it comes by: what a reverse path filter would judge, it judges.
#[test]
fn a_client_that_answers_go_to_by_another_device_takes_the_stack() {
    let site = site(Layout::Routed);
    let _agent = agent(&site, &[]);
    let node = &site.cluster.node(1).netns;
    node.veth("ext9", &site.client, "eth9").unwrap();
    for (netns, device, host) in [(node, "ext9", 1), (&site.client, "eth9", 2)] {
        netns.add_address(device, format!("172.29.9.{host}").parse().unwrap(), 24).unwrap();
    }
    let [frontend, _] = frontends(&site);
    let mut talk = Talk::open(&site, frontend).unwrap();
    assert_eq!(talk.taken().unwrap(), Short);
    node.add_route("172.31.0.2/32 via 172.29.9.2 dev ext9").unwrap();
    assert_eq!(talk.taken().unwrap(), Long);
    node.ip("route delete 172.31.0.2/32 dev ext9").unwrap();
    assert_eq!(talk.taken().unwrap(), Short);
}

/// What the node's kernel knows of the client as a neighbour: `lladdr`, or how sure it is of that, the `state`.
fn known(node: &Netns, client: IpAddr, what: &str) -> Result<String> {
    let said = node.ip(&format!("-j neigh show {client} dev {CLIENT_DEVICE}"))?;
    let said: Value = serde_json::from_str(&said)?;
    let found = &said[0][what];
    found.as_str().or_else(|| found[0].as_str()).map(str::to_owned).with_context(|| said.to_string())
}

/// Frames of replies are written without asking the kernel for the client's address each time.
#[test]
fn replies_follow_a_client_to_another_address_of_the_link() {
    let site = site(Layout::Routed);
    let _agent = agent(&site, &[]);
    let node = &site.cluster.node(1).netns;
    let mut talks = frontends(&site).map(|frontend| Talk::open(&site, frontend).unwrap());
    for talk in &mut talks {
        assert_eq!(talk.taken().unwrap(), Short);
    }
    let address = "02:00:00:00:00:77";
    site.client.ip(&format!("link set eth0 address {address}")).unwrap();
    for (talk, client) in talks.iter_mut().zip(crate::wire::clients()) {
        node.ip(&format!("neigh replace {client} lladdr {address} dev {CLIENT_DEVICE} nud reachable"))
            .unwrap();
        let begun = Instant::now();
        talk.ask_for(Duration::from_millis(1)).unwrap();
        talk.ask_for(COUNTED).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{client}: {:?}", begun.elapsed());
        assert_eq!(talk.taken().unwrap(), Short);
        assert_eq!(known(node, client, "lladdr").unwrap(), address);
    }
}

/// An address that the kernel has doubts about is asked for again once it is used, and replies count as use.
#[test]
fn replies_are_seen_by_the_kernel_as_use_of_a_neighbour() {
    let site = site(Layout::Routed);
    let _agent = agent(&site, &[]);
    let node = &site.cluster.node(1).netns;
    let mut talks = frontends(&site).map(|frontend| Talk::open(&site, frontend).unwrap());
    for (talk, client) in talks.iter_mut().zip(crate::wire::clients()) {
        assert_eq!(talk.taken().unwrap(), Short);
        let address = known(node, client, "lladdr").unwrap();
        let doubt = format!("neigh replace {client} lladdr {address} dev {CLIENT_DEVICE} nud stale");
        node.ip(&doubt).unwrap();
        std::thread::sleep(COUNTED);
        assert_eq!(known(node, client, "state").unwrap(), "STALE", "nothing was sent to {client}");
        talk.ask_for(Duration::from_millis(1)).unwrap();
        assert_ne!(known(node, client, "state").unwrap(), "STALE", "{client} was answered");
    }
}

/// A device that takes shorter packets than those that come: their senders are told, as by the stack.
#[test]
fn what_is_too_long_for_a_device_is_told_so() {
    let site = site(Layout::Routed);
    let _agent = agent(&site, &[]);
    let node = &site.cluster.node(1).netns;
    site.list(Backend::LocalPod, true).unwrap();
    let pod = &site.cluster.pod(1, 2).netns;
    let frontends = frontends(&site);
    for (device, told, whom) in [
        (CLIENT_DEVICE, pod, crate::wire::clients()),
        (POD_DEVICE, &site.client, frontends.map(|frontend| frontend.ip())),
    ] {
        node.ip(&format!("link set {device} mtu 1300")).unwrap();
        for frontend in frontends {
            crate::traffic::exchange(&site.client, frontend, crate::traffic::Way::Tcp)
                .unwrap_or_else(|error| panic!("{device}: {error:#}"));
        }
        for ip in whom {
            let route = told.ip(&format!("route get {ip}")).unwrap();
            assert!(route.contains("mtu 1300"), "{device}: {route}");
        }
        node.ip(&format!("link set {device} mtu 1500")).unwrap();
        // Whoever was told asks others for shorter packets, too.
        for words in ["-4 route flush cache", "-6 route flush cache"] {
            told.ip(words).unwrap();
        }
    }
}
