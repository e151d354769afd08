//! The two threads that look after clients.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use proxy_common::registry::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};
use zerocopy::FromBytes;

use super::Guard;
use super::movement::{Mover, Pass};
use super::registry::Registry;
use crate::maps::clients::Affinity;
use crate::status::Reporter;
use crate::sys::schedule;

/// How long a quiet ring is waited for before the housekeeping is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Between two sweeps of the registry.
const SWEEP: Duration = Duration::from_secs(10);
/// New namespaces after which it is swept at once: pods that live for an instant must not fill it.
const SWEEP_AFTER: u32 = 1_000;
/// Between two looks at the size of the affinity table.
const GROW: Duration = Duration::from_secs(5);
/// Between two passes over the UDP sockets at least, however fast endpoints change; and four times as long as the pass
/// before took, so that they take a fifth of a processor at most.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two passes where one has left something to be tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Between two passes where nothing has happened: sockets that wait keep the guard in force.
const QUIET: Duration = Duration::from_mins(1);

/// What the threads work with.
pub struct Parts {
    /// What hooks report.
    pub events: RingBuf<MapData>,
    /// The registry.
    pub registry: Registry,
    /// The guard.
    pub guard: Guard,
    /// The affinity table.
    pub affinity: Affinity,
    /// Moves sockets; none: that is switched off, or cannot be done here.
    pub mover: Option<Mover>,
    /// Where it is told.
    pub reporter: Reporter,
}

/// The threads; they run until the process ends.
#[derive(Debug)]
pub struct Clients {
    changes: Option<Sender<()>>,
}

impl Clients {
    /// Starts them.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let Parts { events, registry, guard, affinity, mover, reporter } = parts;
        let changes = match mover {
            Some(mover) => {
                let (sender, changes) = channel();
                let moving = Moving { mover, guard: guard.clone(), reporter: reporter.clone() };
                thread::Builder::new().name("mover".to_owned()).spawn(move || moving.run(&changes))?;
                // What changed while no agent ran.
                let _ = sender.send(());
                Some(sender)
            }
            None => None,
        };
        let watch = Watch { events, registry, guard, affinity, reporter, has_warned: false };
        thread::Builder::new().name("clients".to_owned()).spawn(move || watch.run())?;
        Ok(Self { changes })
    }

    /// The maps hold a change after which UDP sockets may have to move.
    pub fn changed(&self) {
        if let Some(changes) = &self.changes {
            // The thread ends with the process only.
            let _ = changes.send(());
        }
    }
}

struct Watch {
    events: RingBuf<MapData>,
    registry: Registry,
    guard: Guard,
    affinity: Affinity,
    reporter: Reporter,
    /// Whether it was said that a namespace cannot be looked at.
    has_warned: bool,
}

impl Watch {
    fn run(mut self) {
        if let Err(error) = schedule::run_first() {
            info!(%error, "new pods may be known some milliseconds later while the machine is busy (CAP_SYS_NICE)");
        }
        let (mut swept, mut grown, mut met) = (None, None, 0);
        loop {
            met += self.take_events();
            let now = Instant::now();
            if is_due(swept, SWEEP, now) || met >= SWEEP_AFTER {
                (swept, met) = (Some(now), 0);
                if let Err(error) = self.registry.sweep() {
                    warn!(%error, "sweep the registry of network namespaces");
                }
            }
            if is_due(grown, GROW, now) {
                grown = Some(now);
                self.look_at_affinity();
            }
            self.guard.settle(now);
            let (namespaces, is_guarded) = (self.registry.known() as u64, self.guard.is_on());
            self.reporter.update(|status| {
                (status.clients.namespaces, status.clients.is_guarded) = (namespaces, is_guarded);
            });
            let mut ready = [PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN)];
            let tick = Timespec { tv_sec: TICK.as_secs().cast_signed(), tv_nsec: 0 };
            if let Err(error) = poll(&mut ready, Some(&tick))
                && error != rustix::io::Errno::INTR
            {
                warn!(%error, "wait for reports of the hooks");
                thread::sleep(TICK);
            }
        }
    }

    /// Acts on all reports there are; returns how many.
    fn take_events(&mut self) -> u32 {
        let mut taken = 0;
        while let Some(event) = self.events.next().and_then(|item| Event::read_from_bytes(&item).ok()) {
            taken += 1;
            match event.kind {
                Event::UNKNOWN_NETNS => {
                    if let Err(error) = self.registry.meet(&event)
                        && !std::mem::replace(&mut self.has_warned, true)
                    {
                        warn!(%error, "look at a network namespace: session affinity does not know its pod by its address");
                    }
                }
                Event::GUARD_WANTED => {
                    if let Err(error) = self.guard.ask(Instant::now()) {
                        warn!(%error, "connections that should time out are refused instead");
                    }
                }
                kind => warn!(kind, "a report of a kind that this version does not know"),
            }
        }
        taken
    }

    fn look_at_affinity(&mut self) {
        match self.affinity.fit() {
            Ok(remembered) => self.reporter.update(|status| status.clients.affinity = remembered as u64),
            Err(error) => warn!(%error, "the table of session affinity does not grow"),
        }
    }
}

fn is_due(last: Option<Instant>, every: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= every)
}

struct Moving {
    mover: Mover,
    guard: Guard,
    reporter: Reporter,
}

impl Moving {
    fn run(mut self, changes: &Receiver<()>) {
        let mut wait = QUIET;
        loop {
            match changes.recv_timeout(wait) {
                Err(RecvTimeoutError::Disconnected) => return,
                // What has changed up to here is seen by one pass.
                Ok(()) | Err(RecvTimeoutError::Timeout) => while changes.try_recv().is_ok() {},
            }
            let guard = self.guard.clone();
            let may_wait = move || match guard.ask(Instant::now()) {
                Ok(()) => true,
                Err(error) => {
                    warn!(%error, "UDP sockets without a backend stay where they are");
                    false
                }
            };
            let started = Instant::now();
            match self.mover.pass(may_wait) {
                Ok(pass) => {
                    self.note(pass);
                    wait = if pass.pending > 0 { RETRY } else { QUIET };
                }
                Err(error) => {
                    warn!(%error, "list the connected UDP sockets");
                    wait = RETRY;
                }
            }
            thread::sleep(PAUSE.max(started.elapsed() * 4));
        }
    }

    fn note(&self, pass: Pass) {
        self.reporter.update(|status| {
            let clients = &mut status.clients;
            clients.udp_moved += pass.moved;
            clients.udp_sent_to_wait += pass.sent_to_wait;
            clients.udp_waiting = pass.waiting;
            clients.udp_destroyed += pass.destroyed;
            clients.udp_lost += pass.lost;
        });
        if pass.moved + pass.sent_to_wait + pass.destroyed + pass.lost > 0 {
            info!(
                moved = pass.moved,
                sent_to_wait = pass.sent_to_wait,
                destroyed = pass.destroyed,
                lost = pass.lost,
                "connected UDP sockets"
            );
        }
    }
}
