//! Programs at devices: what is there, and the steps of [`super::effects`] carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use proxy_common::nat::Device;
use zerocopy::{FromBytes, IntoBytes};

use super::effects::{Effect, Found, Held, effects};
use super::filters;
use super::strangers::{self, Stranger};
use crate::datapath::DatapathError;
use crate::datapath::attach::remove_if_there;
use crate::datapath::hooks::{device_link, device_of};
use crate::datapath::pin::{PinDir, read};
use crate::devices::Hooked;
use crate::sys::link::{Link, Side};
use crate::sys::map::Map;
use crate::sys::{bpf, tc};

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By tcx links.
    Links,
    /// By filters at a clsact qdisc, where the kernel has none.
    Filters,
}

impl Means {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Links => "tcx",
            Self::Filters => "clsact",
        }
    }
}

/// The program of a side.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
    pub(super) name: &'static str,
}

/// The programs at sides of devices, by the kind of device.
#[derive(Debug)]
pub(super) struct Programs {
    /// Of one with Ethernet frames, of one of pods, of one without frames.
    pub(super) arrive: [Program; 3],
    /// Of one with Ethernet frames, of one without.
    pub(super) leave: [Program; 2],
}

impl Programs {
    /// The one for a side of a device.
    fn of(&self, side: Side, device: &Hooked) -> &Program {
        let ([framed, of_pods, bare], [leave, leave_bare]) = (&self.arrive, &self.leave);
        match side {
            Side::Ingress if device.is_bare => bare,
            Side::Ingress if device.leads_to_pods => of_pods,
            Side::Ingress => framed,
            Side::Egress if device.is_bare => leave_bare,
            Side::Egress => leave,
        }
    }

    /// Whether a program is one of this load.
    fn has(&self, id: u32) -> bool {
        self.arrive.iter().chain(&self.leave).any(|program| program.id == id)
    }
}

/// The devices of this node that have the programs.
#[derive(Debug)]
pub struct Devices {
    pub(super) programs: Programs,
    /// What the programs are told of devices.
    pub(super) entries: Map,
    pub(super) pin_dir: PinDir,
    pub(super) means: Means,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// Steps that went well.
    pub done: Vec<Effect>,
    /// Devices at which something did not.
    pub failures: Vec<Failure>,
}

/// What went wrong with a device; the others have what they should.
#[derive(Debug)]
pub struct Failure {
    /// The device.
    pub device: u32,
    /// Why.
    pub error: DatapathError,
    /// Whether that is since the device has gone, which somebody else will tell.
    pub is_gone: bool,
}

impl Devices {
    /// Has the programs at these devices and at no others.
    pub(super) fn apply(&self, wanted: &[Hooked]) -> Result<Applied, DatapathError> {
        let found = self.found(wanted)?;
        let mut applied = Applied::default();
        let mut failed = BTreeSet::new();
        for step in effects(wanted, &found) {
            // What follows from a step that failed makes no sense.
            if failed.contains(&step.device()) {
                continue;
            }
            match self.carry_out(step, of_index(wanted, step.device())) {
                Ok(()) => applied.done.push(step),
                Err(error) => {
                    failed.insert(step.device());
                    let is_gone = is_gone(&error);
                    applied.failures.push(Failure { device: step.device(), error, is_gone });
                }
            }
        }
        self.leave_other_means(&failed)?;
        Ok(applied)
    }

    /// Programs of others at the devices.
    pub(super) fn strangers(&self, wanted: &[Hooked]) -> io::Result<BTreeSet<(String, Side, Stranger)>> {
        let mut all = BTreeSet::new();
        let has_tcx = self.means == Means::Links;
        for device in wanted {
            for side in Side::ALL {
                let found = strangers::programs((device.index, side), has_tcx, |id| self.programs.has(id));
                let strangers = match found {
                    Ok(programs) => strangers::strangers(side, &programs),
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                    Err(error) => return Err(error),
                };
                all.extend(strangers.into_iter().map(|stranger| (device.name.clone(), side, stranger)));
            }
        }
        Ok(all)
    }

    /// What is there, as the kernel says.
    fn found(&self, wanted: &[Hooked]) -> Result<Found, DatapathError> {
        let mut entries = BTreeMap::new();
        let (keys, values) = self.entries.entries().map_err(failed("list the devices that are known"))?;
        for (key, value) in keys.chunks_exact(4).zip(values.chunks_exact(size_of::<Device>())) {
            let (Ok(key), Ok(value)) = (u32::read_from_bytes(key), Device::read_from_bytes(value)) else {
                continue;
            };
            entries.insert(key, value);
        }
        let sides = match self.means {
            Means::Links => self.linked(wanted)?,
            Means::Filters => self.filtered(wanted)?,
        };
        Ok(Found { entries, sides })
    }

    fn linked(&self, wanted: &[Hooked]) -> Result<BTreeMap<(u32, Side), Held>, DatapathError> {
        let mut sides = BTreeMap::new();
        for (index, side) in read(&self.pin_dir.links())?.iter().filter_map(|name| device_of(name)) {
            let facts = self.open(index, side)?.device_facts().map_err(failed("read a link"))?;
            let is_there = facts.index == index;
            let held = if is_there { self.held((index, side), facts.program_id, wanted) } else { Held::Dead };
            sides.insert((index, side), held);
        }
        Ok(sides)
    }

    fn filtered(&self, wanted: &[Hooked]) -> Result<BTreeMap<(u32, Side), Held>, DatapathError> {
        let mut sides = BTreeMap::new();
        for index in filters::devices(&self.pin_dir.filters())? {
            let mut count = 0;
            for side in Side::ALL {
                let found = tc::filters(index, side).map_err(failed("list filters"))?;
                if let Some(ours) = found.iter().find(|filter| filters::is_ours(filter, side)) {
                    sides.insert((index, side), self.held((index, side), ours.program_id, wanted));
                    count += 1;
                }
            }
            // Whoever has none is to be forgotten, by whichever side.
            if count == 0 {
                sides.insert((index, Side::Ingress), Held::Dead);
            }
        }
        Ok(sides)
    }

    /// Whether the program at a side is the one for its kind of device.
    fn held(&self, (index, side): (u32, Side), id: u32, wanted: &[Hooked]) -> Held {
        let is_current = match of_index(wanted, index) {
            Some(device) => self.programs.of(side, device).id == id,
            None => self.programs.has(id),
        };
        if is_current { Held::Current } else { Held::Other }
    }

    fn carry_out(&self, step: Effect, device: Option<&Hooked>) -> Result<(), DatapathError> {
        match step {
            Effect::Tell(index, device) => self
                .entries
                .update(&index.to_ne_bytes(), device.as_bytes())
                .map_err(failed("tell of a device")),
            Effect::Forget(index) => self
                .entries
                .delete(&index.to_ne_bytes())
                .map(drop)
                .map_err(failed("tell no more of a device")),
            Effect::Attach(index, side) | Effect::Replace(index, side) if self.means == Means::Filters => {
                let Program { fd, name, .. } = self.program(side, device)?;
                filters::attach(fd.as_fd(), name, (index, side), &self.pin_dir.filters())
            }
            Effect::Detach(index, side) | Effect::Unpin(index, side) if self.means == Means::Filters => {
                filters::detach((index, side), &self.pin_dir.filters())
            }
            Effect::Attach(index, side) => {
                let link = Link::attach_device(self.program(side, device)?.fd.as_fd(), index, side)
                    .map_err(failed("attach"))?;
                let path = self.pin_dir.links().join(device_link(index, side));
                bpf::pin(link.as_fd(), &path).map_err(|source| DatapathError::Path {
                    step: "pin",
                    path,
                    source,
                })
            }
            Effect::Replace(index, side) => {
                let program = self.program(side, device)?.fd.as_fd();
                self.open(index, side)?.replace(program).map_err(failed("replace the program"))
            }
            Effect::Detach(index, side) => {
                self.open(index, side)?.detach().map_err(failed("detach"))?;
                self.unpin(index, side)
            }
            Effect::Unpin(index, side) => self.unpin(index, side),
        }
    }

    /// Takes away what an agent has left that attached by the other means. Both at once do no harm: what one has changed is
    /// none of the other's flows.
    fn leave_other_means(&self, failed: &BTreeSet<u32>) -> Result<(), DatapathError> {
        match self.means {
            Means::Links => {
                for index in filters::devices(&self.pin_dir.filters())? {
                    if !failed.contains(&index) {
                        filters::detach((index, Side::Ingress), &self.pin_dir.filters())?;
                        filters::detach((index, Side::Egress), &self.pin_dir.filters())?;
                    }
                }
            }
            Means::Filters => {
                let links = self.linked(&[])?;
                for ((index, side), held) in
                    links.into_iter().filter(|((index, _), _)| !failed.contains(index))
                {
                    if held != Held::Dead {
                        let detach = |error| DatapathError::System { step: "detach", source: error };
                        self.open(index, side)?.detach().map_err(detach)?;
                    }
                    self.unpin(index, side)?;
                }
            }
        }
        Ok(())
    }

    fn open(&self, index: u32, side: Side) -> Result<Link, DatapathError> {
        let path = self.pin_dir.links().join(device_link(index, side));
        Link::open_pinned(&path).map_err(|source| DatapathError::Path { step: "open", path, source })
    }

    fn unpin(&self, index: u32, side: Side) -> Result<(), DatapathError> {
        remove_if_there(&self.pin_dir.links().join(device_link(index, side)))
    }

    /// The program for a side of a device that is wanted; no step attaches to another.
    fn program(&self, side: Side, device: Option<&Hooked>) -> Result<&Program, DatapathError> {
        let device = device.ok_or(DatapathError::Absent { kind: "program", name: "for this device" })?;
        Ok(self.programs.of(side, device))
    }
}

fn of_index(wanted: &[Hooked], index: u32) -> Option<&Hooked> {
    wanted.iter().find(|device| device.index == index)
}

/// Detaches the programs from every device and forgets all of it, whichever agent attached them.
pub(super) fn detach_all(pin_dir: &PinDir) -> Result<Vec<u32>, DatapathError> {
    let mut devices = BTreeSet::new();
    for (index, side) in read(&pin_dir.links())?.iter().filter_map(|name| device_of(name)) {
        let path = pin_dir.links().join(device_link(index, side));
        let at = |step| {
            let path = path.clone();
            move |source| DatapathError::Path { step, path, source }
        };
        Link::open_pinned(&path).map_err(at("open"))?.detach().map_err(at("detach"))?;
        remove_if_there(&path)?;
        devices.insert(index);
    }
    devices.extend(filters::devices(&pin_dir.filters())?);
    filters::remove_all(&pin_dir.filters())?;
    Ok(devices.into_iter().collect())
}

fn is_gone(error: &DatapathError) -> bool {
    match error {
        DatapathError::System { source, .. } => {
            [libc::ENODEV, libc::ENOLINK].map(Some).contains(&source.raw_os_error())
        }
        _ => false,
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |source| DatapathError::System { step, source }
}
