//! What runs at devices for a pin directory, as the kernel says; for the commands that only look.

use std::io;
use std::path::Path;

use super::devices::Means;
use super::filters;
use super::strangers::{Stranger, programs, strangers};
use crate::datapath::DatapathError;
use crate::datapath::hooks::device_of;
use crate::datapath::pin::{PinDir, at, read};
use crate::sys::link::{Link, Side, has_tcx};
use crate::sys::tc;

/// A program of ours at a side of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Index of the device.
    pub index: u32,
    /// Its name; `None`: it has gone, and nothing runs there any more.
    pub name: Option<String>,
    /// Which side.
    pub side: Side,
    /// How it is attached.
    pub means: Means,
    /// Id of the program.
    pub program_id: u32,
    /// Programs of others at the same side.
    pub strangers: Vec<Stranger>,
}

/// All of them, in the order of the devices.
pub fn observe(pin_dir: &PinDir) -> Result<Vec<Observed>, DatapathError> {
    let mut all = Vec::new();
    for (index, side) in read(&pin_dir.links())?.iter().filter_map(|name| device_of(name)) {
        all.push(linked(pin_dir, (index, side))?);
    }
    for index in filters::devices(&pin_dir.filters())? {
        for side in Side::ALL {
            let found = tc::filters(index, side).map_err(failed("list filters"))?;
            if let Some(ours) = found.iter().find(|filter| filters::is_ours(filter, side)) {
                all.push(observed((index, side), Means::Filters, ours.program_id)?);
            }
        }
    }
    all.sort_by_key(|observed| (observed.index, observed.side));
    Ok(all)
}

fn linked(pin_dir: &PinDir, (index, side): (u32, Side)) -> Result<Observed, DatapathError> {
    let path: &Path = &pin_dir.links().join(crate::datapath::hooks::device_link(index, side));
    let link = Link::open_pinned(path).map_err(at("open", path))?;
    let facts = link.device_facts().map_err(at("read", path))?;
    if facts.index != index {
        let (name, strangers) = (None, Vec::new());
        return Ok(Observed {
            index,
            name,
            side,
            means: Means::Links,
            program_id: facts.program_id,
            strangers,
        });
    }
    observed((index, side), Means::Links, facts.program_id)
}

fn observed((index, side): (u32, Side), means: Means, program_id: u32) -> Result<Observed, DatapathError> {
    let found = programs((index, side), has_tcx(), |id| means == Means::Links && id == program_id);
    let strangers = strangers(side, &found.map_err(failed("list the programs of a device"))?);
    // One that is not in this network namespace has no name here.
    let name = tc::device_name(index).unwrap_or_else(|_| index.to_string());
    Ok(Observed { index, name: Some(name), side, means, program_id, strangers })
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::System { step, source }
}
