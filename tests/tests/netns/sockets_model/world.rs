//! The naive model of the Services, and the servers that stand behind them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use fastrand::Rng;
use shunt::model::{
    Endpoint, EndpointSlice, Event, Family, ObjectName, Protocol, Service, ServicePort, SlicePort,
    TrafficPolicy,
};

/// The own node.
pub(super) const HERE: &str = "here";
/// Port of the Services.
const PORT: u16 = 80;
/// Port of the servers.
const BACKEND_PORT: u16 = 8080;
const SERVICES: u8 = 5;
const ENDPOINTS: u8 = 4;
/// VIPs that Services may have: more than Services, so that some are nobody's.
const VIPS: u8 = 8;

/// An endpoint of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Serving and terminating.
    Draining,
    Gone,
}

#[derive(Clone, Debug)]
struct One {
    state: State,
    is_here: bool,
    /// Goes up each time it comes back: then it is another.
    epoch: u32,
}

#[derive(Clone, Debug)]
struct Shop {
    /// Its VIP; none: there is no such Service now.
    vip: Option<u8>,
    is_sticky: bool,
    is_local: bool,
    endpoints: Vec<One>,
    /// What the one client of this test was given, by family and protocol.
    memory: BTreeMap<(bool, bool), Given>,
}

/// An endpoint that somebody was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) service: u8,
    pub(super) endpoint: u8,
    epoch: u32,
}

impl Given {
    /// A server that was dialled by its own address.
    pub(super) const fn of((service, endpoint): (u8, u8)) -> Self {
        Self { service, endpoint, epoch: 0 }
    }
}

/// What a new flow must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// One of these.
    OneOf(Vec<Given>),
    Refused,
    TimedOut,
    /// Nobody's address: it goes where routing sends it.
    Foreign,
}

pub(super) struct World {
    shops: Vec<Shop>,
}

impl World {
    pub(super) fn new() -> Self {
        let endpoint = |number: u8| One { state: State::Ready, is_here: number.is_multiple_of(2), epoch: 0 };
        let shop = |number: u8| Shop {
            vip: Some(number),
            is_sticky: number == 1,
            is_local: number == 2,
            endpoints: (0..ENDPOINTS).map(endpoint).collect(),
            memory: BTreeMap::new(),
        };
        Self { shops: (0..SERVICES).map(shop).collect() }
    }

    /// Addresses of all endpoints.
    pub(super) fn address_lines() -> Vec<String> {
        let all = Self::servers().map(|at| at.ip());
        all.map(|ip| tests::netns::address_line("lo", ip, if ip.is_ipv4() { 32 } else { 128 })).collect()
    }

    fn servers() -> impl Iterator<Item = SocketAddr> {
        (0..SERVICES).flat_map(|service| {
            (0..ENDPOINTS).flat_map(move |endpoint| [true, false].map(|v4| place(service, endpoint, v4)))
        })
    }

    /// Every object as it is now.
    pub(super) fn everything(&self) -> Vec<Event> {
        (0..SERVICES).flat_map(|number| self.events_of(number)).collect()
    }

    fn events_of(&self, number: u8) -> Vec<Event> {
        let shop = &self.shops[usize::from(number)];
        let mut events = Vec::new();
        match shop.vip {
            Some(vip) => events.push(Event::ServiceApplied(Arc::new(service(number, vip, shop)))),
            None => events.push(Event::ServiceDeleted(name(number))),
        }
        events.extend([true, false].map(|v4| Event::SliceApplied(Arc::new(slice(number, v4, shop)))));
        events
    }

    /// Changes one thing; the events of it.
    pub(super) fn change(&mut self, random: &mut Rng) -> Vec<Event> {
        let number = random.u8(..SERVICES);
        let free: Vec<u8> =
            (0..VIPS).filter(|vip| self.shops.iter().all(|shop| shop.vip != Some(*vip))).collect();
        let shop = &mut self.shops[usize::from(number)];
        match random.u32(..10) {
            0 => {
                // Deleted, or made anew at any free address.
                shop.vip = if shop.vip.is_some() { None } else { random.choice(&free).copied() };
                shop.memory.clear();
                shop.endpoints.iter_mut().for_each(|one| one.epoch += 1);
            }
            1 => {
                if shop.vip.is_some() {
                    shop.vip = random.choice(&free).copied();
                }
            }
            2 => shop.is_local = !shop.is_local,
            3 => shop.is_sticky = !shop.is_sticky,
            _ => {
                let one = &mut shop.endpoints[random.usize(..usize::from(ENDPOINTS))];
                let next = [State::Ready, State::Ready, State::Draining, State::Gone][random.usize(..4)];
                one.epoch += u32::from(one.state == State::Gone && next != State::Gone);
                one.state = next;
                one.is_here = if random.u32(..8) == 0 { !one.is_here } else { one.is_here };
            }
        }
        self.events_of(number)
    }

    /// Makes the model wrong.
    pub(super) fn forget_an_endpoint(&mut self) {
        for shop in &mut self.shops {
            shop.endpoints[0].state = State::Gone;
        }
    }

    /// Any address that a client may dial, mostly a VIP.
    pub(super) fn any_target(random: &mut Rng) -> SocketAddr {
        let v4 = random.bool();
        if random.u32(..10) == 0 {
            return place(random.u8(..SERVICES), random.u8(..ENDPOINTS), v4);
        }
        SocketAddr::new(vip(random.u8(..VIPS), v4), if random.u32(..16) == 0 { PORT + 1 } else { PORT })
    }

    /// Who stands at an address, if it is a server's own.
    pub(super) fn server_at(address: SocketAddr) -> Option<(u8, u8)> {
        let all = (0..SERVICES).flat_map(|service| (0..ENDPOINTS).map(move |endpoint| (service, endpoint)));
        all.into_iter().find(|(service, endpoint)| {
            [true, false].iter().any(|v4| place(*service, *endpoint, *v4) == address)
        })
    }

    /// What a new flow to `target` must lead to.
    pub(super) fn expected(&self, target: SocketAddr, is_udp: bool) -> Expected {
        let v4 = target.is_ipv4();
        let at_vip = |shop: &Shop| shop.vip.is_some_and(|number| vip(number, v4) == target.ip());
        let Some(number) = self.shops.iter().position(at_vip) else { return Expected::Foreign };
        if target.port() != PORT {
            return Expected::Refused;
        }
        let shop = &self.shops[number];
        let all: Vec<Given> = self.eligible(number, false);
        let eligible = if shop.is_local { self.eligible(number, true) } else { all.clone() };
        if eligible.is_empty() {
            return if all.is_empty() { Expected::Refused } else { Expected::TimedOut };
        }
        let remembered =
            shop.memory.get(&(v4, is_udp)).filter(|given| shop.is_sticky && eligible.contains(given));
        Expected::OneOf(remembered.map_or(eligible, |given| vec![*given]))
    }

    /// Ready endpoints, or else those that drain.
    fn eligible(&self, number: usize, only_here: bool) -> Vec<Given> {
        let shop = &self.shops[number];
        let of = |state: State| -> Vec<Given> {
            let all = (0_u8..).zip(&shop.endpoints);
            all.filter(|(_, one)| one.state == state && (one.is_here || !only_here))
                .map(|(endpoint, one)| Given { service: number as u8, endpoint, epoch: one.epoch })
                .collect()
        };
        let ready = of(State::Ready);
        if ready.is_empty() { of(State::Draining) } else { ready }
    }

    /// A new flow was given this endpoint.
    pub(super) fn gave(&mut self, given: Given, v4: bool, is_udp: bool) {
        let shop = &mut self.shops[usize::from(given.service)];
        if shop.is_sticky {
            shop.memory.insert((v4, is_udp), given);
        }
    }

    /// Whether a UDP flow to `target` keeps what it was given.
    pub(super) fn keeps(&self, given: Given, target: SocketAddr) -> bool {
        let shop = &self.shops[usize::from(given.service)];
        let one = &shop.endpoints[usize::from(given.endpoint)];
        let is_at = shop.vip.is_some_and(|number| vip(number, target.is_ipv4()) == target.ip());
        is_at && target.port() == PORT && one.epoch == given.epoch && one.state != State::Gone
    }
}

fn name(number: u8) -> ObjectName {
    ObjectName::new("model", &format!("shop-{number}"))
}

fn vip(number: u8, v4: bool) -> IpAddr {
    if v4 {
        [10, 96, 0, 10 + number].into()
    } else {
        [0xfd96, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number)].into()
    }
}

/// Where an endpoint listens.
pub(super) fn place(service: u8, endpoint: u8, v4: bool) -> SocketAddr {
    let ip: IpAddr = if v4 {
        [10, 244, service, 1 + endpoint].into()
    } else {
        [0xfd44, 0, 0, 0, 0, 0, u16::from(service), 1 + u16::from(endpoint)].into()
    };
    SocketAddr::new(ip, BACKEND_PORT)
}

fn service(number: u8, vip_number: u8, shop: &Shop) -> Service {
    let port =
        |name: &str, protocol| ServicePort { name: name.into(), protocol, port: PORT, node_port: None };
    Service {
        name: name(number),
        cluster_ips: vec![vip(vip_number, true), vip(vip_number, false)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        affinity_seconds: shop.is_sticky.then_some(86_400),
        internal_policy: if shop.is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
    }
}

fn slice(number: u8, v4: bool, shop: &Shop) -> EndpointSlice {
    let port = |name: &str, protocol| SlicePort { name: name.into(), protocol, port: BACKEND_PORT };
    let listed = (0_u8..).zip(&shop.endpoints).filter(|(_, one)| one.state != State::Gone);
    let endpoint = |(index, one): (u8, &One)| Endpoint {
        addr: place(number, index, v4).ip(),
        node: Some(if one.is_here { HERE } else { "elsewhere" }.into()),
        ready: one.state == State::Ready,
        serving: true,
        terminating: one.state == State::Draining,
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new("model", &format!("shop-{number}-{}", if v4 { 4 } else { 6 })),
        service: format!("shop-{number}").into(),
        family: if v4 { Family::V4 } else { Family::V6 },
        endpoints: listed.map(endpoint).collect(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        triggered_at: None,
    }
}

/// Everything that listens: all endpoints, listed or not.
pub(super) struct Servers {
    streams: Vec<((u8, u8), TcpListener)>,
    datagrams: Vec<((u8, u8), UdpSocket)>,
}

impl Servers {
    pub(super) fn new() -> Self {
        let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
        for at in World::servers() {
            let who = World::server_at(at).unwrap();
            let listener = TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            streams.push((who, listener));
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_nonblocking(true).unwrap();
            datagrams.push((who, socket));
        }
        Self { streams, datagrams }
    }

    /// Who has a new connection, and the connection.
    pub(super) fn accept(&self) -> Option<((u8, u8), TcpStream)> {
        self.streams.iter().find_map(|(who, listener)| {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nonblocking(false).unwrap();
            Some((*who, stream))
        })
    }

    /// Who has got a datagram; it is answered.
    pub(super) fn answer(&self) -> Option<(u8, u8)> {
        let mut buffer = [0; 16];
        self.datagrams.iter().find_map(|(who, socket)| {
            let (_, from) = socket.recv_from(&mut buffer).ok()?;
            socket.send_to(&[who.0, who.1], from).unwrap();
            Some(*who)
        })
    }

    /// Nobody has got anything that no operation accounts for.
    pub(super) fn nothing_left(&self, when: &str) {
        assert!(self.accept().is_none(), "a connection that nobody made; {when}");
        assert!(self.answer().is_none(), "a datagram that nobody sent; {when}");
    }
}

/// A word over a connection, there and back.
pub(super) fn talk(here: &TcpStream, there: &TcpStream) {
    for (mut from, mut to) in [(here, there), (there, here)] {
        from.write_all(b"word").unwrap();
        let mut word = [0; 4];
        to.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"word");
    }
}

/// Whether a failed call says that nobody answers at a foreign address.
pub(super) fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable)
}
