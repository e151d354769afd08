//! What a translated TCP socket is remembered by: its place in `TCP_PEERS`, or its own storage where that is taken.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use proxy_common::counter::reason_element;
use proxy_common::names::{TCP_PEERS, TCP_SOCKETS};
use proxy_common::reason::DropReason;
use proxy_common::service::ViewWord;
use proxy_common::socket::{PEER_PLACES, TcpPeer, peer_place};
use rustix::net::sockopt::socket_cookie;
use shunt::datapath::pin::MapSet;
use shunt::maps::{WordTable, Words};
use shunt::sys::map::Map;
use tests::hand::{Rig, VIP};

/// A cookie that no socket has.
const STRANGER: u64 = u64::MAX;
/// Bytes of a place.
const PLACE: usize = size_of::<TcpPeer>();

struct Peers {
    rig: Rig,
    listener: TcpListener,
    places: Map,
}

impl Peers {
    fn new(label: &str) -> Self {
        let mut rig = Rig::new(label).unwrap();
        let listener = rig.listeners(1).unwrap().remove(0);
        rig.write_row(1, listener.local_addr().unwrap()).unwrap();
        rig.write_slots(0, &[1]).unwrap();
        rig.switch_to(ViewWord::random(0, 1)).unwrap();
        rig.insert_vip().unwrap();
        let places = Map::open_pinned(&rig.pin_dir().directory(MapSet::Sockets).join(TCP_PEERS)).unwrap();
        Self { rig, listener, places }
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self.rig.netns.inside(|| TcpStream::connect(to)).unwrap().unwrap();
        self.listener.accept().unwrap();
        stream
    }

    /// Who has the place of `cookie`.
    fn holder(&self, cookie: u64) -> u64 {
        let place = self.places.lookup(&peer_place(cookie).to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(place[..8].try_into().unwrap())
    }

    /// Places that somebody has.
    fn taken(&self) -> usize {
        let (_, values) = self.places.entries().unwrap();
        values.chunks(PLACE).filter(|place| place[..8] != [0; 8]).count()
    }

    /// Gives every place to somebody else.
    fn fill(&self) {
        let mut place = [0; PLACE];
        place[..8].copy_from_slice(&STRANGER.to_ne_bytes());
        for index in 0..PEER_PLACES {
            self.places.update(&index.to_ne_bytes(), &place).unwrap();
        }
    }
}

#[test]
fn a_socket_has_a_place_until_it_is_closed() {
    let peers = Peers::new("places");
    let streams: Vec<TcpStream> = (0..20).map(|_| peers.connect(VIP)).collect();
    for stream in &streams {
        let cookie = socket_cookie(stream).unwrap();
        assert_eq!(peers.holder(cookie), cookie);
        assert_eq!(stream.peer_addr().unwrap(), VIP);
    }
    let twin = streams[0].try_clone().unwrap();
    assert_eq!(peers.taken(), 20);
    drop(streams);
    assert_eq!((peers.taken(), twin.peer_addr().unwrap()), (1, VIP), "a descriptor is left");
    drop(twin);
    assert_eq!(peers.taken(), 0);
    let direct = peers.connect(peers.listener.local_addr().unwrap());
    assert_eq!(direct.peer_addr().unwrap(), peers.listener.local_addr().unwrap());
    assert_eq!(peers.taken(), 0, "a socket that was not translated needs none");
}

#[test]
fn where_its_place_is_taken_a_socket_itself_remembers() {
    let peers = Peers::new("overflow");
    peers.fill();
    let stream = peers.connect(VIP);
    let cookie = socket_cookie(&stream).unwrap();
    assert_eq!((peers.holder(cookie), stream.peer_addr().unwrap()), (STRANGER, VIP));
    drop(stream);
    assert_eq!(peers.taken(), PEER_PLACES as usize, "nobody gives back what another has");
    assert!(peers.rig.pin_dir().directory(MapSet::Sockets).join(TCP_SOCKETS).exists());
}

/// A socket of the kernel's own, as of NFS, belongs to the cgroup in which it was made, and a kernel thread of the root
/// connects it. No hook runs when it is closed.
#[test]
fn what_is_connected_from_the_root_cgroup_gets_no_place() {
    let peers = Peers::new("root");
    let open =
        || rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let [from_inside, from_root] = [(); 2].map(|()| peers.rig.netns.inside(open).unwrap().unwrap());
    let connect = |socket: &OwnedFd| {
        rustix::net::connect(socket, &VIP).unwrap();
        std::net::TcpStream::from(socket.try_clone().unwrap()).peer_addr().unwrap()
    };
    assert_eq!((connect(&from_inside), peers.taken()), (VIP, 1));
    let root = shunt::sys::cgroup::true_root().unwrap();
    let processes = format!("/proc/self/fd/{}/cgroup.procs", root.as_raw_fd());
    std::fs::write(processes, std::process::id().to_string()).unwrap();
    let shown = connect(&from_root);
    peers.rig.enter().unwrap();
    assert_eq!((shown, peers.taken()), (VIP, 1), "it is remembered, but not in a place");
}

#[test]
fn a_socket_that_is_connected_again_is_remembered_by_its_last_connect() {
    let peers = Peers::new("again");
    let stream = peers.connect(VIP);
    let other = peers.rig.netns.inside(|| TcpListener::bind("127.0.1.9:8080")).unwrap().unwrap();
    let again = |to: SocketAddr| {
        rustix::net::connect_unspec(&stream).unwrap();
        rustix::net::connect(&stream, &to).unwrap();
        stream.peer_addr().unwrap()
    };
    peers.fill();
    assert_eq!(again(VIP), VIP, "its place was taken away: the socket remembers");
    let other = other.local_addr().unwrap();
    assert_eq!(again(other), other);
    let cookie = socket_cookie(&stream).unwrap();
    let free = [0; PLACE];
    peers.places.update(&peer_place(cookie).to_ne_bytes(), &free).unwrap();
    assert_eq!((again(VIP), peers.holder(cookie)), (VIP, cookie));
}

/// A socket's own storage is memory of the socket, of which a namespace may allow nothing.
#[test]
fn without_storage_tcp_goes_on_and_udp_is_refused() {
    let peers = Peers::new("no-storage");
    let server = peers.rig.netns.inside(|| UdpSocket::bind("127.0.1.1:8080")).unwrap().unwrap();
    let datagrams = || peers.rig.netns.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let (before, counted) = (datagrams(), || no_record(&peers.rig));
    before.send_to(b"?", VIP).unwrap();
    peers.fill();
    peers.rig.netns.sysctls(&[("net/core/optmem_max", "0")]).unwrap();
    assert_eq!(counted(), 0);

    // It has no place and no storage: what it loses is the name of its peer.
    let stream = peers.connect(VIP);
    assert_eq!(stream.peer_addr().unwrap(), peers.listener.local_addr().unwrap());
    // An answer would come from a stranger: better to hear of it at once.
    let after = datagrams();
    for outcome in [after.send_to(b"?", VIP).map(drop), after.connect(VIP)] {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::ENOBUFS));
    }
    assert_eq!(counted(), 2);
    // Who has a record keeps it, and what is nobody's frontend needs none.
    before.send_to(b"?", VIP).unwrap();
    after.send_to(b"?", server.local_addr().unwrap()).unwrap();
    assert_eq!(counted(), 2);
}

/// How often a UDP socket could not be remembered.
fn no_record(rig: &Rig) -> u64 {
    let first = reason_element(DropReason::NoRecord as u8, 2, 0);
    (first..first + 2).map(|element| rig.store.load(WordTable::Counters, u64::from(element)).unwrap()).sum()
}
