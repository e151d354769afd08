//! The node's addresses and the service ranges, compared with the maps.

use proxy_common::names::{CIDRS, NODE_ADDRS};

use super::stock::Full;
use crate::plan::actual::Actual;
use crate::plan::ops::MapOp;
use crate::plan::owned::{OwnedTrial, Tally};
use crate::plan::tables::DesiredNode;

/// Changes of the node's tables.
#[derive(Debug, Default)]
pub(super) struct NodeChanges {
    pub(super) inserts: Vec<MapOp>,
    pub(super) replaces: Vec<MapOp>,
    /// Ranges first: a VIP that goes must not time out before it is gone.
    pub(super) deletes: Vec<MapOp>,
}

impl NodeChanges {
    /// What brings the maps to `node`. What finds no room is left out and named.
    pub(super) fn diff(
        actual: &Actual,
        node: &DesiredNode,
        limits: (u32, u32),
    ) -> (Self, Vec<(String, Full)>) {
        let mut changes = Self::default();
        let mut refused = Vec::new();
        let mut room = (limits.0 as usize).saturating_sub(actual.node_addrs().len());
        for (addr, flags) in &node.addresses {
            match actual.node_addrs().get(addr) {
                Some(present) if present == flags => {}
                Some(_) => changes.replaces.push(MapOp::ReplaceNodeAddr(*addr, *flags)),
                None if room == 0 => refused.push((format!("node address {addr}"), Full(NODE_ADDRS))),
                None => {
                    room -= 1;
                    changes.inserts.push(MapOp::InsertNodeAddr(*addr, *flags));
                }
            }
        }
        let mut room = (limits.1 as usize).saturating_sub(actual.cidrs().len());
        for key in node.service_cidrs.iter().filter(|key| !actual.cidrs().contains(key)) {
            if room == 0 {
                refused.push((format!("service range {}", key.addr), Full(CIDRS)));
            } else {
                room -= 1;
                changes.inserts.push(MapOp::InsertCidr(*key));
            }
        }
        let cidrs_gone = actual.cidrs().iter().filter(|key| !node.service_cidrs.contains(key));
        changes.deletes.extend(cidrs_gone.map(|key| MapOp::DeleteCidr(*key)));
        let is_wanted = |addr| node.addresses.iter().any(|(wanted, _)| wanted == addr);
        let addrs_gone = actual.node_addrs().keys().filter(|addr| !is_wanted(*addr));
        changes.deletes.extend(addrs_gone.map(|addr| MapOp::DeleteNodeAddr(*addr)));
        (changes, refused)
    }
}

/// Counts what an op inserts in.
pub(super) fn count_in(owned: &mut OwnedTrial<'_>, op: &MapOp) {
    match op {
        MapOp::InsertNodeAddr(addr, _) => owned.add_addr(*addr),
        MapOp::InsertCidr(key) => owned.add_cidr(key),
        _ => {}
    }
}

/// Counts what an op deletes out.
pub(super) fn count_out(owned: &mut OwnedTrial<'_>, op: &MapOp) {
    match op {
        MapOp::DeleteNodeAddr(addr) => owned.remove_addr(*addr),
        MapOp::DeleteCidr(key) => owned.remove_cidr(key),
        _ => {}
    }
}
