//! The mirror of the hashes, and the bits of the filter that their entries need.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use proxy_common::addr::Addr;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::node::{CidrKey, NodeAddrFlags};
use proxy_common::source::SourceKey;

use crate::plan::ops::MapOp;
use crate::plan::owned::{OwnedBits, Tally};

#[derive(Clone, Debug)]
pub(super) struct HashTables {
    pub(super) frontends: HashMap<FrontendKey, FrontendValue>,
    /// Elements of `OWNED` that entries name.
    pub(super) named_blocks: HashSet<u32>,
    pub(super) frontend_capacity: u32,
    pub(super) node_addrs: BTreeMap<Addr, NodeAddrFlags>,
    pub(super) cidrs: BTreeSet<CidrKey>,
    /// Ranges of clients of each cell that has any.
    pub(super) sources: BTreeMap<u32, BTreeSet<CidrKey>>,
    pub(super) source_count: usize,
    pub(super) owned: OwnedBits,
}

impl HashTables {
    pub(super) fn new(frontend_capacity: u32) -> Self {
        Self {
            frontends: HashMap::new(),
            named_blocks: HashSet::new(),
            frontend_capacity,
            node_addrs: BTreeMap::new(),
            cidrs: BTreeSet::new(),
            sources: BTreeMap::new(),
            source_count: 0,
            owned: OwnedBits::default(),
        }
    }

    /// Mirrors an op on the hashes; others change nothing here.
    pub(super) fn apply(&mut self, op: &MapOp) {
        match op {
            MapOp::GrowFrontends(capacity) => self.frontend_capacity = *capacity,
            MapOp::InsertFrontends(entries) | MapOp::MoveFrontends(entries) => {
                for (key, value) in entries {
                    self.put_frontend(*key, *value);
                }
            }
            MapOp::ReplaceFrontend(key, value) => self.put_frontend(*key, *value),
            MapOp::DeleteFrontends(keys) => keys.iter().for_each(|key| self.drop_frontend(key)),
            MapOp::InsertNodeAddr(addr, flags) | MapOp::ReplaceNodeAddr(addr, flags) => {
                self.put_node_addr(*addr, *flags);
            }
            MapOp::DeleteNodeAddr(addr) => self.drop_node_addr(*addr),
            MapOp::InsertCidr(key) => self.put_cidr(*key),
            MapOp::DeleteCidr(key) => self.drop_cidr(key),
            MapOp::InsertSource(key) => self.put_source(key),
            MapOp::DeleteSource(key) => self.drop_source(key),
            _ => {}
        }
    }

    fn put_frontend(&mut self, key: FrontendKey, value: FrontendValue) {
        if key.is_owned_vip() {
            self.named_blocks.insert(value.service);
        }
        if self.frontends.insert(key, value).is_none() {
            self.owned.add_frontend(&key);
        }
    }

    fn drop_frontend(&mut self, key: &FrontendKey) {
        if let Some(value) = self.frontends.remove(key) {
            if key.is_owned_vip() {
                self.named_blocks.remove(&value.service);
            }
            self.owned.remove_frontend(key);
        }
    }

    fn put_node_addr(&mut self, addr: Addr, flags: NodeAddrFlags) {
        if self.node_addrs.insert(addr, flags).is_none() {
            self.owned.add_addr(addr);
        }
    }

    fn drop_node_addr(&mut self, addr: Addr) {
        if self.node_addrs.remove(&addr).is_some() {
            self.owned.remove_addr(addr);
        }
    }

    fn put_cidr(&mut self, key: CidrKey) {
        if self.cidrs.insert(key) {
            self.owned.add_cidr(&key);
        }
    }

    fn drop_cidr(&mut self, key: &CidrKey) {
        if self.cidrs.remove(key) {
            self.owned.remove_cidr(key);
        }
    }

    fn put_source(&mut self, key: &SourceKey) {
        let is_new = self.sources.entry(key.service).or_default().insert(key.range());
        self.source_count += usize::from(is_new);
    }

    fn drop_source(&mut self, key: &SourceKey) {
        if let Some(ranges) = self.sources.get_mut(&key.service) {
            self.source_count -= usize::from(ranges.remove(&key.range()));
            if ranges.is_empty() {
                self.sources.remove(&key.service);
            }
        }
    }
}
