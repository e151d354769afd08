//! The thread that keeps programs at devices. The kernel waits for a grace period with each that is attached: for the devices of
//! a hundred pods that is seconds, in which the loop has other things to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing::{info, warn};

use crate::datapath::packet::Packet;
use crate::datapath::packet::effects::Effect;
use crate::datapath::packet::strangers::Stranger;
use crate::devices::Hooked;
use crate::status::Reporter;
use crate::sys::link::Side;

/// How long a start waits until the devices have their programs; those of the node come first.
const BEGIN: Duration = Duration::from_secs(2);

/// What the thread is told.
struct Order {
    /// The devices from now on; `None`: those that were named last.
    wanted: Option<Vec<Hooked>>,
    /// Dropped once that is done.
    done: Option<Sender<()>>,
}

/// The thread, as the loop sees it; it ends with this.
#[derive(Debug)]
pub(super) struct Keeper {
    orders: Sender<Order>,
    is_settled: Arc<AtomicBool>,
}

impl Keeper {
    /// Starts it. Nothing is attached before it is told what is wanted.
    pub(super) fn start(packet: Packet, reporter: Reporter) -> std::io::Result<Self> {
        let (orders, received) = channel();
        let is_settled = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            packet,
            wanted: None,
            told: BTreeSet::new(),
            failed: BTreeMap::new(),
            reporter,
            is_settled: Arc::clone(&is_settled),
        };
        let thread = std::thread::Builder::new().name("shunt-devices".to_owned());
        thread.spawn(move || worker.run(&received))?;
        Ok(Self { orders, is_settled })
    }

    /// These are the first devices; returns once they have their programs, or after a while.
    pub(super) fn begin(&self, devices: Vec<Hooked>) {
        let (done, is_done) = channel();
        self.send(Order { wanted: Some(devices), done: Some(done) });
        // Nothing is ever sent: it is dropped, or the time is over.
        let _ = is_done.recv_timeout(BEGIN);
    }

    /// From now on these are the devices.
    pub(super) fn want(&self, devices: Vec<Hooked>) {
        self.send(Order { wanted: Some(devices), done: None });
    }

    /// Looks again, and mends what somebody else has changed.
    pub(super) fn look_again(&self) {
        self.send(Order { wanted: None, done: None });
    }

    /// Whether nothing of an agent before this one is at a device any more.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    fn send(&self, order: Order) {
        if self.orders.send(order).is_err() {
            warn!("the thread that attaches to devices has ended: they stay as they are");
        }
    }
}

/// The thread itself.
struct Worker {
    packet: Packet,
    /// `None`: nobody has said yet.
    wanted: Option<Vec<Hooked>>,
    /// What was told of programs of others, and of devices that failed.
    told: BTreeSet<(String, Side, Stranger)>,
    failed: BTreeMap<u32, String>,
    reporter: Reporter,
    is_settled: Arc<AtomicBool>,
}

impl Worker {
    fn run(&mut self, orders: &Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut waiting = Vec::new();
            // What has queued up meanwhile is done at once: only the last list counts.
            for order in std::iter::once(first).chain(orders.try_iter()) {
                if let Some(mut wanted) = order.wanted {
                    wanted.sort_by_key(|device| (device.leads_to_pods, device.index));
                    self.wanted = Some(wanted);
                }
                waiting.extend(order.done);
            }
            self.apply();
            self.is_settled.store(self.packet.is_settled(), Ordering::Release);
        }
    }

    fn apply(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let applied = match self.packet.apply(wanted) {
            Ok(applied) => applied,
            Err(error) => {
                warn!(%error, "devices stay as they are, and are looked at again");
                self.reporter.warn(format!("devices of the packet path: {error}"));
                return;
            }
        };
        let name = |index: u32| {
            let known = wanted.iter().find(|device| device.index == index);
            known.map_or_else(|| index.to_string(), |device| device.name.clone())
        };
        for effect in &applied.done {
            log(effect, &name(effect.device()));
        }
        let mut failed = BTreeMap::new();
        for failure in applied.failures.into_iter().filter(|failure| !failure.is_gone) {
            let text = format!("device {}: {}", name(failure.device), failure.error);
            if self.failed.get(&failure.device) != Some(&text) {
                warn!("{text}");
                self.reporter.warn(text.clone());
            }
            failed.insert(failure.device, text);
        }
        let devices = wanted.iter().map(|device| device.name.clone()).collect();
        self.failed = failed;
        self.tell_of_strangers();
        self.reporter.update(|status| {
            if let Some(packet) = &mut status.packet {
                packet.devices = devices;
            }
        });
    }

    /// Each is told once, for as long as it is there.
    fn tell_of_strangers(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let found = match self.packet.strangers(wanted) {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "programs of others at devices cannot be listed");
                return;
            }
        };
        for (device, side, stranger) in found.difference(&self.told) {
            let place = if stranger.is_outside { "between the wire and ours" } else { "behind ours" };
            warn!(
                device,
                hook = side.name(),
                program = stranger.name,
                id = stranger.id,
                "a program of somebody else is {place}"
            );
        }
        self.told = found;
    }
}

fn log(effect: &Effect, device: &str) {
    match effect {
        Effect::Attach(_, side) => info!(device, hook = side.name(), "attached"),
        Effect::Replace(_, side) => info!(device, hook = side.name(), "replaced"),
        Effect::Detach(_, side) => info!(device, hook = side.name(), "detached"),
        Effect::Tell(..) | Effect::Unpin(..) | Effect::Forget(_) => {}
    }
}
