//! Programs of others at the sides of devices: told, and never touched.

use std::io;
use std::os::fd::AsFd;

use super::filters;
use crate::sys::link::{Side, programs_at};
use crate::sys::{bpf, tc};

/// One program at a side of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its id; zero: a filter that is none of bpf.
    pub id: u32,
    /// Its name, or the kind of filter.
    pub name: String,
    /// Whether it is ours.
    pub is_ours: bool,
}

/// A program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranger {
    /// Its id; zero: a filter that is none of bpf.
    pub id: u32,
    /// Its name, or the kind of filter.
    pub name: String,
    /// Whether it stands between the wire and us: what it changes or drops, we do not see as it was.
    pub is_outside: bool,
}

/// The programs of a side, in the order in which they run: those at tcx links come before filters. `is_ours` judges ids of
/// tcx links.
pub fn programs(
    (index, side): (u32, Side),
    has_tcx: bool,
    is_ours: impl Fn(u32) -> bool,
) -> io::Result<Vec<Program>> {
    let mut all = Vec::new();
    if has_tcx {
        for id in programs_at(index, side)? {
            all.push(Program { id, name: name_of(id), is_ours: is_ours(id) });
        }
    }
    for filter in tc::filters(index, side)? {
        let is_ours = filters::is_ours(&filter, side);
        let name = if filter.name.is_empty() { filter.kind } else { filter.name };
        all.push(Program { id: filter.program_id, name, is_ours });
    }
    Ok(all)
}

fn name_of(id: u32) -> String {
    let facts = bpf::program_by_id(id).and_then(|program| bpf::program_facts(program.as_fd()));
    // One that has gone in between has no name any more.
    facts.map(|facts| facts.name).unwrap_or_default()
}

/// Those of others, by where they stand.
pub fn strangers(side: Side, programs: &[Program]) -> Vec<Stranger> {
    let ours = programs.iter().position(|program| program.is_ours);
    let is_outside = |place: usize| match (ours, side) {
        (None, _) => false,
        (Some(ours), Side::Ingress) => place < ours,
        (Some(ours), Side::Egress) => place > ours,
    };
    let others = programs.iter().enumerate().filter(|(_, program)| !program.is_ours);
    others
        .map(|(place, Program { id, name, .. })| Stranger {
            id: *id,
            name: name.clone(),
            is_outside: is_outside(place),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_between_the_wire_and_us_depends_on_the_side() {
        let program = |id, is_ours| Program { id, name: format!("p{id}"), is_ours };
        let all = [program(1, false), program(2, true), program(3, false)];
        let outside = |side| -> Vec<u32> {
            let found = strangers(side, &all);
            assert_eq!(found.len(), 2);
            found.iter().filter(|stranger| stranger.is_outside).map(|stranger| stranger.id).collect()
        };
        assert_eq!((outside(Side::Ingress), outside(Side::Egress)), (vec![1], vec![3]));
        assert!(strangers(Side::Egress, &[program(4, false)]).iter().all(|stranger| !stranger.is_outside));
    }
}
