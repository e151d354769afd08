//! The packet path's programs over maps that are written by hand, and packets that somebody else builds.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use etherparse::PacketBuilder;
use proxy_common::addr::Addr;
use proxy_common::nat::{Device, Ports, Settings, Timeouts};
use proxy_common::service::ViewWord;
use tests::hand;
use zerocopy::IntoBytes;

/// The programs that are tail-called, in the order of their indices.
const SLOW: [&str; 2] = ["shunt_begin", "shunt_reserve"];
const ALL: [&str; 5] = ["shunt_nothing", "shunt_arrive", "shunt_leave", "shunt_begin", "shunt_reserve"];
/// The device of a test run: the loopback of this namespace.
const DEVICE: u32 = 1;
/// Ports that change a client's.
pub(crate) const PORTS: Ports = Ports { first: 61_000, count: 4_000 };

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
        rig.set_flows_per_second(1_000_000)?;
        rig.set_device(None)?;
        Ok(rig)
    }

    /// Lets so many flows begin in a second.
    pub(crate) fn set_flows_per_second(&mut self, flows_per_second: u32) -> Result<()> {
        let settings = Settings {
            timeouts: Timeouts::KERNEL,
            ports: PORTS,
            flows_per_second,
            refusals_per_second: 1_000,
        };
        let bytes: [u8; size_of::<Settings>()] = settings.as_bytes().try_into()?;
        let mut map = Array::<_, [u8; size_of::<Settings>()]>::try_from(self.map("SETTINGS")?)?;
        Ok(map.set(0, bytes, 0)?)
    }

    /// Where packets enter and leave: by a device of pods, or by one with an address.
    pub(crate) fn set_device(&mut self, address: Option<IpAddr>) -> Result<()> {
        let of = |is_v4| address.filter(|ip| ip.is_ipv4() == is_v4).map_or(Addr::UNSPECIFIED, Addr::from);
        let device = Device { v4: of(true), v6: of(false), leads_to_pods: u32::from(address.is_none()) };
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

    /// Makes an address owned, without a frontend that anybody asks for.
    pub(crate) fn own(&mut self, ip: IpAddr) -> Result<()> {
        self.hand.insert_frontend(SocketAddr::new(ip, 1))
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        Ok(self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }

    /// Runs a packet through a program.
    pub(crate) fn run(&mut self, program: &str, packet: &[u8]) -> Result<Answer> {
        let mut out = vec![0; packet.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let result = self.program(program)?.test_run(options)?;
        out.truncate(usize::try_from(result.data_size_out)?);
        match result.return_value.cast_signed() {
            -1 => Ok(Answer::Next(out)),
            2 => Ok(Answer::Dropped),
            other => anyhow::bail!("{program} says {other}"),
        }
    }

    /// How long a program takes for a packet: the least of five runs, each so often.
    pub(crate) fn time(&mut self, program: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        let mut least = Duration::MAX;
        for _ in 0..5 {
            let mut options = TestRunOptions::new();
            options.data_in = Some(packet);
            options.repeat = repeat;
            least = least.min(self.program(program)?.test_run(options)?.duration);
        }
        Ok(least)
    }

    /// Instructions that the verifier walked, by program.
    pub(crate) fn instructions(&mut self) -> Result<Vec<(&'static str, u32)>> {
        let mut all = Vec::new();
        for name in ALL {
            let walked = self.program(name)?.info()?.verified_instruction_count();
            all.push((name, walked.context("the kernel does not say")?));
        }
        Ok(all)
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
    for name in ALL {
        let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load().with_context(|| format!("load {name}"))?;
    }
    let mut slow = ProgramArray::try_from(ebpf.take_map("SLOW").context("no map SLOW")?)?;
    for (index, name) in (0..).zip(SLOW) {
        let program: &SchedClassifier = ebpf.program(name).context("no such program")?.try_into()?;
        slow.set(index, program.fd()?, 0)?;
    }
    // The programs' use of the map ends with its last descriptor.
    std::mem::forget(slow);
    Ok(ebpf)
}

/// Flags of TCP in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcp {
    Syn,
    SynAck,
    Ack,
}

/// A packet as it is to be: `None` is UDP.
pub(crate) fn packet((from, to): (SocketAddr, SocketAddr), tcp: Option<Tcp>) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 20),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 20),
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    let payload = b"a few bytes";
    match tcp {
        None => ip.udp(from.port(), to.port()).write(&mut bytes, payload).expect("a vector takes it"),
        Some(flags) => {
            let tcp = ip.tcp(from.port(), to.port(), 7, 1_000);
            let tcp = match flags {
                Tcp::Syn => tcp.syn(),
                Tcp::SynAck => tcp.syn().ack(9),
                Tcp::Ack => tcp.ack(9),
            };
            tcp.write(&mut bytes, payload).expect("a vector takes it");
        }
    }
    bytes
}
