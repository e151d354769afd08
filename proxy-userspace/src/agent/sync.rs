//! From events to maps: state, plan and store in one place, without threads, sockets or clocks of its own.
//!
//! The agent drives it with the kernel store; the golden tier and the benches drive the very same code with others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;
use tracing::{debug, info};

use crate::maps::apply::{self, Executed, StoreOrder};
use crate::maps::{MapStore, StoreError, adopt};
use crate::model::{EndpointSlice, Event, Listing, ObjectName, Protocol, Service};
use crate::plan::claims::Conflict;
use crate::plan::desired::{PlanWarning, desired_ports, port_tags};
use crate::plan::diff::{Changes, Contradiction, Planner, Refused};
use crate::plan::health_checks::{HealthCheck, Listeners, health_check, listeners};
use crate::plan::local_vips::{LeftAlone, LocalVips};
use crate::plan::node::{NodePortAddresses, desired_node};
use crate::plan::quarantine::Millis;
use crate::plan::rules::Rules;
use crate::plan::tables::OwnerTag;
use crate::state::{Dirty, State};

/// Service ports that are planned and written at a time.
const SLICE: usize = 2_000;

/// What one [`Sync::sync`] has to do.
struct Work {
    /// Services left to plan.
    names: VecDeque<ObjectName>,
    /// Frontends that all of it will need, or some more or less: so that the hash grows once.
    frontends: usize,
    node: bool,
    all: bool,
}

impl Work {
    /// What an aborted run has left.
    fn rest(self) -> Dirty {
        let services = self.names.into_iter().collect();
        Dirty { services, node: self.node, all: self.all }
    }
}

/// Why the maps cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// They cannot be read.
    #[error("read the maps: {0}")]
    Read(#[from] StoreError),
    /// What they hold makes no sense.
    #[error("the maps contradict themselves: {0}")]
    Contradiction(#[from] Contradiction),
}

/// What decides how events become tables, apart from the events.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// Name of the own Node.
    pub node_name: String,
    /// Which addresses serve NodePorts.
    pub node_ports: NodePortAddresses,
    /// Whether cluster IPs that are addresses of the node's interfaces are served too.
    pub serve_local_vips: bool,
    /// Listings that must end before anything is written.
    pub expected: Vec<Listing>,
    /// What the writer goes by.
    pub rules: Rules,
    /// [`StoreOrder::Planned`], but for control runs that must fail.
    pub order: StoreOrder,
}

/// The way from events into one store.
#[derive(Debug)]
pub struct Sync<S> {
    state: State,
    planner: Planner,
    store: S,
    options: SyncOptions,
    dirty: Dirty,
    /// Whether the maps have been compared with the whole state once.
    is_pruned: bool,
    /// Whether the mirror may be wrong: an op was done in part and the maps could not be read back.
    must_adopt: bool,
    /// Service ports of each Service as last planned, to know which are gone.
    planned: HashMap<ObjectName, Box<[OwnerTag]>>,
    /// As last planned.
    health_checks: BTreeMap<ObjectName, HealthCheck>,
    local_vips: LocalVips,
}

/// What one [`Sync::sync`] did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was executed, also by a batch that ended early.
    pub executed: Executed,
    /// Whether all that was asked for, and had room, is in the maps.
    pub is_settled: bool,
    /// Service ports that the maps have no room for.
    pub refused: Vec<Refused>,
    /// Frontends of this batch that two service ports claim; [`Planner::conflicts`] has all there are.
    pub conflicts: Vec<Conflict>,
    /// What could not be had as asked for.
    pub warnings: Vec<PlanWarning>,
    /// Labels of service ports that were planned.
    pub named: Vec<(OwnerTag, Arc<str>)>,
    /// Service ports that went.
    pub forgotten: Vec<OwnerTag>,
    /// Whether UDP sockets that are connected through a frontend may have to move.
    pub concerns_udp: bool,
    /// Why the batch ended early; the next one goes on from there.
    pub error: Option<String>,
    /// The maps were read again and make no sense: nothing was written, and no batch over these maps will be.
    pub contradiction: Option<Contradiction>,
}

/// What [`Sync::take`] has found to be new.
#[derive(Debug, Default)]
pub struct Taken {
    /// Services that came, changed or went.
    pub services: u64,
    /// Slices that came, changed or went.
    pub slices: u64,
    /// Those that came or changed, for a reason that the API dates.
    pub dated: Vec<Arc<EndpointSlice>>,
}

/// What an event speaks of, as far as changes of it are counted.
enum Kind {
    Service,
    Slice(Option<Arc<EndpointSlice>>),
    Services,
    Slices,
    Other,
}

impl Kind {
    fn of(event: &Event) -> Self {
        match event {
            Event::ServiceApplied(_) | Event::ServiceDeleted(_) => Self::Service,
            Event::SliceApplied(slice) => {
                Self::Slice(slice.triggered_at.is_some().then(|| Arc::clone(slice)))
            }
            Event::SliceDeleted(_) => Self::Slice(None),
            Event::ListEnded(Listing::Services) => Self::Services,
            Event::ListEnded(Listing::EndpointSlices) => Self::Slices,
            _ => Self::Other,
        }
    }
}

impl Taken {
    /// Something is new; the end of a listing may have taken several away.
    fn count(&mut self, kind: Kind, services: usize) {
        match kind {
            Kind::Service => self.services += 1,
            Kind::Services => self.services += services as u64,
            Kind::Slice(dated) => {
                self.slices += 1;
                self.dated.extend(dated);
            }
            Kind::Slices => self.slices += services as u64,
            Kind::Other => {}
        }
    }
}

impl<S: MapStore> Sync<S> {
    /// Adopts what the maps hold. Nothing is written until every expected listing has ended.
    pub fn adopt(store: S, options: SyncOptions) -> Result<Self, AdoptError> {
        let planner = adopt_planner(&store, options.rules)?;
        let state = State::new(&options.node_name, options.expected.iter().copied());
        Ok(Self {
            state,
            planner,
            store,
            local_vips: LocalVips::new(options.serve_local_vips),
            options,
            dirty: Dirty::default(),
            is_pruned: false,
            must_adopt: false,
            planned: HashMap::default(),
            health_checks: BTreeMap::new(),
        })
    }

    /// Takes changes in; nothing is written yet.
    pub fn take(&mut self, events: impl IntoIterator<Item = Event>) -> Taken {
        let mut taken = Taken::default();
        for event in events {
            let kind = Kind::of(&event);
            let dirty = self.state.apply(event);
            if !dirty.is_empty() {
                taken.count(kind, dirty.services.len());
            }
            self.dirty.merge(dirty);
        }
        taken
    }

    /// Reads the maps the next time and compares all of them with what is desired: whoever else wrote there is undone.
    pub fn recheck(&mut self) {
        self.dirty.all = true;
        self.must_adopt = true;
    }

    /// Services that wait to be planned; at least one where there is anything to do.
    pub fn waiting(&self) -> u64 {
        if self.is_due() { self.dirty.services.len().max(1) as u64 } else { 0 }
    }

    /// Whether there may be something to write.
    pub fn is_due(&self) -> bool {
        self.state.is_listed() && (!self.is_pruned || !self.dirty.is_empty() || !self.planner.is_in_sync())
    }

    /// Whether every expected listing has ended and the maps have held all of it once.
    pub fn is_ready(&self) -> bool {
        self.is_pruned
    }

    /// The desired world.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The maps.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The maps, for a fake whose clock or faults a test sets.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ends this writer and gives its maps to the next.
    pub fn into_store(self) -> S {
        self.store
    }

    /// The mirror of the maps and what goes with it.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Cluster IPs that the last plan left alone, since they are addresses of this node.
    pub fn left_alone(&self) -> impl Iterator<Item = &LeftAlone> {
        self.local_vips.left_alone()
    }

    /// The sockets that should answer the health checks of Services, by what was planned last: to be told once the maps
    /// hold that, so that nobody is sent here too soon.
    pub fn health_checks(&self) -> Listeners {
        if self.health_checks.is_empty() {
            return Listeners::new();
        }
        let (addresses, node) = (self.state.addresses(), self.state.node());
        let actual = self.planner.actual();
        let is_held = |tag| actual.cell_of(tag).is_some();
        listeners(&self.health_checks, &self.options.node_ports.listen_on(addresses, node), is_held)
    }

    /// Writes what has changed. `clock` is any clock in milliseconds that never goes back. It is read again after each
    /// slice: what is freed at the end of a long run must rest from then on.
    ///
    /// Much is written in slices of some thousand service ports, each planned when the one before is in the maps: a
    /// large listing takes half the time and memory of one plan for all.
    pub fn sync(&mut self, clock: impl Fn() -> Millis) -> Outcome {
        if !self.is_due() {
            return Outcome { is_settled: true, ..Outcome::default() };
        }
        let mut outcome = Outcome::default();
        if self.must_adopt
            && let Err(error) = self.adopt_again()
        {
            outcome.error = Some(error.to_string());
            if let AdoptError::Contradiction(found) = error {
                outcome.contradiction = Some(found);
            }
            return outcome;
        }
        let mut work = self.take_work();
        while outcome.error.is_none() {
            let changes = self.collect(&mut work, &mut outcome);
            self.write(changes, &clock, &mut outcome);
            if work.names.is_empty() {
                break;
            }
        }
        if outcome.error.is_none() {
            self.note_complete(outcome.executed);
        } else {
            self.dirty.merge(work.rest());
        }
        outcome.is_settled = self.planner.is_in_sync() && self.dirty.is_empty();
        outcome
    }

    fn write(&mut self, changes: Changes, clock: impl Fn() -> Millis, outcome: &mut Outcome) {
        let Self { planner, store, options, .. } = self;
        let batch = planner.plan(changes, clock());
        outcome.refused = batch.refused;
        outcome.conflicts.extend(batch.conflicts);
        match apply::run(store, &batch.ops, |op| planner.settle(op), options.order) {
            Ok(executed) => {
                planner.finish(clock());
                outcome.executed += executed;
            }
            Err(error) => {
                planner.fail(&batch.ops[error.at], clock());
                self.must_adopt = error.unsure;
                outcome.executed += error.done;
                outcome.error = Some(format!("{error}: {}", error.source));
            }
        }
    }

    fn note_complete(&mut self, executed: Executed) {
        if !self.is_pruned {
            info!(
                services = self.planned.len(),
                ops = executed.ops,
                stores = executed.stores,
                "the maps hold it all"
            );
        }
        self.is_pruned = true;
    }

    /// Reads the maps once more and plans everything anew from there.
    fn adopt_again(&mut self) -> Result<(), AdoptError> {
        self.planner = adopt_planner(&self.store, self.options.rules)?;
        self.must_adopt = false;
        self.is_pruned = false;
        Ok(())
    }

    fn take_work(&mut self) -> Work {
        let dirty = std::mem::take(&mut self.dirty);
        let all = dirty.all || !self.is_pruned;
        let mut names: Vec<ObjectName> = dirty.services.into_iter().collect();
        if dirty.node || all {
            let moved = self.local_vips.observe(self.state.addresses());
            let is_moved = |service: &&Service| service.cluster_ips.iter().any(|ip| moved.contains(ip));
            if all {
                names.extend(self.state.service_names().cloned());
            } else if !moved.is_empty() {
                names.extend(self.state.services().filter(is_moved).map(|service| service.name.clone()));
            }
            names.sort_unstable();
            names.dedup();
        }
        let ports = names.iter().filter_map(|name| self.state.service(name)).map(Service::count_ports).sum();
        Work { names: names.into(), frontends: ports, node: dirty.node || all, all }
    }

    /// The next slice of `work`; the last one has what belongs to the node, and prunes.
    fn collect(&mut self, work: &mut Work, outcome: &mut Outcome) -> Changes {
        let mut changes = Changes { expected_frontends: work.frontends, ..Changes::default() };
        while changes.upsert.len() < SLICE
            && let Some(name) = work.names.pop_front()
        {
            self.collect_service(&name, &mut changes, outcome);
        }
        outcome.named.extend(changes.upsert.iter().map(|port| (port.tag, Arc::clone(&port.label))));
        outcome.forgotten.extend(&changes.remove);
        if work.names.is_empty() {
            if work.node {
                let (node, cidrs) = (self.state.node(), self.state.cidrs());
                let addresses = self.state.addresses();
                outcome.concerns_udp = true;
                changes.node = Some(desired_node(addresses, node, cidrs, &self.options.node_ports));
            }
            changes.prune = work.all;
        }
        changes
    }

    fn collect_service(&mut self, name: &ObjectName, changes: &mut Changes, outcome: &mut Outcome) {
        let before = self.planned.remove(name).unwrap_or_default();
        let mut after: Box<[OwnerTag]> = Box::default();
        self.health_checks.remove(name);
        self.local_vips.forget(name);
        if let Some(service) = self.state.service(name) {
            let slices: Vec<_> = self.state.slices(name).collect();
            let check = health_check(service, &slices, self.state.node());
            self.health_checks.extend(check.map(|check| (name.clone(), check)));
            let mut plan = desired_ports(service, &slices, self.state.node());
            self.local_vips.withhold(name, &mut plan);
            after = port_tags(service).into();
            for port in &plan.ports {
                debug!(service = %port.label, backends = port.backends.len(), "planned");
            }
            outcome.concerns_udp |= service.ports.iter().any(|port| port.protocol == Protocol::Udp);
            outcome.warnings.extend(plan.warnings);
            changes.upsert.extend(plan.ports);
        }
        let removed = changes.remove.len();
        changes.remove.extend(before.iter().filter(|tag| !after.contains(tag)));
        // Of what went nobody knows the protocol any more.
        outcome.concerns_udp |= changes.remove.len() > removed;
        if !after.is_empty() {
            self.planned.insert(name.clone(), after);
        }
    }
}

fn adopt_planner(store: &impl MapStore, rules: Rules) -> Result<Planner, AdoptError> {
    let adopt::Adopted { actual, strays } = adopt::adopt(store)?;
    Ok(Planner::adopt(actual, strays, rules)?)
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
