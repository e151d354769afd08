//! Connects and datagrams without end while everything about Services changes: endpoints, policies, affinity, addresses.
//!
//! The changes go the whole way into kernel maps, two hundred a second. A client on loopback knows who serves it by its own
//! address, which is the backend's there, so that no answer has to be read. `SHUNT_STORM=10000000` is the long run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use shunt::agent::sync::{Sync, SyncOptions};
use shunt::maps::apply::StoreOrder;
use shunt::maps::store::KernelStore;
use shunt::model::{
    Endpoint, EndpointSlice, Event, Family, Listing, ObjectName, Protocol, Service, ServicePort, SlicePort,
    TrafficPolicy,
};
use shunt::plan::node::NodePortAddresses;
use shunt::plan::rules::Rules;
use tests::hand::Rig;
use tests::netns::address_line;

/// Connects and datagrams of an ordinary run.
const STORM: u64 = 150_000;
/// Threads that connect and send.
const CLIENTS: u64 = 2;
const SERVICES: u8 = 6;
const ENDPOINTS: u8 = 8;
/// Between two changes.
const PACE: Duration = Duration::from_millis(5);
/// How long an endpoint that was withdrawn may still be given to somebody: a client that had begun.
const GRACE: Duration = Duration::from_millis(50);
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const NODE: &str = "here";

fn backend(service: u8, endpoint: u8) -> IpAddr {
    [10, 244, service, 1 + endpoint].into()
}

/// Service and endpoint at a backend's address.
fn at(ip: IpAddr) -> Option<(u8, u8)> {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 244, service, last] if service < SERVICES && (1..=ENDPOINTS).contains(&last) => {
                Some((service, last - 1))
            }
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

fn vip(number: u8) -> IpAddr {
    [10, 96, 0, 1 + number].into()
}

/// What clients may know of one Service. The version is odd while a change of its address is under way.
#[derive(Default)]
struct Known {
    version: AtomicU64,
    vip: AtomicU64,
    /// For each endpoint: since when it is out, in milliseconds of the run; zero: it is in.
    out_since: [AtomicU64; ENDPOINTS as usize],
}

struct Shared {
    known: Vec<Known>,
    start: Instant,
    stop: AtomicBool,
    changes: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// What the writer holds of one Service.
struct Shop {
    vip: u8,
    is_local: bool,
    is_sticky: bool,
    is_in: [bool; ENDPOINTS as usize],
}

struct Writer<'a> {
    sync: Sync<KernelStore>,
    shops: Vec<Shop>,
    shared: &'a Shared,
    random: Rng,
    /// Whether clients are told of a new address.
    tells: bool,
}

impl<'a> Writer<'a> {
    fn new(rig: &Rig, shared: &'a Shared, tells: bool) -> Self {
        let options = SyncOptions {
            node_name: NODE.to_owned(),
            node_ports: NodePortAddresses::All,
            serve_local_vips: false,
            expected: Listing::ALL.to_vec(),
            rules: Rules::for_shards(2),
            order: StoreOrder::Planned,
        };
        let store = KernelStore::open(rig.loaded.kernel_maps().unwrap()).unwrap();
        let shop = |number| Shop {
            vip: number,
            is_local: false,
            is_sticky: false,
            is_in: [true; ENDPOINTS as usize],
        };
        let sync = Sync::adopt(store, options).unwrap();
        let mut writer =
            Self { sync, shops: (0..SERVICES).map(shop).collect(), shared, random: Rng::with_seed(3), tells };
        let mut events: Vec<Event> = Listing::ALL.map(Event::ListEnded).into();
        events.extend((0..SERVICES).flat_map(|number| writer.events_of(number)));
        writer.take(events);
        for (number, known) in (0..SERVICES).zip(&shared.known) {
            known.vip.store(u64::from(number), Ordering::Release);
        }
        writer
    }

    fn take(&mut self, events: Vec<Event>) {
        self.sync.take(events);
        loop {
            let clock = self.shared.now();
            let outcome = self.sync.sync(|| clock);
            assert!(outcome.error.is_none() && outcome.refused.is_empty(), "{outcome:?}");
            if outcome.is_settled {
                return;
            }
            // Ids that rest.
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn events_of(&self, number: u8) -> Vec<Event> {
        let shop = &self.shops[usize::from(number)];
        let name = format!("shop-{number}");
        let port =
            |name: &str, protocol| ServicePort { name: name.into(), protocol, port: PORT, node_port: None };
        let policy = if shop.is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let service = Service {
            name: ObjectName::new("storm", &name),
            cluster_ips: vec![vip(shop.vip)],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
            affinity_seconds: shop.is_sticky.then_some(600),
            internal_policy: policy,
            external_policy: policy,
            health_check_node_port: None,
        };
        let endpoint = |index: u8| Endpoint {
            addr: backend(number, index),
            node: Some(if index.is_multiple_of(2) { NODE } else { "elsewhere" }.into()),
            ready: true,
            serving: true,
            terminating: false,
            hints: None,
        };
        let ports = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)].map(|(name, protocol)| SlicePort {
            name: name.into(),
            protocol,
            port: BACKEND_PORT,
        });
        let slice = EndpointSlice {
            name: ObjectName::new("storm", &name),
            service: name.into(),
            family: Family::V4,
            endpoints: (0..ENDPOINTS).filter(|index| shop.is_in[usize::from(*index)]).map(endpoint).collect(),
            ports: ports.into(),
            triggered_at: None,
        };
        vec![Event::ServiceApplied(Arc::new(service)), Event::SliceApplied(Arc::new(slice))]
    }

    /// One change, in force when this returns.
    fn change(&mut self) {
        let number = self.random.u8(..SERVICES);
        let what = self.random.u32(..20);
        let known = &self.shared.known[usize::from(number)];
        match what {
            0 => self.move_service(number),
            1 | 2 => {
                let shop = &mut self.shops[usize::from(number)];
                shop.is_local = !shop.is_local;
            }
            3 | 4 => {
                let shop = &mut self.shops[usize::from(number)];
                shop.is_sticky = !shop.is_sticky;
            }
            _ => {
                // Endpoint 0, which is on this node, stays: somebody can always serve, whatever the policy.
                let index = 1 + self.random.usize(..usize::from(ENDPOINTS) - 1);
                let shop = &mut self.shops[usize::from(number)];
                shop.is_in[index] = !shop.is_in[index];
                if shop.is_in[index] {
                    known.out_since[index].store(0, Ordering::Release);
                }
            }
        }
        if what != 0 {
            self.take(self.events_of(number));
        }
        let now = self.shared.now().max(1);
        for (is_in, since) in self.shops[usize::from(number)].is_in.iter().zip(&known.out_since) {
            if !is_in && since.load(Ordering::Acquire) == 0 {
                since.store(now, Ordering::Release);
            }
        }
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Deletes a Service and makes it anew at another address; sometimes one that another Service has had.
    fn move_service(&mut self, number: u8) {
        let free: Vec<u8> =
            (0..2 * SERVICES).filter(|vip| self.shops.iter().all(|shop| shop.vip != *vip)).collect();
        let next = *self.random.choice(&free).unwrap();
        let known = &self.shared.known[usize::from(number)];
        known.version.fetch_add(1, Ordering::AcqRel);
        self.take(vec![Event::ServiceDeleted(ObjectName::new("storm", &format!("shop-{number}")))]);
        self.shops[usize::from(number)].vip = next;
        self.take(self.events_of(number));
        if self.tells {
            known.vip.store(u64::from(next), Ordering::Release);
        }
        known.version.fetch_add(1, Ordering::AcqRel);
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.change();
            thread::sleep(PACE);
        }
    }
}

/// What one client counted.
#[derive(Debug, Default)]
struct Count {
    tries: u64,
    /// The address of the Service changed meanwhile: any outcome is right.
    raced: u64,
    failed: BTreeMap<String, u64>,
    served: BTreeMap<(u8, u8), u64>,
}

struct Client<'a> {
    shared: &'a Shared,
    random: Rng,
    count: Count,
    /// Sockets that are not connected and live long.
    free: Vec<UdpSocket>,
}

impl Client<'_> {
    fn run(mut self, tries: u64) -> Count {
        while self.count.tries < tries {
            let number = self.random.u8(..SERVICES);
            let known = &self.shared.known[usize::from(number)];
            let before = known.version.load(Ordering::Acquire);
            let ip = vip(known.vip.load(Ordering::Acquire) as u8);
            let outcome = self.once(SocketAddr::new(ip, PORT));
            self.count.tries += 1;
            if before % 2 == 1 || known.version.load(Ordering::Acquire) != before {
                self.count.raced += 1;
                continue;
            }
            let problem = match outcome {
                Ok(ip) => match at(ip) {
                    Some((service, endpoint)) if service == number => {
                        *self.count.served.entry((service, endpoint)).or_default() += 1;
                        self.is_stale(service, endpoint).then(|| "a backend that had gone".to_owned())
                    }
                    other => Some(format!("a wrong service: {other:?}")),
                },
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                *self.count.failed.entry(problem).or_default() += 1;
            }
        }
        self.count
    }

    fn is_stale(&self, service: u8, endpoint: u8) -> bool {
        let since =
            self.shared.known[usize::from(service)].out_since[usize::from(endpoint)].load(Ordering::Acquire);
        since != 0 && self.shared.now() > since + GRACE.as_millis() as u64
    }

    /// Reaches the Service once by some way; the address of whoever serves.
    fn once(&mut self, target: SocketAddr) -> io::Result<IpAddr> {
        match self.random.u32(..10) {
            0..3 => {
                let stream = TcpStream::connect(target)?;
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                Ok(stream.local_addr()?.ip())
            }
            3..5 => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(target)?;
                Ok(socket.local_addr()?.ip())
            }
            _ => {
                let index = self.random.usize(..self.free.len());
                if self.random.u32(..200) == 0 {
                    self.free[index] = datagrams()?;
                }
                self.free[index].send_to(b"?", target)?;
                let mut name = [0; 2];
                let (_, from) = self.free[index].recv_from(&mut name)?;
                if from != target {
                    return Err(io::Error::other(format!("an answer from {from} instead of the frontend")));
                }
                Ok(backend(name[0], name[1]))
            }
        }
    }
}

fn datagrams() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Takes connections off the queues, and answers datagrams with the name of whoever got them.
fn serve(shared: &Shared, streams: &[TcpListener], sockets: &[((u8, u8), UdpSocket)]) {
    let mut buffer = [0; 16];
    let mut ready = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        for listener in streams {
            while listener.accept().is_ok() {}
        }
        ready.clear();
        ready.extend(
            sockets
                .iter()
                .map(|(_, socket)| rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)),
        );
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        if rustix::event::poll(&mut ready, Some(&limit)).is_err() {
            continue;
        }
        let hit = sockets.iter().zip(&ready).filter(|(_, ready)| !ready.revents().is_empty());
        for ((who, socket), _) in hit {
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                // A client that has given up has no socket any more.
                let _ = socket.send_to(&[who.0, who.1], from);
            }
        }
    }
}

/// What all clients counted, and the changes that were made meanwhile.
struct Storm {
    counts: Vec<Count>,
    changes: u64,
    took: Duration,
}

fn blow(tries: u64, tells: bool) -> Storm {
    let rig = Rig::new("storm").unwrap();
    rig.remember_clients().unwrap();
    let all: Vec<(u8, u8)> = everybody().collect();
    let lines: Vec<String> =
        all.iter().map(|(service, endpoint)| address_line("lo", backend(*service, *endpoint), 32)).collect();
    rig.netns.ip_batch(&lines).unwrap();
    let shared = Shared {
        known: (0..SERVICES).map(|_| Known::default()).collect(),
        start: Instant::now(),
        stop: AtomicBool::new(false),
        changes: AtomicU64::new(0),
    };
    let (streams, sockets) = rig.netns.inside(|| listen(&all)).unwrap();
    let writer = Writer::new(&rig, &shared, tells);
    let counts: Vec<Count> = thread::scope(|scope| {
        scope.spawn(|| serve(&shared, &streams, &sockets));
        scope.spawn(|| writer.run());
        let work: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let (rig, shared) = (&rig, &shared);
                scope.spawn(move || {
                    let run = || {
                        let free = (0..8).map(|_| datagrams().unwrap()).collect();
                        let client =
                            Client { shared, random: Rng::with_seed(seed), count: Count::default(), free };
                        client.run(tries / CLIENTS)
                    };
                    rig.netns.inside(run).unwrap()
                })
            })
            .collect();
        let counts = work.into_iter().map(|client| client.join().unwrap()).collect();
        shared.stop.store(true, Ordering::Relaxed);
        counts
    });
    Storm { counts, changes: shared.changes.load(Ordering::Relaxed), took: shared.start.elapsed() }
}

fn everybody() -> impl Iterator<Item = (u8, u8)> {
    (0..SERVICES).flat_map(|service| (0..ENDPOINTS).map(move |endpoint| (service, endpoint)))
}

type Listening = (Vec<TcpListener>, Vec<((u8, u8), UdpSocket)>);

fn listen(all: &[(u8, u8)]) -> Listening {
    let place = |who: &(u8, u8)| SocketAddr::new(backend(who.0, who.1), BACKEND_PORT);
    let stream = |who| {
        let listener = TcpListener::bind(place(who)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let datagram = |who| {
        let socket = UdpSocket::bind(place(who)).unwrap();
        socket.set_nonblocking(true).unwrap();
        (*who, socket)
    };
    (all.iter().map(stream).collect(), all.iter().map(datagram).collect())
}

impl Storm {
    fn sum(&self, of: fn(&Count) -> u64) -> u64 {
        self.counts.iter().map(of).sum()
    }

    fn failed(&self) -> Vec<(&String, &u64)> {
        self.counts.iter().flat_map(|count| &count.failed).collect()
    }
}

#[test]
fn no_connect_and_no_datagram_fails_or_meets_a_wrong_service() {
    let tries = std::env::var("SHUNT_STORM").map_or(STORM, |text| text.parse().unwrap());
    let storm = blow(tries, true);
    println!(
        "{} connects and datagrams in {:?} under {} changes, {} while an address changed",
        storm.sum(|count| count.tries),
        storm.took,
        storm.changes,
        storm.sum(|count| count.raced),
    );
    assert!(storm.failed().is_empty(), "{:?}", storm.failed());
    assert!(storm.sum(|count| count.raced) * 20 < storm.sum(|count| count.tries), "too few that count");
    let served: BTreeSet<_> = storm.counts.iter().flat_map(|count| count.served.keys()).collect();
    assert_eq!(served.len(), everybody().count(), "every backend took its part");
    assert!(storm.changes > 50);
}

/// The control: where clients are not told that a Service has moved, they fail or meet whoever has its address now.
#[test]
fn clients_that_are_not_told_of_a_move_fail() {
    let storm = blow(STORM / 5, false);
    assert!(!storm.failed().is_empty(), "a storm that cannot fail proves nothing");
}
