//! Packet tier: a packet's life by test run. What comes out is compared, byte by byte, with a packet that etherparse
//! builds.

mod build;
mod kinds;
mod lives;
mod places;
mod rig;
mod strays;

use std::net::{IpAddr, SocketAddr};

use build::{Tcp, packet};
use proxy_common::service::ViewWord;
use rig::{Answer, PORTS, Rig};

/// The kernel gives up at a million; a program that nears a fifth of it has grown beyond its purpose.
const INSTRUCTIONS_AT_MOST: u32 = 200_000;

/// Ends of one family.
struct Ends {
    client: SocketAddr,
    vip: SocketAddr,
    backend: SocketAddr,
    node: SocketAddr,
    stranger: SocketAddr,
}

fn families() -> [Ends; 2] {
    let ends = |client: &str, vip: &str, backend: &str, node: &str, stranger: &str| {
        let at = |text: &str| text.parse().expect("an address with a port");
        Ends {
            client: at(client),
            vip: at(vip),
            backend: at(backend),
            node: at(node),
            stranger: at(stranger),
        }
    };
    [
        ends("203.0.113.7:40000", "10.96.0.1:80", "10.244.1.2:8080", "172.30.0.1:0", "198.51.100.9:80"),
        ends(
            "[2001:db8::7]:40000",
            "[fd00:10:96::1]:80",
            "[fd00:244:1::2]:8080",
            "[fd00:172::1]:0",
            "[2001:db8:9::9]:80",
        ),
    ]
}

impl Ends {
    fn rig(&self) -> Rig {
        Rig::new(self.vip, self.backend).expect("rig")
    }
}

/// The source of a packet that goes on, of which the address is known.
fn source(answer: &Answer, ip: IpAddr) -> SocketAddr {
    let Answer::Next(sent) = answer else { panic!("{answer:?}") };
    let at = if ip.is_ipv4() { 34 } else { 54 };
    SocketAddr::new(ip, u16::from_be_bytes([sent[at], sent[at + 1]]))
}

fn next(packet: Vec<u8>) -> Answer {
    Answer::Next(packet)
}

#[test]
fn every_program_passes_the_verifier() {
    let all = families()[0].rig().instructions().unwrap();
    for (name, walked) in &all {
        println!("{name:<16} {walked:>6} instructions verified");
    }
    assert!(all.iter().all(|(_, walked)| *walked < INSTRUCTIONS_AT_MOST), "{all:?}");
}

#[test]
fn a_flow_goes_to_a_local_backend_and_back() {
    for ends in families() {
        let Ends { client, vip, backend, .. } = ends;
        for steps in [[Some(Tcp::Syn), Some(Tcp::SynAck), Some(Tcp::Ack)], [None; 3]] {
            let mut rig = ends.rig();
            let [first, answer, then] = steps;
            let enters = |rig: &mut Rig, tcp| rig.run("shunt_arrive", &packet((client, vip), tcp)).unwrap();
            assert_eq!(enters(&mut rig, first), next(packet((client, backend), first)));
            // Nothing is to be done as it leaves towards the pod.
            let inside = packet((client, backend), first);
            assert_eq!(rig.run("shunt_leave", &inside).unwrap(), next(inside));
            let reply = rig.run("shunt_leave", &packet((backend, client), answer)).unwrap();
            assert_eq!(reply, next(packet((vip, client), answer)));
            assert_eq!(enters(&mut rig, then), next(packet((client, backend), then)));
        }
    }
}

#[test]
fn a_flow_goes_to_a_remote_backend_by_another_source_and_back() {
    for ends in families() {
        let Ends { client, vip, backend, node, .. } = ends;
        for steps in [[Some(Tcp::Syn), Some(Tcp::SynAck), Some(Tcp::Ack)], [None; 3]] {
            let mut rig = ends.rig();
            rig.set_device(Some(node.ip())).unwrap();
            let [first, answer, then] = steps;
            let arrived = rig.run("shunt_arrive", &packet((client, vip), first)).unwrap();
            assert_eq!(arrived, next(packet((client, backend), first)));
            let sent = rig.run("shunt_leave", &packet((client, backend), first)).unwrap();
            let snat = source(&sent, node.ip());
            assert!((PORTS.first..PORTS.first + PORTS.count).contains(&snat.port()), "{snat}");
            assert_eq!(sent, next(packet((snat, backend), first)));

            // The node's own address is owned wherever NodePorts are served; here it is a frontend of another port.
            rig.own(node.ip()).unwrap();
            let returned = rig.run("shunt_arrive", &packet((backend, snat), answer)).unwrap();
            assert_eq!(returned, next(packet((backend, client), answer)));
            let reply = rig.run("shunt_leave", &packet((backend, client), answer)).unwrap();
            assert_eq!(reply, next(packet((vip, client), answer)));
            rig.run("shunt_arrive", &packet((client, vip), then)).unwrap();
            let again = rig.run("shunt_leave", &packet((client, backend), then)).unwrap();
            assert_eq!(again, next(packet((snat, backend), then)), "the same source");
        }
    }
}

#[test]
fn pods_of_other_nodes_are_served_as_from_inside() {
    for Ends { client, vip, backend, stranger: balancer, .. } in families() {
        let mut rig = Rig::new(vip, backend).unwrap();
        let asks = packet((client, balancer), Some(Tcp::Syn));
        let answered = next(packet((client, backend), Some(Tcp::Syn)));
        rig.be_balanced(balancer, [ViewWord::DROP, ViewWord::random(2, 1)]).unwrap();
        assert_eq!(rig.run("shunt_arrive", &asks).unwrap(), Answer::Dropped, "outside");
        assert_eq!(rig.run("shunt_arrive_pod", &asks).unwrap(), answered, "by a device of pods");
        let mut rig = Rig::new(vip, backend).unwrap();
        rig.be_balanced(balancer, [ViewWord::DROP, ViewWord::random(2, 1)]).unwrap();
        rig.know_pod(client.ip()).unwrap();
        assert_eq!(rig.run("shunt_arrive", &asks).unwrap(), answered, "a pod elsewhere");
        // Where both views are alike, nobody has to know.
        let mut rig = Rig::new(vip, backend).unwrap();
        rig.be_balanced(balancer, [ViewWord::random(2, 1); 2]).unwrap();
        assert_eq!(rig.run("shunt_arrive", &asks).unwrap(), answered, "anybody");
    }
}

#[test]
fn what_is_not_ours_is_left_as_it_is() {
    for ends in families() {
        let mut rig = ends.rig();
        let Ends { client, vip, backend, stranger, .. } = ends;
        for tcp in [None, Some(Tcp::Syn), Some(Tcp::Ack)] {
            for pair in [(client, stranger), (stranger, client), (backend, client)] {
                let bytes = packet(pair, tcp);
                for program in ["shunt_arrive", "shunt_leave"] {
                    assert_eq!(rig.run(program, &bytes).unwrap(), next(bytes.clone()), "{pair:?} {tcp:?}");
                }
            }
        }
        // In the middle of a connection that nobody here knows.
        let bytes = packet((client, vip), Some(Tcp::Ack));
        assert_eq!(rig.run("shunt_arrive", &bytes).unwrap(), next(bytes));
        // Cut short, and of no protocol.
        let ip = if client.is_ipv4() { 34 } else { 54 };
        for length in [ip, ip + 3, ip + 11] {
            let bytes = packet((client, vip), Some(Tcp::Syn))[..length].to_vec();
            assert_eq!(rig.run("shunt_arrive", &bytes).unwrap(), next(bytes));
        }
    }
}

#[test]
fn a_flood_is_turned_away_and_what_goes_on_is_not() {
    let [ends, _] = families();
    let mut rig = ends.rig();
    let Ends { client, vip, backend, .. } = ends;
    let known = packet((client, vip), Some(Tcp::Syn));
    rig.run("shunt_arrive", &known).unwrap();
    rig.set_flows_per_second(0).unwrap();
    // The first of a second is let in by each CPU.
    let flood = (1..200).map(|port| packet((SocketAddr::new(client.ip(), port), vip), Some(Tcp::Syn)));
    let answers: Vec<Answer> = flood.map(|bytes| rig.run("shunt_arrive", &bytes).unwrap()).collect();
    let dropped = answers.iter().filter(|answer| **answer == Answer::Dropped).count();
    assert!(dropped > 150, "{dropped} of 199 dropped");
    let answer = rig.run("shunt_arrive", &known).unwrap();
    assert_eq!(answer, next(packet((client, backend), Some(Tcp::Syn))));
}

#[test]
fn udp_goes_on_to_another_backend_and_tcp_drains_when_one_goes() {
    let [ends, _] = families();
    let Ends { client, vip, backend, .. } = ends;
    let other = SocketAddr::new("10.244.1.3".parse().unwrap(), 8080);
    for (tcp, expected) in [(None, other), (Some(Tcp::Ack), backend)] {
        let mut rig = ends.rig();
        let first = tcp.map(|_| Tcp::Syn);
        let arrived = rig.run("shunt_arrive", &packet((client, vip), first)).unwrap();
        assert_eq!(arrived, next(packet((client, backend), first)));
        rig.replace_backend(other).unwrap();
        let arrived = rig.run("shunt_arrive", &packet((client, vip), tcp)).unwrap();
        assert_eq!(arrived, next(packet((client, expected), tcp)), "{tcp:?}");
    }
}

/// Figures, printed and not judged: a timed test would fail on a busy machine.
///
/// `SHUNT_COST_RUNS` says how often a packet is run, five times. A test run that repeats hands each run the packet that the last one left. Two flows, of which each backend is the other's
/// VIP, send it to and fro, so that every run is a hit and changes address and port.
#[test]
fn a_packet_costs_so_much() {
    let runs = std::env::var("SHUNT_COST_RUNS").map_or(200_001, |text| text.parse().unwrap());
    for ends in families() {
        let Ends { client, vip, backend, stranger, node } = ends;
        let mut rig = ends.rig();
        settle(&mut rig, client, (vip, backend));
        rig.insert_frontend(backend).unwrap();
        rig.replace_backend(vip).unwrap();
        settle(&mut rig, client, (backend, vip));
        let family = if client.is_ipv4() { "IPv4" } else { "IPv6" };
        let ack = Some(Tcp::Ack);
        for (what, program, pair) in [
            ("an empty program", "shunt_nothing", (client, stranger)),
            ("not ours, entering", "shunt_arrive", (client, stranger)),
            ("not ours, leaving", "shunt_leave", (client, stranger)),
            ("nobody's connection, entering", "shunt_arrive", (stranger, vip)),
            ("established, entering", "shunt_arrive", (client, vip)),
            ("established, leaving", "shunt_leave", (backend, client)),
        ] {
            println!("{family}, {what}: {:?}", rig.time(program, &packet(pair, ack), runs).unwrap());
        }
        // As of an overlay or a tunnel, of which every packet comes so.
        rig.be_at(node.ip()).unwrap();
        let tunnel = packet((client, SocketAddr::new(node.ip(), 8472)), None);
        assert_eq!(rig.run("shunt_arrive", &tunnel).unwrap(), next(tunnel.clone()));
        let took = rig.time("shunt_arrive", &tunnel, runs).unwrap();
        println!("{family}, a datagram for the node itself, entering: {took:?}");
    }
}

/// A connection whose answer the client has answered.
fn settle(rig: &mut Rig, client: SocketAddr, (vip, backend): (SocketAddr, SocketAddr)) {
    for (tcp, program, pair, changed) in [
        (Tcp::Syn, "shunt_arrive", (client, vip), (client, backend)),
        (Tcp::SynAck, "shunt_leave", (backend, client), (vip, client)),
        (Tcp::Ack, "shunt_arrive", (client, vip), (client, backend)),
    ] {
        let answer = rig.run(program, &packet(pair, Some(tcp))).expect("a run");
        assert_eq!(answer, next(packet(changed, Some(tcp))));
    }
}
