//! One cluster, filled once: what `bench scale` measures in a process of its own, so that the heap of one run is not
//! in the figures of the next.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use proxy_common::counter;
use rustix::net::connect_unspec;
use serde::{Deserialize, Serialize};
use shunt::agent::sync::{Sync, SyncOptions};
use shunt::maps::apply::StoreOrder;
use shunt::maps::store::KernelStore;
use shunt::model::Event;
use shunt::plan::node::NodePortAddresses;
use shunt::plan::rules::Rules;
use shunt::sys::bpf;
use socket2::{Domain, Protocol, Socket, Type};

use super::objects::{LISTINGS, PODS, TARGET_PORT, World, dialled};
use super::stamped::Stamped;
use super::{Size, manifests, memory, native};
use crate::bench::estimate::{float, take_quantile};
use crate::bench::runs::{Batches, count};
use crate::bench::site::connect;
use crate::hand::Rig;

/// Changes of one endpoint that are timed, each of another service.
const CHANGES: u32 = 1_000;
/// Between two changes: caches cool down, ids leave quarantine, as under a busy cluster.
const PAUSE: Duration = Duration::from_millis(5);
/// Batches of connects to random services.
const BATCHES: u32 = 100;
/// Manifests are read up to this many services: text of 100 000 says nothing new.
const MANIFESTS_MAX: u32 = 10_000;

/// What one run measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) manifests: Option<(f64, f64)>,
    pub(super) fill: Fill,
    pub(super) map_bytes: BTreeMap<String, u64>,
    /// Nanoseconds a decision in user space.
    pub(super) decide: f64,
    pub(super) picks: Picks,
    pub(super) changes: Changes,
}

/// From model objects to maps, in milliseconds and bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fill {
    pub(super) take: f64,
    pub(super) first: f64,
    pub(super) rest: f64,
    /// `RssAnon` before there was any object, once the state had them, and once the maps did.
    pub(super) anonymous: [u64; 3],
}

/// Nanoseconds a run of connect4 over random services.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Picks {
    pub(super) again: f64,
    pub(super) with_record: f64,
}

/// Microseconds from a changed slice.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Changes {
    pub(super) count: usize,
    /// To the store of the head: half of all changes, 99 of 100, all.
    pub(super) head: [f64; 3],
    /// To the end of the batch, likewise.
    pub(super) batch: [f64; 3],
}

struct Run {
    world: World,
    rig: Rig,
    sync: Sync<Stamped<KernelStore>>,
    start: Instant,
}

/// Measures a cluster of `size`.
pub(super) fn sample(size: Size) -> Result<Sample> {
    let world = World::new(size.services, size.endpoints);
    let (mut run, fill) = Run::fill(world)?;
    let map_bytes = memory::maps(run.rig.pin_dir())?;
    let mut random = Rng::with_seed(3);
    let decide = native::decide(&run.sync.store().inner, &run.world, &mut random)?;
    let picks = run.connect(&mut random)?;
    let changes = run.change(&mut random)?;
    // Last, since what it leaves of the heap would be in the other figures.
    let manifests = if size.services <= MANIFESTS_MAX { Some(manifests::read(&run.world)?) } else { None };
    Ok(Sample { manifests, fill, map_bytes, decide, picks, changes })
}

impl Run {
    fn fill(world: World) -> Result<(Self, Fill)> {
        let rig = Rig::new("scale")?;
        let store = Stamped::new(KernelStore::open(rig.loaded.kernel_maps()?)?);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let options = SyncOptions {
            node_name: "bench".to_owned(),
            node_ports: NodePortAddresses::All,
            serve_local_vips: false,
            expected: LISTINGS.into(),
            rules: Rules::for_shards(counter::shards(processors as u32)),
            order: StoreOrder::Planned,
        };
        let sync = Sync::adopt(store, options)?;
        let mut run = Self { world, rig, sync, start: Instant::now() };
        let before = memory::anonymous()?;
        let events = run.world.events();
        let start = Instant::now();
        run.sync.take(events);
        let take = milliseconds(start.elapsed());
        let taken = memory::anonymous()?;
        let start = Instant::now();
        run.sync()?;
        let end = Instant::now();
        let (first_write, _) = run.sync.store().take_stamps();
        let first_write = first_write.context("the fill wrote nothing")?;
        let cells = run.sync.planner().actual().cells().count();
        ensure!(cells == run.world.services as usize, "{cells} cells");
        let fill = Fill {
            take,
            first: milliseconds(first_write - start),
            rest: milliseconds(end - first_write),
            anonymous: [before, taken, memory::anonymous()?],
        };
        Ok((run, fill))
    }

    fn sync(&mut self) -> Result<()> {
        let outcome = self.sync.sync(|| self.start.elapsed().as_millis() as u64);
        ensure!(outcome.error.is_none(), "sync: {:?}", outcome.error);
        ensure!(outcome.is_settled && outcome.refused.is_empty(), "refused: {:?}", outcome.refused.first());
        Ok(())
    }

    /// Connects to random services; every pod address is on the loopback device, and one listener serves them all.
    fn connect(&self, random: &mut Rng) -> Result<Picks> {
        self.rig.netns.add_route(&format!("local {PODS} dev lo"))?;
        let (rig, world) = (&self.rig, &self.world);
        self.rig.netns.inside(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            listener.set_nonblocking(true)?;
            listener.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGET_PORT)).into())?;
            listener.listen(4_096)?;
            let _stats = bpf::enable_run_time_stats().context("turn on run-time statistics")?;
            let mut vip = || dialled(random.u32(..world.services));
            let (mut again, mut with_record) = (Batches::default(), Batches::default());
            for _ in 0..BATCHES {
                with_record.add(count(rig, "connect4", || connect(vip()).map(drop))?);
                let socket = connect(vip())?;
                again.add(count(rig, "connect4", || {
                    connect_unspec(&socket)?;
                    socket.connect(&vip().into())
                })?);
                while listener.accept().is_ok() {}
            }
            anyhow::Ok(Picks { again: again.typical()?, with_record: with_record.typical()? })
        })?
    }

    /// Replaces one pod each of many services.
    fn change(&mut self, random: &mut Rng) -> Result<Changes> {
        let mut services: Vec<u32> = (0..self.world.services).collect();
        random.shuffle(&mut services);
        services.truncate(CHANGES as usize);
        let (mut head, mut batch) = (Vec::new(), Vec::new());
        self.sync.store().take_stamps();
        for service in services {
            let event = Event::SliceApplied(self.world.changed_slice(service).into());
            std::thread::sleep(PAUSE);
            let start = Instant::now();
            self.sync.take([event]);
            self.sync()?;
            batch.push(microseconds(start.elapsed()));
            let (_, last_head) = self.sync.store().take_stamps();
            head.push(microseconds(last_head.context("a change stored no head")? - start));
        }
        let count = head.len();
        Ok(Changes { count, head: quantiles(&mut head)?, batch: quantiles(&mut batch)? })
    }
}

fn quantiles(samples: &mut [f64]) -> Result<[f64; 3]> {
    let mut quantile = |share| take_quantile(samples, share).context("no samples");
    Ok([quantile(0.5)?, quantile(0.99)?, quantile(1.0)?])
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Sample {
    /// Megabytes of all maps.
    pub(super) fn map_megabytes(&self) -> f64 {
        float(self.map_bytes.values().sum()) / 1e6
    }
}
