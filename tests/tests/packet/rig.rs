//! The packet path's programs over maps that are written by hand, and packets that somebody else builds.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{Iter, SchedClassifier, TestRun, TestRunOptions};
use aya::{Btf, Ebpf, EbpfLoader};
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::counter::reason_element;
use proxy_common::flow::{End, Flow, FlowKey, Part, Whole};
use proxy_common::frontend::FrontendKind;
use proxy_common::mark::{APART_WORD, OPENING_WORD};
use proxy_common::names::{FLOWS, INSIDE, INSIDE_POD, MARKS, OPENING, PLACES, SLOW_PROGRAMS};
use proxy_common::nat::{Device, Ports, Settings, Timeouts};
use proxy_common::node::NodeAddrFlags;
use proxy_common::reason::DropReason;
use proxy_common::service::{View, ViewWord};
use shunt::flows::{Places, Sweeper, Tables};
use shunt::maps::{Hashes, WordTable, Words};
use shunt::sys::map::Map;
use shunt::sys::mapping::Mapping;
use tests::hand;
use tests::peer::monotonic_nanoseconds;
use zerocopy::IntoBytes;

/// The programs that are attached, and the empty one.
const FIRST: [&str; 6] = [
    "shunt_nothing",
    "shunt_arrive",
    "shunt_leave",
    "shunt_arrive_pod",
    "shunt_arrive_bare",
    "shunt_leave_bare",
];
/// Shards of each counter.
const SHARDS: u32 = 1;
/// The device of a test run: the loopback of this namespace.
const DEVICE: u32 = 1;
/// Ports that change a client's.
pub(crate) const PORTS: Ports = Ports { first: 61_000, count: 4_000 };

/// What the programs are told.
pub(crate) const SETTINGS: Settings = Settings {
    timeouts: Timeouts::KERNEL,
    ports: PORTS,
    flows_per_second: 1_000_000,
    refusals_per_second: 1_000,
    open_at_once: 1_000,
    masquerades: 0,
};

/// Programs and maps. The programs go first.
pub(crate) struct Rig {
    ebpf: Ebpf,
    hand: hand::Rig,
}

/// What a program makes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It goes on like this.
    Next(Vec<u8>),
    /// It is dropped.
    Dropped,
    /// It goes out where it came in, like this.
    Back(Vec<u8>),
}

impl Rig {
    /// One service with a VIP of either family, each with the backend of that family.
    pub(crate) fn new(vip: SocketAddr, backend: SocketAddr) -> Result<Self> {
        let mut hand = hand::Rig::new("packet")?;
        hand.write_row(1, backend)?;
        hand.write_slots(2, &[1])?;
        hand.switch_to(ViewWord::random(2, 1))?;
        hand.insert_frontend(vip)?;
        let ebpf = load(&hand)?;
        let mut rig = Self { ebpf, hand };
        rig.write_settings(SETTINGS)?;
        rig.set_device(None)?;
        Ok(rig)
    }

    /// Lets so many flows begin in a second.
    pub(crate) fn set_flows_per_second(&mut self, flows_per_second: u32) -> Result<()> {
        self.write_settings(Settings { flows_per_second, ..SETTINGS })
    }

    /// Tells the programs what an agent would.
    pub(crate) fn write_settings(&mut self, settings: Settings) -> Result<()> {
        let bytes: [u8; size_of::<Settings>()] = settings.as_bytes().try_into()?;
        let mut map = Array::<_, [u8; size_of::<Settings>()]>::try_from(self.map("SETTINGS")?)?;
        Ok(map.set(0, bytes, 0)?)
    }

    /// Where packets enter and leave: by a device of pods, or by one with an address.
    pub(crate) fn set_device(&mut self, address: Option<IpAddr>) -> Result<()> {
        self.write_device(address, address.is_none())
    }

    /// The device leads to pods, and something may have this source there.
    pub(crate) fn set_device_of_pods(&mut self, address: IpAddr) -> Result<()> {
        self.write_device(Some(address), true)
    }

    fn write_device(&mut self, address: Option<IpAddr>, leads_to_pods: bool) -> Result<()> {
        let of = |is_v4| address.filter(|ip| ip.is_ipv4() == is_v4).map_or(Addr::UNSPECIFIED, Addr::from);
        let device =
            Device { v4: of(true), v6: of(false), leads_to_pods: u32::from(leads_to_pods), shortens: 0 };
        let bytes: [u8; size_of::<Device>()] = device.as_bytes().try_into()?;
        let mut map = HashMap::<_, u32, [u8; size_of::<Device>()]>::try_from(self.map("DEVICES")?)?;
        Ok(map.insert(DEVICE, bytes, 0)?)
    }

    /// The service has another backend, and the row of the first is no longer any endpoint's.
    pub(crate) fn replace_backend(&mut self, backend: SocketAddr) -> Result<()> {
        self.hand.write_row(2, backend)?;
        self.hand.write_slots(4, &[2])?;
        self.hand.switch_to(ViewWord::random(4, 1))?;
        self.hand.free_row(1)
    }

    /// The service has another frontend.
    pub(crate) fn insert_frontend(&mut self, frontend: SocketAddr) -> Result<()> {
        self.hand.insert_frontend(frontend)
    }

    /// The service is reachable at a load balancer's IP, too, by its two views for those outside and inside.
    pub(crate) fn be_balanced(&mut self, at: SocketAddr, [outside, inside]: [ViewWord; 2]) -> Result<()> {
        self.hand.insert_frontend_of(FrontendKind::LoadBalancer, at)?;
        self.hand.switch_views(&[(View::External, outside), (View::Cluster, inside)])
    }

    /// Makes an address that of a pod of some node.
    pub(crate) fn know_pod(&mut self, ip: IpAddr) -> Result<()> {
        let key = Key::new(128, *Addr::from(ip).as_bytes().first_chunk::<16>().context("an address")?);
        let mut map = LpmTrie::<_, [u8; 16], u32>::try_from(self.map(INSIDE)?)?;
        Ok(map.insert(&key, INSIDE_POD, 0)?)
    }

    /// Makes an address one of the node's own, which serves NodePorts.
    pub(crate) fn be_at(&mut self, ip: IpAddr) -> Result<()> {
        self.own(ip)?;
        let flags = NodeAddrFlags::LOCAL.union(NodeAddrFlags::NODE_PORT);
        Ok(self.hand.store.insert_node_addr(ip.into(), flags)?)
    }

    /// Makes an address owned, without a frontend that anybody asks for.
    pub(crate) fn own(&mut self, ip: IpAddr) -> Result<()> {
        self.hand.insert_frontend(SocketAddr::new(ip, 1))
    }

    /// The service is reachable over SCTP, too.
    pub(crate) fn insert_frontend_of_sctp(&mut self, at: SocketAddr) -> Result<()> {
        self.hand.insert_frontend_of_sctp(at)
    }

    /// Says that an address is a cluster IP.
    pub(crate) fn own_vip(&mut self, ip: IpAddr) -> Result<()> {
        self.hand.own_vip(ip)
    }

    /// How often something was dropped for a reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> Result<u64> {
        let load = |shard| {
            self.hand.store.load(WordTable::Counters, reason_element(reason as u8, SHARDS, shard).into())
        };
        (0..SHARDS).try_fold(0, |sum, shard| Ok(sum + load(shard)?))
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        Ok(self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    /// The service has no backend.
    pub(crate) fn serve_nobody(&mut self) -> Result<()> {
        self.hand.switch_to(ViewWord::REJECT)
    }

    /// Lets so many refusals be sent in a second.
    pub(crate) fn set_refusals_per_second(&mut self, refusals_per_second: u32) -> Result<()> {
        self.write_settings(Settings { refusals_per_second, ..SETTINGS })
    }

    /// Runs a packet through a program. Frames that leave are sent from where frames that enter are sent to: they are turned
    /// round here, and back again.
    pub(crate) fn run(&mut self, program: &str, packet: &[u8]) -> Result<Answer> {
        if program != "shunt_leave" {
            return self.run_as_it_is(program, packet);
        }
        let mut bytes = packet.to_vec();
        turn(&mut bytes);
        let mut answer = self.run_as_it_is(program, &bytes)?;
        if let Answer::Next(bytes) | Answer::Back(bytes) = &mut answer {
            turn(bytes);
        }
        Ok(answer)
    }

    /// The same for a frame as it is.
    pub(crate) fn run_as_it_is(&mut self, program: &str, packet: &[u8]) -> Result<Answer> {
        let mut out = vec![0; packet.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let result = self.program(program)?.test_run(options)?;
        out.truncate(usize::try_from(result.data_size_out)?);
        match result.return_value.cast_signed() {
            -1 => Ok(Answer::Next(out)),
            2 => Ok(Answer::Dropped),
            7 => Ok(Answer::Back(out)),
            other => anyhow::bail!("{program} says {other}"),
        }
    }

    /// The sweep over both tables, as an agent has it.
    pub(crate) fn sweeper(&mut self) -> Result<Sweeper> {
        let btf = Btf::from_sys_fs()?;
        let program: &mut Iter = self.ebpf.program_mut("shunt_sweep").context("no sweep")?.try_into()?;
        if program.fd().is_err() {
            program.load("bpf_map_elem", &btf)?;
        }
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        let [flows, opening, places] = [self.open(FLOWS)?, self.open(OPENING)?, self.open(PLACES)?];
        let (marks, settings) = (self.open(MARKS)?, self.open("SETTINGS")?);
        Ok(Sweeper::new(program.as_fd(), Tables { flows, opening, places, marks, settings })?)
    }

    /// The sweep begins another round, so many times, without looking at any record.
    pub(crate) fn pass_rounds(&mut self, rounds: u64) -> Result<()> {
        let marks = Mapping::new(&self.open(MARKS)?)?;
        let round = marks.load(0).context("no word")?;
        marks.store(0, round + rounds).context("no word")
    }

    /// Fills the main table with flows of two records, of which every second flow is over; so many records.
    pub(crate) fn fill(&mut self, records: u32) -> Result<()> {
        let flows = self.open(FLOWS)?;
        let now = monotonic_nanoseconds();
        let end = |network: u32, host: u32, port| {
            End::new(IpAddr::from(network.wrapping_add(host).to_be_bytes()).into(), Port::new(port))
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in 0..records / 2 {
            let (client, vip, backend) =
                (end(0x0b00_0000, number, 40_000), end(0x0a60_0001, 0, 80), end(0x0af4_0102, 0, 8080));
            let whole = Whole {
                client,
                inside: client.port,
                vip,
                backend,
                proto: Proto::TCP,
                flags: Flow::SETTLED,
                ..Whole::EMPTY
            };
            let used = if number % 2 == 0 { now } else { 1 };
            for part in [Part::Forward, Part::Reply] {
                let (mut key, mut flow) = (FlowKey::EMPTY, Flow::EMPTY);
                whole.key(part, &mut key);
                whole.record(part, used, &mut flow);
                keys.extend_from_slice(key.as_bytes());
                values.extend_from_slice(flow.as_bytes());
            }
        }
        flows.update_batch(&keys, &values).map_err(|(done, error)| anyhow::anyhow!("after {done}: {error}"))
    }

    /// Records of the main table, at places and elsewhere, and of those that lie apart.
    pub(crate) fn records(&self) -> Result<[usize; 2]> {
        Ok([self.elsewhere()? + self.places()?.records().count(), self.count(OPENING)?])
    }

    /// Records of the main table that found their places taken, or have none.
    pub(crate) fn elsewhere(&self) -> Result<usize> {
        self.count(FLOWS)
    }

    fn count(&self, name: &str) -> Result<usize> {
        Ok(self.open(name)?.entries()?.0.len() / size_of::<FlowKey>())
    }

    /// The places of records.
    pub(crate) fn places(&self) -> Result<Places> {
        Ok(Places::new(&self.open(PLACES)?)?)
    }

    /// When a record was last put apart, as the programs have it, and how many flows of the main table they take to be opening.
    pub(crate) fn counts(&self) -> Result<[u64; 2]> {
        let marks = Mapping::new(&self.open(MARKS)?)?;
        Ok([marks.load(APART_WORD).context("no word")?, marks.load(OPENING_WORD).context("no word")?])
    }

    /// Whether there is such a record of TCP.
    pub(crate) fn has(&self, part: Part, from: SocketAddr, to: SocketAddr) -> Result<bool> {
        let key = FlowKey::new(part, end(from), end(to), Proto::TCP);
        let lies = |name: &str| Ok::<_, anyhow::Error>(self.open(name)?.lookup(key.as_bytes())?.is_some());
        Ok(lies(FLOWS)? || lies(OPENING)? || self.places()?.records().any(|found| found.key() == key))
    }

    /// Removes a record by hand; whether it was there.
    pub(crate) fn forget(&mut self, part: Part, from: SocketAddr, to: SocketAddr) -> Result<bool> {
        let mut is_there = false;
        for name in [FLOWS, OPENING] {
            for proto in [Proto::TCP, Proto::UDP] {
                let key = FlowKey::new(part, end(from), end(to), proto);
                is_there |= self.open(name)?.delete(key.as_bytes())?;
            }
        }
        let places = self.places()?;
        let is_its = |key: &FlowKey| (key.src, key.dst, key.part) == (end(from), end(to), part as u8);
        for found in places.records().filter(|found| is_its(&found.key())) {
            // As if it were long ago: its place may be used at once.
            is_there |= places.free(&found, 200);
        }
        Ok(is_there)
    }

    fn open(&self, name: &str) -> Result<Map> {
        let fd = match self.ebpf.map(name).with_context(|| format!("no map {name}"))? {
            aya::maps::Map::Array(map) | aya::maps::Map::HashMap(map) | aya::maps::Map::LruHashMap(map) => {
                map.fd()
            }
            _ => anyhow::bail!("{name} is of another type"),
        };
        Ok(Map::from_fd(fd.as_fd().try_clone_to_owned()?)?)
    }

    /// How long a program takes for a packet: the least of five runs, each so often.
    pub(crate) fn time(&mut self, program: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        let mut least = Duration::MAX;
        let mut packet = packet.to_vec();
        if program == "shunt_leave" {
            turn(&mut packet);
        }
        for _ in 0..5 {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&packet);
            options.repeat = repeat;
            least = least.min(self.program(program)?.test_run(options)?.duration);
        }
        Ok(least)
    }

    /// Instructions that the verifier walked, by program.
    pub(crate) fn instructions(&mut self) -> Result<Vec<(&'static str, u32)>> {
        let mut all = Vec::new();
        for name in FIRST.into_iter().chain(SLOW_PROGRAMS) {
            let walked = self.program(name)?.info()?.verified_instruction_count();
            all.push((name, walked.context("the kernel does not say")?));
        }
        Ok(all)
    }
}

fn end(at: SocketAddr) -> End {
    End::new(at.ip().into(), Port::new(at.port()))
}

/// Turns a frame's addresses round.
fn turn(frame: &mut [u8]) {
    if let Some((to, from)) = frame.get_mut(..12).map(|addresses| addresses.split_at_mut(6)) {
        to.swap_with_slice(from);
    }
}

fn load(hand: &hand::Rig) -> Result<Ebpf> {
    let path = std::env::var_os("SHUNT_PACKET_OBJECT").unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy-userspace/bpf/packet.bpf.o").into_os_string()
    });
    let object = fs::read(&path)
        .with_context(|| format!("read {}: build it by `cargo xtask ebpf`", Path::new(&path).display()))?;
    let mut loader = EbpfLoader::new();
    for (name, path) in hand.pin_dir().map_paths() {
        ensure!(path.exists(), "{} is not pinned", path.display());
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(&object)?;
    for name in FIRST.into_iter().chain(SLOW_PROGRAMS) {
        let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load().with_context(|| format!("load {name}"))?;
    }
    let mut slow = ProgramArray::try_from(ebpf.take_map("SLOW").context("no map SLOW")?)?;
    for (index, name) in (0..).zip(SLOW_PROGRAMS) {
        let program: &SchedClassifier = ebpf.program(name).context("no such program")?.try_into()?;
        slow.set(index, program.fd()?, 0)?;
    }
    // The programs' use of the map ends with its last descriptor.
    std::mem::forget(slow);
    Ok(ebpf)
}
