//! Admission: which service ports a plan is about, and which of them find room.

use std::cell::OnceCell;
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt};
use proxy_common::addr::{Addr, Port};
use proxy_common::backend::BackendState;
use proxy_common::frontend::FrontendKey;
use proxy_common::names;

use super::batch::{Batch, PortOps};
use super::port::diff_port;
use super::sources::diff_sources;
use super::stock::Full;
use super::{Changes, InFlight, Planner, Refused};
use crate::plan::claims::Touched;
use crate::plan::tables::{DesiredBackend, DesiredFrontend, DesiredPort, OwnerTag};

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
            self.claims.note_wanted(port.tag, &mut touched);
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
        let mut ports: Vec<DesiredPort> = std::mem::take(&mut self.waiting).into_values().collect();
        ports.sort_unstable_by(|port, other| (&port.label, port.tag).cmp(&(&other.label, other.tag)));
        let (old, new): (Vec<_>, Vec<_>) =
            ports.into_iter().partition(|port| self.actual.cell_of(port.tag).is_some());
        let mut inserted = HashSet::new();
        let reached = OnceCell::new();
        for ports in [old, new] {
            let mut without_room = Vec::new();
            for port in ports {
                match self.admit(batch, &mut inserted, &port) {
                    Ok(()) => {
                        self.claims.replace(port.tag, (&port.label, &port.frontends), touched);
                        self.in_flight.ports.push(port);
                    }
                    Err(full) => without_room.push((port, full)),
                }
            }
            for (port, Full(table)) in without_room {
                if self.is_served(port.tag, &reached) {
                    let frontends = self.admit_in_part(batch, &mut inserted, &port);
                    self.claims.replace(port.tag, (&port.label, &frontends), touched);
                } else {
                    self.claims.remove(port.tag, touched);
                    // Nobody reaches the cell, and what it holds may be the very room that its port lacks.
                    batch.dead.extend(self.actual.cell_of(port.tag));
                }
                refused.push(Refused { label: Arc::clone(&port.label), table });
                self.waiting.insert(port.tag, port);
            }
        }
    }

    /// Whether any frontend leads to the cell of a service port. A cell that has just an owner, because a batch was
    /// aborted there, must get none: its views say nothing yet.
    ///
    /// What the port claims tells it nearly always. But where a batch was aborted, claims have gone or moved ahead of the
    /// maps: only those say whether anybody is sent to it still. `reached` keeps what they said.
    fn is_served(&self, tag: OwnerTag, reached: &OnceCell<HashSet<u32>>) -> bool {
        let Some(cell) = self.actual.cell_of(tag) else { return false };
        // The value of a block of owned VIPs names no cell.
        let leads_to = |key: &FrontendKey| {
            !key.is_owned_vip() && self.actual.frontend(key).is_some_and(|value| value.service == cell)
        };
        self.claims.frontends(tag).iter().any(|claim| leads_to(&claim.key))
            || reached.get_or_init(|| self.actual.reached_cells()).contains(&cell)
    }

    fn admit(
        &mut self,
        batch: &mut Batch,
        inserted: &mut HashSet<FrontendKey>,
        port: &DesiredPort,
    ) -> Result<(), Full> {
        let absent = self.absent_frontends(inserted, port)?;
        self.check_source_room(batch, port)?;
        self.write_port(batch, port)?;
        inserted.extend(absent);
        Ok(())
    }

    /// Adds what brings a port's cell to `port`, or nothing if there is no room.
    fn write_port(&mut self, batch: &mut Batch, port: &DesiredPort) -> Result<(), Full> {
        let mark = self.stock.mark();
        let planned = diff_port(&self.actual, &mut self.stock, port);
        let (ops, new_cell) = planned.inspect_err(|_| self.stock.roll_back(mark))?;
        batch.add(ops);
        batch.new_cells.extend(new_cell.map(|service| (port.tag, service)));
        Ok(())
    }

    /// Plans as much of a served port's change as finds room, and returns the frontends that it keeps or gets.
    ///
    /// What is gone leaves, whatever the new finds: a connection must not be sent to an endpoint that is known to be dead.
    /// Only where even a smaller view finds no slots, the views stay as they are.
    fn admit_in_part(
        &mut self,
        batch: &mut Batch,
        inserted: &mut HashSet<FrontendKey>,
        port: &DesiredPort,
    ) -> Vec<DesiredFrontend> {
        let mut reduced = port.clone();
        match self.absent_frontends(inserted, port) {
            Ok(absent) => inserted.extend(absent),
            Err(Full(_)) => self.keep_present(&mut reduced.frontends),
        }
        let (kept, new) = self.with_and_without_row(port);
        let room = self.rows_left(new.len());
        self.keep_sources_in_room(batch, &mut reduced);
        let is_written = [[&kept[..], &new[..room]].concat(), kept].into_iter().any(|backends| {
            reduced.backends = backends;
            self.write_port(batch, &reduced).is_ok()
        });
        if let Some(cell) = self.actual.cell_of(port.tag).filter(|_| !is_written) {
            let mut ops = PortOps::default();
            diff_sources(&self.actual, &mut ops, (cell, false), &reduced.sources);
            batch.add(ops);
        }
        reduced.frontends
    }

    /// The frontends of a port that neither the maps nor this batch have, if there is room for all of them. Blocks of
    /// owned VIPs are few, and what they lack holds up no service.
    fn absent_frontends(
        &self,
        inserted: &HashSet<FrontendKey>,
        port: &DesiredPort,
    ) -> Result<Vec<FrontendKey>, Full> {
        let is_absent = |key: &&FrontendKey| {
            !key.is_owned_vip() && self.actual.frontend(key).is_none() && !inserted.contains(*key)
        };
        let absent: Vec<FrontendKey> =
            port.frontends.iter().map(|frontend| &frontend.key).filter(is_absent).copied().collect();
        let taken = self.actual.frontends().len() + inserted.len();
        if !absent.is_empty() && taken + absent.len() > self.frontend_limit() as usize {
            return Err(Full(names::FRONTENDS));
        }
        Ok(absent)
    }

    /// Keeps the frontends that are in the maps, and the ownership of their VIPs.
    fn keep_present(&self, frontends: &mut Vec<DesiredFrontend>) {
        let is_present = |key: &FrontendKey| !key.is_owned_vip() && self.actual.frontend(key).is_some();
        let vips: HashSet<Addr> = frontends
            .iter()
            .filter(|frontend| is_present(&frontend.key))
            .map(|frontend| frontend.key.addr)
            .collect();
        frontends.retain(|DesiredFrontend { key, .. }| {
            is_present(key) || key.is_owned_vip() && vips.contains(&key.addr)
        });
    }

    /// The backends that have a row, and the others: those first that a view wants.
    fn with_and_without_row(&self, port: &DesiredPort) -> (Vec<DesiredBackend>, Vec<DesiredBackend>) {
        let rows = self.actual.cell_of(port.tag).into_iter().flat_map(|cell| self.actual.rows_of(cell));
        let present: HashSet<(Addr, Port)> =
            rows.map(|id| self.actual.row(id)).map(|row| (row.addr, row.port)).collect();
        let (kept, mut new): (Vec<_>, Vec<_>) =
            port.backends.iter().partition(|backend| present.contains(&(backend.addr, backend.port)));
        new.sort_by_key(|backend: &DesiredBackend| backend.state == BackendState::SERVING);
        (kept, new)
    }

    /// How many rows can be had, up to `most`.
    fn rows_left(&mut self, most: usize) -> usize {
        let mark = self.stock.mark();
        let left = (0..most).take_while(|_| self.stock.take_row().is_ok()).count();
        self.stock.roll_back(mark);
        left
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
