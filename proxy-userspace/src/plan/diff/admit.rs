//! Admission: which service ports a plan is about, and which of them find room.

use std::sync::Arc;

use foldhash::{HashSet, HashSetExt};
use proxy_common::frontend::FrontendKey;
use proxy_common::names;

use super::batch::Batch;
use super::port::diff_port;
use super::stock::Full;
use super::{Changes, InFlight, Planner, Refused};
use crate::plan::claims::Touched;
use crate::plan::tables::{DesiredPort, OwnerTag};

impl Planner {
    /// Merges what an aborted batch left over with `changes`; returns the service ports that are gone, and the frontends
    /// to settle.
    pub(super) fn take_in(&mut self, changes: Changes) -> (Vec<OwnerTag>, Touched) {
        let InFlight { ports, dead, mut touched } = std::mem::take(&mut self.in_flight);
        touched.append(&mut self.vips_refused);
        let mut dead: HashSet<OwnerTag> = dead.into_iter().collect();
        for port in ports {
            self.waiting.insert(port.tag, port);
        }
        for tag in changes.remove {
            self.waiting.remove(&tag);
            dead.insert(tag);
        }
        for port in changes.upsert {
            self.claims.note_wanted(port.tag);
            dead.remove(&port.tag);
            self.waiting.insert(port.tag, port);
        }
        if changes.prune {
            dead.extend(self.claims.unknown(&mut touched));
        }
        for tag in &dead {
            self.claims.remove(*tag, &mut touched);
        }
        if let Some(node) = changes.node {
            self.node = Some(node);
            self.node_in_sync = false;
        }
        let mut dead: Vec<OwnerTag> = dead.into_iter().collect();
        dead.sort_unstable_by_key(|tag| self.actual.cell_of(*tag));
        (dead, touched)
    }

    /// Plans every service port that waits: those that have a cell before new ones, which get what room is left.
    pub(super) fn admit_all(&mut self, batch: &mut Batch, touched: &mut Touched, refused: &mut Vec<Refused>) {
        let mut ports: Vec<(bool, DesiredPort)> = std::mem::take(&mut self.waiting)
            .into_values()
            .map(|port| (self.actual.cell_of(port.tag).is_none(), port))
            .collect();
        ports.sort_unstable_by(|(new, port), (other_new, other)| {
            (new, &port.label, port.tag).cmp(&(other_new, &other.label, other.tag))
        });
        let mut inserted = HashSet::new();
        for (_, port) in ports {
            let mark = self.stock.mark();
            match self.admit(batch, &mut inserted, &port) {
                Ok(()) => {
                    self.claims.replace(port.tag, (&port.label, &port.frontends), touched);
                    self.in_flight.ports.push(port);
                }
                Err(Full(table)) => {
                    self.stock.roll_back(mark);
                    if !self.is_served(port.tag) {
                        self.claims.remove(port.tag, touched);
                    }
                    refused.push(Refused { label: Arc::clone(&port.label), table });
                    self.waiting.insert(port.tag, port);
                }
            }
        }
    }

    /// Whether any frontend leads to the cell of a service port. A cell that has just an owner, because a batch was
    /// aborted there, must get none: its views say nothing yet.
    fn is_served(&self, tag: OwnerTag) -> bool {
        let leads_to = |key, cell| self.actual.frontend(key).is_some_and(|value| value.service == cell);
        self.actual
            .cell_of(tag)
            .is_some_and(|cell| self.claims.frontends(tag).iter().any(|claim| leads_to(&claim.key, cell)))
    }

    fn admit(
        &mut self,
        batch: &mut Batch,
        inserted: &mut HashSet<FrontendKey>,
        port: &DesiredPort,
    ) -> Result<(), Full> {
        // Blocks of owned VIPs are few, and what they lack holds up no service.
        let is_absent = |key: &&FrontendKey| {
            !key.is_owned_vip() && self.actual.frontend(key).is_none() && !inserted.contains(*key)
        };
        let absent: Vec<FrontendKey> =
            port.frontends.iter().map(|frontend| &frontend.key).filter(is_absent).copied().collect();
        let taken = self.actual.frontends().len() + inserted.len();
        if !absent.is_empty() && taken + absent.len() > self.frontend_limit() as usize {
            return Err(Full(names::FRONTENDS));
        }
        let (ops, new_cell) = diff_port(&self.actual, &mut self.stock, port)?;
        batch.add(ops);
        batch.new_cells.extend(new_cell.map(|service| (port.tag, service)));
        inserted.extend(absent);
        Ok(())
    }

    /// Entries that the frontend hash may hold.
    pub(super) fn frontend_limit(&self) -> u32 {
        if self.stock.is_blocked(names::FRONTENDS) {
            self.actual.frontend_capacity()
        } else {
            self.rules.limits.frontends
        }
    }
}
