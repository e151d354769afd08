//! One agent's world: the fake store under observation, a planner, and what is desired.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::addr::{Addr, Port};
use proxy_common::backend::BackendState;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{Lookup, owns_vip};
use proxy_common::node::CidrKey;
use proxy_common::service::{View, ViewKind, ViewWord};
use proxy_common::source::SourceKey;

use super::observed::Observed;
use super::readers::{Outcomes, Readers, origins, outcomes, promised};
use crate::maps::adopt::adopt;
use crate::maps::apply::{ApplyError, StoreOrder, run};
use crate::maps::memory::{Faults, Memory};
use crate::maps::render::text;
use crate::maps::{Hashes, WordTable};
use crate::plan::actual::Actual;
use crate::plan::diff::{Changes, Free, Planned, Planner, Refused};
use crate::plan::ops::MapOp;
use crate::plan::quarantine::QUARANTINE;
use crate::plan::rules::{Limits, Rules};
use crate::plan::tables::{DesiredBackend, DesiredNode, DesiredPort, DesiredView, OwnerTag};

/// Frontends that fit without growth.
const CAPACITY: u32 = 4;

pub(super) const RULES: Rules = Rules {
    limits: Limits {
        cells: 60,
        rows: 600,
        slots: 2000,
        frontends: 100,
        blocks: 50,
        node_addrs: 10,
        cidrs: 10,
        sources: 100,
    },
    shards: 2,
    moves_in_place: 1,
    quarantine: QUARANTINE,
};

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) store: Observed,
    pub(super) planner: Planner,
    pub(super) ports: BTreeMap<OwnerTag, DesiredPort>,
    pub(super) node: DesiredNode,
    pub(super) order: StoreOrder,
    /// For a control run: the planner is told of grace periods that never were.
    pub(super) skips_grace: bool,
    /// Whether a smaller view may find no slots either.
    pub(super) may_lack_slots: bool,
}

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        let memory = Memory::new(CAPACITY);
        let planner = adopted(&memory, rules);
        Self {
            store: Observed { memory, readers: Readers::default(), is_looking: true },
            planner,
            ports: BTreeMap::new(),
            node: DesiredNode::default(),
            order: StoreOrder::Planned,
            skips_grace: false,
            may_lack_slots: false,
        }
    }

    /// Takes note of what is desired.
    pub(super) fn desire(&mut self, changes: &Changes) {
        for tag in &changes.remove {
            self.ports.remove(tag);
        }
        for port in &changes.upsert {
            self.ports.insert(port.tag, port.clone());
            self.store.readers.expect(port);
        }
        if let Some(node) = &changes.node {
            self.node = node.clone();
        }
        let readers = &mut self.store.readers;
        let is_wanted = |key: &FrontendKey| {
            self.ports.values().any(|port| port.frontends.iter().any(|frontend| frontend.key == *key))
        };
        let memory = &self.store.memory;
        readers.lasting = readers
            .keys
            .iter()
            .filter(|key| memory.frontend(key).is_some() && is_wanted(key))
            .copied()
            .collect();
        readers.absent.clear();
    }

    /// Plans `changes` and runs the batch.
    pub(super) fn sync(&mut self, changes: Changes) -> Result<Planned, ApplyError> {
        self.desire(&changes);
        let before = self.all_outcomes();
        let planned = self.planner.plan(changes, self.store.memory.now());
        if !planned.refused.is_empty() {
            // What is refused may be all that wanted a frontend.
            self.store.readers.lasting.clear();
            self.expect_parts(&planned);
        }
        self.run(&planned.ops)?;
        if planned.refused.is_empty() {
            let ports = &self.ports;
            self.store.readers.note_in_sync(|tag| ports.contains_key(&tag));
            self.check_absent(&before);
        }
        Ok(planned)
    }

    /// What is refused and served becomes what the batch makes of it, whole; and that has nothing which is not wanted,
    /// and everything wanted that was there before. What is refused and not served holds nothing.
    fn expect_parts(&mut self, planned: &Planned) {
        let mut after = self.planner.clone();
        planned.ops.iter().for_each(|op| after.settle(op));
        let (before, after) = (self.planner.actual(), after.actual());
        for Refused { label, .. } in &planned.refused {
            let Some(port) = self.ports.values().find(|port| port.label == *label) else { continue };
            let Some(service) = before.cell_of(port.tag) else { continue };
            let reduced = part_of(after, service, port);
            let (old, new) = (targets(&part_of(before, service, port)), targets(&reduced));
            let wanted = targets(port);
            let is_served =
                before.frontends().any(|(key, value)| !key.is_owned_vip() && value.service == service);
            if !is_served {
                assert_eq!(after.cell_of(port.tag), None, "{label} holds what nobody reaches");
                continue;
            }
            assert!(after.cell_of(port.tag).is_some(), "{label} is gone");
            let leads_to_it = |actual: &Actual, key| {
                actual.frontend(key).is_some_and(|value: FrontendValue| value.service == service)
            };
            let claimed = port.frontends.iter().map(|claim| &claim.key).filter(|key| !key.is_owned_vip());
            let mut had = claimed.filter(|key| leads_to_it(before, key));
            assert!(had.all(|key| leads_to_it(after, key)), "{label} has lost a frontend");
            let may_stay = old == new && self.may_lack_slots;
            assert!(new.is_subset(&wanted) || may_stay, "{label}: {new:?}, wanted is {wanted:?}");
            let has_kept = old.intersection(&wanted).all(|target| new.contains(target));
            assert!(has_kept, "{label} of {old:?}: {new:?}");
            let stays = |range: &CidrKey| reduced.sources.contains(range);
            let held = before.sources_of(service).filter(|range| port.sources.contains(range));
            assert!({ held }.all(|range| stays(&range)), "{label} keeps {:?}", reduced.sources);
            assert!(reduced.sources.iter().all(|range| port.sources.contains(range)), "{label}: {reduced:?}");
            self.store.readers.expect_part(reduced);
        }
    }

    pub(super) fn run(&mut self, ops: &[MapOp]) -> Result<(), ApplyError> {
        let skips_grace = self.skips_grace;
        let kept: Vec<MapOp> =
            ops.iter().filter(|op| !(skips_grace && **op == MapOp::Grace)).cloned().collect();
        if kept.len() < ops.len() {
            self.planner.settle(&MapOp::Grace);
        }
        let planner = &mut self.planner;
        let now = self.store.memory.now();
        match run(&mut self.store, &kept, |op| planner.settle(op), self.order) {
            Ok(_) => planner.finish(now),
            Err(error) => {
                assert!(!error.unsure);
                planner.fail(&kept[error.at], now);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything desired, as a fresh listing has it.
    pub(super) fn listing(&self) -> Changes {
        Changes {
            upsert: self.ports.values().cloned().collect(),
            node: Some(self.node.clone()),
            prune: true,
            ..Changes::default()
        }
    }

    /// The agent dies and comes back; what it knew is gone.
    pub(super) fn restart(&mut self, rules: Rules) {
        self.store.memory.faults = Faults::default();
        self.planner = adopted(&self.store.memory, rules);
    }

    /// Lets every quarantine end.
    pub(super) fn rest(&mut self) {
        self.run(&[MapOp::Grace]).unwrap();
        self.store.memory.advance(QUARANTINE);
        self.sync(Changes::default()).unwrap();
    }

    /// The maps as text.
    pub(super) fn text(&self) -> String {
        text(&adopt(&self.store.memory).unwrap().actual, &|_| None)
    }

    /// The maps hold what is desired, the mirror is true, and there is nothing left to do.
    pub(super) fn check_converged(&mut self) {
        assert_eq!(self.text(), text(self.planner.actual(), &|_| None), "the mirror differs from the maps");
        let memory = &self.store.memory;
        let mut wanted: BTreeMap<FrontendKey, Vec<&DesiredPort>> = BTreeMap::new();
        for port in self.ports.values() {
            port.frontends.iter().for_each(|frontend| wanted.entry(frontend.key).or_default().push(port));
        }
        let present = memory.frontends().unwrap().into_iter().map(|(key, _)| key);
        let (blocks, present): (Vec<_>, Vec<_>) = present.partition(FrontendKey::is_owned_vip);
        let (vips, keys): (Vec<_>, Vec<_>) = wanted.keys().copied().partition(FrontendKey::is_owned_vip);
        assert_eq!(present, keys);
        let named: BTreeSet<_> = vips.iter().map(|vip| FrontendKey::owned_block(vip.addr)).collect();
        assert_eq!(blocks, named.into_iter().collect::<Vec<_>>());
        let mut owned: Vec<_> = self.planner.actual().owned_vips().map(FrontendKey::owned_vip).collect();
        owned.sort_unstable();
        assert_eq!(owned, vips);
        assert!(vips.iter().all(|vip| owns_vip(memory, vip.addr)));
        for (key, claimants) in wanted.iter().filter(|(key, _)| !key.is_owned_vip()) {
            let value = memory.frontend(key).unwrap();
            let holder = self.planner.actual().owner(value.service);
            let port = claimants.iter().find(|port| port.tag == holder).unwrap();
            let claim = port.frontends.iter().find(|frontend| frontend.key == *key).unwrap();
            assert_eq!((value.kind, value.flags), (claim.kind as u8, claim.flags));
            for (_, origin) in origins(memory, key) {
                assert_eq!(outcomes(memory, key, origin), promised(port, value, origin));
            }
        }
        assert_eq!(memory.node_addrs().unwrap(), self.node.addresses);
        assert_eq!(memory.cidrs().unwrap(), self.node.service_cidrs);
        self.check_rows();
        self.check_sources();
        let again = self.listing();
        let ops = self.planner.plan(again, self.store.memory.now()).ops;
        assert_eq!(ops, [], "a second diff has something to do");
        assert!(self.planner.is_in_sync());
    }

    /// Nothing is in use that the desired tables do not need; holds once every quarantine has ended.
    pub(super) fn check_no_leak(&self, limits: Limits) {
        assert_eq!(self.planner.resting(), Free::default());
        let free = self.planner.free();
        let rows: usize = self.ports.values().map(|port| port.backends.len()).sum();
        assert_eq!(free.cells, limits.cells - self.ports.len() as u32);
        assert_eq!(free.rows, limits.rows - rows as u32);
        let actual = self.planner.actual();
        let extents = actual.cells().flat_map(|(_, service)| actual.extents(service));
        let used: u64 = extents.map(|extent| u64::from(extent.words) * 2).sum();
        let existing = (actual.words(WordTable::Slots) * 2).min(u64::from(limits.slots));
        assert_eq!(free.slots, existing - used);
        assert_eq!(free.blocks, limits.blocks - actual.blocks().count() as u32);
    }

    fn check_rows(&self) {
        let actual = self.planner.actual();
        assert_eq!(actual.cells().count(), self.ports.len());
        for port in self.ports.values() {
            let service = actual.cell_of(port.tag).unwrap();
            let mut rows: Vec<_> = actual
                .rows_of(service)
                .map(|id| actual.row(id))
                .map(|row| (row.addr, row.port, row.state))
                .collect();
            rows.sort_unstable();
            let wanted: Vec<_> =
                port.backends.iter().map(|backend| (backend.addr, backend.port, backend.state.0)).collect();
            assert_eq!(rows, wanted);
            assert_eq!(actual.head(service).affinity_seconds(), port.affinity_seconds);
        }
    }

    fn check_sources(&self) {
        let actual = self.planner.actual();
        let held: BTreeSet<SourceKey> = self.store.memory.sources().unwrap().into_iter().collect();
        let key = |port: &DesiredPort, range| SourceKey::new(actual.cell_of(port.tag).unwrap(), range);
        let wanted =
            |port: &'_ DesiredPort| port.sources.iter().map(|range| key(port, *range)).collect::<Vec<_>>();
        assert_eq!(held, self.ports.values().flat_map(wanted).collect());
        assert_eq!(actual.source_count(), held.len());
    }

    fn all_outcomes(&self) -> BTreeMap<(FrontendKey, u8), Outcomes> {
        let memory = &self.store.memory;
        let keys = self.store.readers.keys.iter().filter(|key| !key.is_owned_vip());
        keys.flat_map(|key| {
            origins(memory, key)
                .into_iter()
                .map(|(index, origin)| ((*key, index), outcomes(memory, key, origin)))
        })
        .collect()
    }

    /// A frontend that was not there looked as before the batch or as after it.
    fn check_absent(&mut self, before: &BTreeMap<(FrontendKey, u8), Outcomes>) {
        let after = self.all_outcomes();
        let readers = &mut self.store.readers;
        for (key, index, seen) in &readers.absent {
            let at = (*key, *index);
            let is_known = [before.get(&at), after.get(&at)].into_iter().flatten().any(|known| known == seen);
            if !is_known {
                readers.violations.push(format!("absent {key:?} from {index} meets {seen:?}"));
            }
        }
    }
}

type Targets = BTreeSet<(Addr, Port)>;

fn targets(port: &DesiredPort) -> Targets {
    port.backends.iter().map(|backend| (backend.addr, backend.port)).collect()
}

/// What a cell holds, as a version of `port`.
fn part_of(actual: &Actual, service: u32, port: &DesiredPort) -> DesiredPort {
    let rows = actual.rows_of(service).map(|id| actual.row(id));
    let backends = rows
        .map(|row| DesiredBackend { addr: row.addr, port: row.port, state: BackendState(row.state) })
        .collect();
    let words = actual.views(service);
    let served = View::OF_POLICY.map(|view| words[view as usize]).into_iter();
    let flags = served.filter(|word| word.kind() == ViewKind::Random).map(ViewWord::keeps_source);
    let flags: BTreeSet<bool> = flags.collect();
    assert!(flags.len() < 2, "views of one policy say different things");
    let keeps_source = flags.first().copied().unwrap_or(port.keeps_source);
    let views = words.map(|word| match word.kind() {
        ViewKind::Pass => DesiredView::Pass,
        ViewKind::Random => DesiredView::Random,
        ViewKind::Reject => DesiredView::Reject,
        ViewKind::Drop => DesiredView::Drop,
    });
    let sources = actual.sources_of(service).collect();
    DesiredPort { sources, backends, views, keeps_source, ..port.clone() }
}

fn adopted(memory: &Memory, rules: Rules) -> Planner {
    let adopted = adopt(memory).unwrap();
    Planner::adopt(adopted.actual, adopted.strays, rules).unwrap()
}
