//! The desired world: every object that counts on this node, as last seen, and the gate that keeps the maps from
//! shrinking before every source has listed once.
//!
//! It knows no meaning: which endpoints serve what is for `plan`. It does no I/O, cannot fail, and has no clock.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{EndpointSlice, Event, Listing, Node, ObjectName, Service, ServiceCidr, TrafficPolicy};

/// What must be planned again.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Dirty {
    /// Services that came, changed or went, or whose slices did; also names that only slices know.
    pub services: BTreeSet<ObjectName>,
    /// What belongs to the node itself: its addresses and the ServiceCIDRs.
    pub node: bool,
    /// Every Service, since what they have in common changed: name or zone of the node.
    pub all: bool,
}

impl Dirty {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both.
    pub fn merge(&mut self, other: Self) {
        // Not `append`, which walks both sets: a listing merges its events one by one.
        self.services.extend(other.services);
        self.node |= other.node;
        self.all |= other.all;
    }
}

/// A listing counts its runs; whatever was not seen in the present run is gone when it ends.
type Run = u32;

/// An object and the run of its listing in which it was last seen.
#[derive(Debug)]
struct Seen<T> {
    object: T,
    run: Run,
}

/// A listing, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    run: Run,
    is_open: bool,
    has_ended: bool,
}

/// A Service and its slices, whichever came first.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Seen<Arc<Service>>>,
    /// Sorted by name.
    slices: Vec<Arc<EndpointSlice>>,
}

/// The desired world.
#[derive(Debug)]
pub struct State {
    node_name: Arc<str>,
    node: Node,
    node_run: Run,
    /// Whether there is a Node object.
    has_node: bool,
    entries: BTreeMap<ObjectName, Entry>,
    /// Services of [`Self::is_guard_needed`].
    guarded: BTreeSet<ObjectName>,
    /// Services of [`Self::has_affinity`].
    sticky: BTreeSet<ObjectName>,
    /// Every slice by its own name, to find the Service that it belonged to when it moves or goes.
    slices: BTreeMap<ObjectName, Seen<Arc<EndpointSlice>>>,
    cidrs: BTreeMap<Box<str>, Seen<ServiceCidr>>,
    addresses: Seen<Vec<IpAddr>>,
    progress: BTreeMap<Listing, Progress>,
    expected: BTreeSet<Listing>,
}

impl State {
    /// An empty world around a node of this name. It is listed once each of the expected listings has ended.
    ///
    /// The name is the one that the agent was started with: endpoints are local or not also while there is no Node
    /// object, which adds the zone and the addresses.
    pub fn new(node_name: &str, expected: impl IntoIterator<Item = Listing>) -> Self {
        let node_name: Arc<str> = node_name.into();
        Self {
            node: bare_node(&node_name),
            node_name,
            node_run: 0,
            has_node: false,
            entries: BTreeMap::new(),
            guarded: BTreeSet::new(),
            sticky: BTreeSet::new(),
            slices: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            addresses: Seen { object: Vec::new(), run: 0 },
            progress: BTreeMap::new(),
            expected: expected.into_iter().collect(),
        }
    }

    /// Takes a change in; says what must be planned again. An object equal to the one known makes nothing dirty.
    pub fn apply(&mut self, event: Event) -> Dirty {
        match event {
            Event::ServiceApplied(service) => self.apply_service(service),
            Event::ServiceDeleted(name) => self.delete_service(name),
            Event::SliceApplied(slice) => self.apply_slice(slice),
            Event::SliceDeleted(name) => self.delete_slice(&name),
            Event::NodeApplied(node) => self.apply_node(node),
            Event::ServiceKept(name) => self.keep_service(&name),
            Event::SliceKept(name) => self.keep_slice(&name),
            Event::NodeKept => self.keep_node(),
            Event::ServiceCidrKept(name) => self.keep_cidr(&name),
            Event::NodeDeleted => self.delete_node(),
            Event::ServiceCidrApplied(cidr) => self.apply_cidr(cidr),
            Event::ServiceCidrDeleted(name) => node_dirty(self.cidrs.remove(&name).is_some()),
            Event::NodeAddresses(addresses) => self.apply_addresses(addresses),
            Event::ListStarted(listing) => self.start(listing),
            Event::ListEnded(listing) => self.end(listing),
        }
    }

    /// True once every expected listing has ended once. Until then the maps hold more than the state knows, and
    /// nothing may be taken from them.
    pub fn is_listed(&self) -> bool {
        self.unlisted().next().is_none()
    }

    /// The listings that are still awaited.
    pub fn unlisted(&self) -> impl Iterator<Item = Listing> {
        self.expected
            .iter()
            .copied()
            .filter(|listing| !self.progress.get(listing).is_some_and(|it| it.has_ended))
    }

    /// Whether some Service may have connections begin that must not get through: those from outside its source ranges, or
    /// where its policy is Local and no endpoint is here.
    pub fn is_guard_needed(&self) -> bool {
        !self.guarded.is_empty()
    }

    /// Whether some Service has session affinity.
    pub fn has_affinity(&self) -> bool {
        !self.sticky.is_empty()
    }

    /// Whether there is an object of the own Node.
    pub fn has_node(&self) -> bool {
        self.has_node
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.entries.get(name)?.service.as_ref().map(|seen| &*seen.object)
    }

    /// All Services, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|entry| entry.service.as_ref()).map(|seen| &*seen.object)
    }

    /// Names of all Services, sorted.
    pub fn service_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// The slices of a Service, sorted by name; there may be some although there is no Service.
    pub fn slices<'a>(&'a self, service: &ObjectName) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.entries.get(service).into_iter().flat_map(|entry| entry.slices.iter().map(|slice| &**slice))
    }

    /// The own node: without a Node object only its name, and whether there was one.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The ServiceCIDRs, sorted by name.
    pub fn cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.cidrs.values().map(|seen| &seen.object)
    }

    /// The addresses on the node's interfaces.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses.object
    }

    fn run(&self, listing: Listing) -> Run {
        self.progress.get(&listing).map_or(0, |progress| progress.run)
    }

    fn apply_service(&mut self, service: Arc<Service>) -> Dirty {
        let run = self.run(Listing::Services);
        let entry = self.entries.entry(service.name.clone()).or_default();
        let name = service.name.clone();
        match &mut entry.service {
            Some(seen) if seen.object == service => {
                seen.run = run;
                Dirty::default()
            }
            known => {
                note(&mut self.guarded, &name, is_guarded(&service));
                note(&mut self.sticky, &name, service.affinity_seconds.is_some());
                *known = Some(Seen { object: service, run });
                service_dirty(name)
            }
        }
    }

    fn delete_service(&mut self, name: ObjectName) -> Dirty {
        let btree_map::Entry::Occupied(mut entry) = self.entries.entry(name.clone()) else {
            return Dirty::default();
        };
        if entry.get_mut().service.take().is_none() {
            return Dirty::default();
        }
        note(&mut self.guarded, &name, false);
        note(&mut self.sticky, &name, false);
        if entry.get().slices.is_empty() {
            entry.remove();
        }
        service_dirty(name)
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) -> Dirty {
        let run = self.run(Listing::EndpointSlices);
        if let Some(seen) = self.slices.get_mut(&slice.name)
            && seen.object == slice
        {
            seen.run = run;
            return Dirty::default();
        }
        let mut dirty = self.delete_slice(&slice.name.clone());
        let service = service_of(&slice);
        let entry = self.entries.entry(service.clone()).or_default();
        let at = entry.slices.partition_point(|other| other.name < slice.name);
        // Slices live long and their number changes seldom: no spare capacity.
        entry.slices.reserve_exact(1);
        entry.slices.insert(at, Arc::clone(&slice));
        self.slices.insert(slice.name.clone(), Seen { object: slice, run });
        dirty.services.insert(service);
        dirty
    }

    fn delete_slice(&mut self, name: &ObjectName) -> Dirty {
        let Some(Seen { object, .. }) = self.slices.remove(name) else { return Dirty::default() };
        let service = service_of(&object);
        if let btree_map::Entry::Occupied(mut entry) = self.entries.entry(service.clone()) {
            entry.get_mut().slices.retain(|slice| slice.name != *name);
            if entry.get().slices.is_empty() && entry.get().service.is_none() {
                entry.remove();
            }
        }
        service_dirty(service)
    }

    fn apply_node(&mut self, node: Node) -> Dirty {
        self.node_run = self.run(Listing::Node);
        self.has_node = true;
        self.set_node(node)
    }

    /// A Node that was never there is no Node that went.
    fn delete_node(&mut self) -> Dirty {
        let is_leaving = self.has_node || self.node.is_leaving;
        self.has_node = false;
        self.set_node(Node { is_leaving, ..bare_node(&self.node_name) })
    }

    fn set_node(&mut self, node: Node) -> Dirty {
        let before = std::mem::replace(&mut self.node, node);
        // Ranges of clients mean more where they hold an address of the node.
        let has_sources =
            |entry: &Entry| entry.service.as_ref().is_some_and(|seen| !seen.object.source_ranges.is_empty());
        let is_moved = before.addresses != self.node.addresses;
        let services = if is_moved { names_where(&self.entries, has_sources) } else { Vec::new() };
        Dirty {
            services: services.into_iter().collect(),
            node: is_moved || before.pod_cidrs != self.node.pod_cidrs,
            all: before.name != self.node.name || before.zone != self.node.zone,
        }
    }

    fn apply_cidr(&mut self, cidr: ServiceCidr) -> Dirty {
        let run = self.run(Listing::ServiceCidrs);
        let before = self.cidrs.get(&cidr.name).map(|seen| &seen.object);
        let is_new = before != Some(&cidr);
        self.cidrs.insert(cidr.name.clone(), Seen { object: cidr, run });
        node_dirty(is_new)
    }

    fn apply_addresses(&mut self, addresses: Vec<IpAddr>) -> Dirty {
        let is_new = self.addresses.object != addresses;
        self.addresses = Seen { object: addresses, run: self.run(Listing::NodeAddresses) };
        node_dirty(is_new)
    }

    fn keep_service(&mut self, name: &ObjectName) -> Dirty {
        let run = self.run(Listing::Services);
        if let Some(seen) = self.entries.get_mut(name).and_then(|entry| entry.service.as_mut()) {
            seen.run = run;
        }
        Dirty::default()
    }

    fn keep_slice(&mut self, name: &ObjectName) -> Dirty {
        let run = self.run(Listing::EndpointSlices);
        if let Some(seen) = self.slices.get_mut(name) {
            seen.run = run;
        }
        Dirty::default()
    }

    fn keep_node(&mut self) -> Dirty {
        self.node_run = self.run(Listing::Node);
        Dirty::default()
    }

    fn keep_cidr(&mut self, name: &str) -> Dirty {
        let run = self.run(Listing::ServiceCidrs);
        if let Some(seen) = self.cidrs.get_mut(name) {
            seen.run = run;
        }
        Dirty::default()
    }

    /// A listing that starts again before it has ended starts from nothing.
    fn start(&mut self, listing: Listing) -> Dirty {
        let progress = self.progress.entry(listing).or_default();
        progress.run = progress.run.wrapping_add(1);
        progress.is_open = true;
        Dirty::default()
    }

    /// An end without a start opens the gate, but says nothing about what is gone.
    fn end(&mut self, listing: Listing) -> Dirty {
        let progress = self.progress.entry(listing).or_default();
        progress.has_ended = true;
        if std::mem::take(&mut progress.is_open) { self.prune(listing) } else { Dirty::default() }
    }

    /// Deletes what the present run of a listing has not seen.
    fn prune(&mut self, listing: Listing) -> Dirty {
        let run = self.run(listing);
        let mut dirty = Dirty::default();
        match listing {
            Listing::Services => {
                let is_gone = |entry: &Entry| entry.service.as_ref().is_some_and(|seen| seen.run != run);
                for name in names_where(&self.entries, is_gone) {
                    dirty.merge(self.delete_service(name));
                }
            }
            Listing::EndpointSlices => {
                for name in names_where(&self.slices, |seen| seen.run != run) {
                    dirty.merge(self.delete_slice(&name));
                }
            }
            Listing::Node if self.node_run != run => dirty.merge(self.apply(Event::NodeDeleted)),
            Listing::ServiceCidrs => {
                let before = self.cidrs.len();
                self.cidrs.retain(|_, seen| seen.run == run);
                dirty.node = self.cidrs.len() != before;
            }
            Listing::NodeAddresses if self.addresses.run != run => {
                dirty.merge(self.apply_addresses(Vec::new()));
            }
            Listing::Node | Listing::NodeAddresses => {}
        }
        dirty
    }
}

fn names_where<T>(map: &BTreeMap<ObjectName, T>, is_gone: impl Fn(&T) -> bool) -> Vec<ObjectName> {
    map.iter().filter(|(_, value)| is_gone(value)).map(|(name, _)| name.clone()).collect()
}

fn bare_node(name: &Arc<str>) -> Node {
    Node { name: Arc::clone(name), ..Node::default() }
}

fn service_of(slice: &EndpointSlice) -> ObjectName {
    ObjectName::new(slice.name.namespace(), &slice.service)
}

fn note(names: &mut BTreeSet<ObjectName>, name: &ObjectName, is_in: bool) {
    if is_in {
        names.insert(name.clone());
    } else {
        names.remove(name);
    }
}

fn is_guarded(service: &Service) -> bool {
    service.internal_policy == TrafficPolicy::Local || !service.source_ranges.is_empty()
}

fn service_dirty(name: ObjectName) -> Dirty {
    Dirty { services: BTreeSet::from([name]), ..Dirty::default() }
}

fn node_dirty(node: bool) -> Dirty {
    Dirty { node, ..Dirty::default() }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
