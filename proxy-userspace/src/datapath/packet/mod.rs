//! The packet path in the kernel: an object of its own over the same tables, at devices instead of at a cgroup.
//!
//! Programs that go on where others have begun are found through `SLOW`. The kernel empties such an array when the last
//! descriptor or pin of it goes, whoever runs the programs. So each load has its own, and its pin takes the place of the one
//! before only once no program runs any more that looks into that.

pub mod devices;
pub mod effects;
pub mod filters;
pub mod looks;
pub mod observed;
pub mod ports;
pub mod settings;
pub mod shortcuts;
pub mod strangers;
pub mod tables;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::Map as AyaMap;
use aya::programs::{Iter, SchedClassifier};
use aya::{Btf, Ebpf, EbpfLoader};
use ipnet::IpNet;
use proxy_common::names;
use proxy_common::nat::Settings;
use proxy_common::node::CidrKey;
use proxy_common::shortcut::{OFFSETS_WORDS, Offsets};
use zerocopy::{FromBytes, IntoBytes};

use self::devices::{Applied, Devices, Means, Program, Programs};
use self::strangers::Stranger;
use self::tables::{MadeRoom, flows_max};
use super::DatapathError;
use super::attach::remove_if_there;
use super::load::{Globals, LoadOptions};
use super::pin::{MapSet, PinDir, at, read};
use crate::devices::Hooked;
use crate::maps::grace::Grace;
use crate::sys::bpf::{self, ProgramFacts};
use crate::sys::link::{Side, has_tcx};
use crate::sys::map::Map;

/// The object that `cargo xtask ebpf` built and that is committed with this crate.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/packet.bpf.o");

/// The programs where packets enter by a device, and where they leave by it: of one with Ethernet frames, of one of pods, and of
/// one whose packets begin with their IP header.
pub const ENTRIES: [&str; 5] =
    ["shunt_arrive", "shunt_leave", "shunt_arrive_pod", "shunt_arrive_bare", "shunt_leave_bare"];
/// The program that sweeps the tables of flows: run, not attached.
const SWEEP: &str = "shunt_sweep";

/// Programs that passed the verifier, and their maps.
#[derive(Debug)]
pub struct Packet {
    ebpf: Ebpf,
    devices: Devices,
    settings: Map,
    /// Where the programs that go on are pinned until those before them are gone; `None`: they are.
    waiting: Option<PathBuf>,
    /// What had to make room.
    pub made_room: Vec<MadeRoom>,
    /// Records of flows that there may be.
    pub flows: u32,
}

/// What sweeps the tables of flows.
#[derive(Debug)]
pub struct Sweep {
    /// The loaded program.
    pub program: OwnedFd,
    /// Tables by name, those of [`names::FLOWS`], [`names::OPENING`], [`names::PLACES`], [`names::MARKS`] and [`names::SETTINGS`].
    pub tables: [Map; 5],
}

impl Packet {
    /// Loads the programs; nothing is attached yet. The tables must be pinned, since they are shared by their pins.
    /// With `shortcuts`, packets may go past the stack.
    pub fn load(
        options: &LoadOptions<'_>,
        means: Option<Means>,
        shortcuts: Option<&Offsets>,
    ) -> Result<Self, DatapathError> {
        let pin_dir =
            options.pin_dir.ok_or(DatapathError::Absent { kind: "place for pins", name: "bpffs" })?;
        let pinned = tables::pinned(options.object)?;
        let made_room = tables::make_room(pin_dir, &pinned)?;
        let globals = Globals::new(options);
        let mut loader = EbpfLoader::new();
        globals.set(&mut loader, false);
        let (has_shortcuts, offsets) = words_of(shortcuts);
        loader.override_global("SHORTCUTS", &has_shortcuts, true);
        loader.override_global("OFFSETS", &offsets, true);
        let memory = rustix::system::sysinfo();
        let bytes = memory.totalram.saturating_mul(u64::from(memory.mem_unit));
        loader.map_max_entries(names::FLOWS, flows_max(bytes));
        for (name, path) in pin_dir.map_paths() {
            loader.map_pin_path(name, path);
        }
        for table in &pinned {
            loader.map_pin_path(table.name, pin_dir.directory(table.set).join(table.name));
        }
        let mut ebpf = loader.load(options.object)?;
        for name in programs() {
            load_program(&mut ebpf, name)?;
        }
        let waiting = Some(fill_slow(&ebpf, pin_dir)?);
        let [arrive, leave, arrive_pod, arrive_bare, leave_bare] =
            ENTRIES.map(|name| entry_point(&ebpf, name));
        let programs =
            Programs { arrive: [arrive?, arrive_pod?, arrive_bare?], leave: [leave?, leave_bare?] };
        let devices = Devices {
            programs,
            entries: map(&ebpf, names::DEVICES)?,
            pin_dir: pin_dir.clone(),
            means: means.unwrap_or_else(|| if has_tcx() { Means::Links } else { Means::Filters }),
        };
        let flows = map(&ebpf, names::FLOWS)?.shape().max_entries;
        let settings = map(&ebpf, names::SETTINGS)?;
        Ok(Self { ebpf, devices, settings, waiting, made_room, flows })
    }

    /// How programs are attached.
    pub const fn means(&self) -> Means {
        self.devices.means
    }

    /// What the programs were told last, by this agent or one before.
    pub fn settings(&self) -> Result<Option<Settings>, DatapathError> {
        told(&self.settings)
    }

    /// Tells the programs.
    pub fn tell(&self, settings: &Settings) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::System { step: "tell the packet path its settings", source };
        self.settings.update(&0_u32.to_ne_bytes(), settings.as_bytes()).map_err(failed)
    }

    /// Where the programs look who is inside.
    pub fn inside(&self) -> Result<Inside, DatapathError> {
        map(&self.ebpf, names::INSIDE).map(Inside)
    }

    /// What sweeps the tables of flows. It needs the kernel's BTF.
    pub fn sweep(&mut self) -> Result<Sweep, DatapathError> {
        let absent = || DatapathError::Absent { kind: "program", name: SWEEP };
        let of = |name| map(&self.ebpf, name);
        let tables = [
            of(names::FLOWS)?,
            of(names::OPENING)?,
            of(names::PLACES)?,
            of(names::MARKS)?,
            of(names::SETTINGS)?,
        ];
        let program: &mut Iter =
            self.ebpf.program_mut(SWEEP).and_then(|program| program.try_into().ok()).ok_or_else(absent)?;
        let btf = Btf::from_sys_fs().map_err(|error| DatapathError::System {
            step: "read the kernel's BTF",
            source: std::io::Error::other(error),
        })?;
        let failed = |source| DatapathError::Program { name: SWEEP, source };
        program.load("bpf_map_elem", &btf).map_err(failed)?;
        let program = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
        let program = program.map_err(|source| DatapathError::System { step: "keep a program", source })?;
        Ok(Sweep { program, tables })
    }

    /// Has the programs at these devices and at no others. Whatever goes wrong with one device leaves the others alone.
    pub fn apply(&mut self, wanted: &[Hooked]) -> Result<Applied, DatapathError> {
        let applied = self.devices.apply(wanted)?;
        // Where a program could not be replaced, the one that is there still looks into the array that it came with.
        if applied.failures.iter().all(|failure| failure.is_gone)
            && let Some(waiting) = self.waiting.take()
        {
            let settled = settle(&self.devices.pin_dir, &waiting);
            if settled.is_err() {
                self.waiting = Some(waiting);
            }
            settled?;
        }
        Ok(applied)
    }

    /// Whether no program is in force any more that another load has attached.
    pub const fn is_settled(&self) -> bool {
        self.waiting.is_none()
    }

    /// Programs of others at the devices, with where they are.
    pub fn strangers(&self, wanted: &[Hooked]) -> std::io::Result<BTreeSet<(String, Side, Stranger)>> {
        self.devices.strangers(wanted)
    }

    /// What the kernel tells of each program: those at devices, then the others by their index.
    pub fn program_facts(&self) -> Result<Vec<ProgramFacts>, DatapathError> {
        programs()
            .map(|name| {
                bpf::program_facts(program_fd(&self.ebpf, name)?)
                    .map_err(|source| DatapathError::System { step: "ask for program facts", source })
            })
            .collect()
    }
}

/// Ranges whose packets count as inside.
#[derive(Debug)]
pub struct Inside(Map);

impl Inside {
    /// Tells the programs: these ranges and no others.
    pub fn tell(&self, ranges: &[IpNet]) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::System { step: "tell the packet path who is inside", source };
        let wanted: BTreeSet<Vec<u8>> = ranges.iter().map(|range| lpm_key(*range)).collect();
        let (keys, _) = self.0.entries().map_err(failed)?;
        for key in &wanted {
            self.0.update(key, &names::INSIDE_POD.to_ne_bytes()).map_err(failed)?;
        }
        for key in keys.chunks_exact(size_of::<CidrKey>()).filter(|key| !wanted.contains(*key)) {
            self.0.delete(key).map_err(failed)?;
        }
        Ok(())
    }
}

/// Every program but the sweep: those at devices, then those that go on by their index.
fn programs() -> impl Iterator<Item = &'static str> {
    ENTRIES.into_iter().chain(names::SLOW_PROGRAMS)
}

/// What the programs know from their load on of shortcuts: whether there are any, and what they look at.
fn words_of(shortcuts: Option<&Offsets>) -> (u32, [u32; OFFSETS_WORDS]) {
    let offsets = shortcuts.map_or([0; OFFSETS_WORDS], |offsets| zerocopy::transmute!(*offsets));
    (u32::from(shortcuts.is_some()), offsets)
}

/// A range as the kernel's longest-prefix-match trie has it.
fn lpm_key(range: IpNet) -> Vec<u8> {
    CidrKey::new(range.network().into(), range.prefix_len()).as_bytes().to_vec()
}

/// Takes the packet path away that another agent has left, and returns the devices that it was at.
pub fn take_away(pin_dir: &PinDir) -> Result<Vec<u32>, DatapathError> {
    let devices = devices::detach_all(pin_dir)?;
    for table in tables::TABLES {
        remove_if_there(&pin_dir.maps().join(table))?;
    }
    let flows = pin_dir.directory(MapSet::Flows);
    match std::fs::remove_dir_all(&flows) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("remove", &flows)(error)),
        _ => Ok(devices),
    }
}

/// The pinned settings; `None` where there are none.
pub fn pinned_settings(pin_dir: &PinDir) -> Result<Option<Settings>, DatapathError> {
    let path = pin_dir.maps().join(names::SETTINGS);
    match Map::open_pinned(&path) {
        Ok(map) => told(&map),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("open", &path)(error)),
    }
}

fn told(map: &Map) -> Result<Option<Settings>, DatapathError> {
    let failed = |source| DatapathError::System { step: "read the packet path's settings", source };
    let bytes = map.lookup(&0_u32.to_ne_bytes()).map_err(failed)?;
    // Another layout has other settings.
    Ok(bytes.and_then(|bytes| Settings::read_from_bytes(&bytes).ok()))
}

/// Fills the array of programs that go on, and pins it beside those of other loads; returns where.
fn fill_slow(ebpf: &Ebpf, pin_dir: &PinDir) -> Result<PathBuf, DatapathError> {
    let slow = map(ebpf, names::SLOW)?;
    for (index, name) in (0_u32..).zip(names::SLOW_PROGRAMS) {
        let fd = program_fd(ebpf, name)?.as_raw_fd();
        slow.update(&index.to_ne_bytes(), &fd.to_ne_bytes())
            .map_err(|source| DatapathError::System { step: "fill the array of programs", source })?;
    }
    let flows = pin_dir.directory(MapSet::Flows);
    let mut places = (0_u32..).map(|count| flows.join(format!("{}_{count}", names::SLOW)));
    // There are more numbers than a directory has entries.
    let place = places.find(|place| !place.exists()).unwrap_or_default();
    bpf::pin(slow.as_fd(), &place).map_err(at("pin", &place))?;
    Ok(place)
}

/// Lets the arrays of other loads go, now that their programs are replaced: once those that were running have ended.
fn settle(pin_dir: &PinDir, waiting: &std::path::Path) -> Result<(), DatapathError> {
    let system = |step| move |source| DatapathError::System { step, source };
    Grace::new().and_then(|grace| grace.wait()).map_err(system("wait for programs that run"))?;
    let flows = pin_dir.directory(MapSet::Flows);
    let place = flows.join(names::SLOW);
    std::fs::rename(waiting, &place).map_err(at("rename", waiting))?;
    for name in read(&flows)?.iter().filter(|name| name.starts_with(names::SLOW) && *name != names::SLOW) {
        let other = flows.join(name);
        std::fs::remove_file(&other).map_err(at("remove", &other))?;
    }
    Ok(())
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), DatapathError> {
    let absent = || DatapathError::Absent { kind: "program", name };
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(absent)?;
    program.load().map_err(|source| DatapathError::Program { name, source })
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, DatapathError> {
    let program = ebpf.program(name).ok_or(DatapathError::Absent { kind: "program", name })?;
    Ok(program.fd().map_err(|source| DatapathError::Program { name, source })?.as_fd())
}

fn entry_point(ebpf: &Ebpf, name: &'static str) -> Result<Program, DatapathError> {
    let fd = program_fd(ebpf, name)?;
    let system = |step| move |source| DatapathError::System { step, source };
    let id = bpf::program_facts(fd).map_err(system("ask for program facts"))?.id;
    Ok(Program { fd: fd.try_clone_to_owned().map_err(system("keep a program"))?, id, name })
}

fn map(ebpf: &Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    let absent = || DatapathError::Absent { kind: "map", name };
    let fd = map_fd(ebpf.map(name).ok_or_else(absent)?).ok_or_else(absent)?;
    fd.and_then(Map::from_fd).map_err(|source| DatapathError::System { step: "open a map", source })
}

fn map_fd(map: &AyaMap) -> Option<std::io::Result<OwnedFd>> {
    match map {
        AyaMap::Array(map)
        | AyaMap::HashMap(map)
        | AyaMap::LruHashMap(map)
        | AyaMap::LpmTrie(map)
        | AyaMap::ProgramArray(map) => Some(map.fd().as_fd().try_clone_to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya_obj::{Object, ProgramSection};

    /// What an empty program costs is measured by it, and nothing else.
    const MEASURED: &str = "shunt_nothing";

    #[test]
    fn every_program_of_the_object_has_its_place() {
        let object = Object::parse(OBJECT).unwrap();
        let classifiers = object
            .programs
            .iter()
            .filter(|(_, program)| matches!(program.section, ProgramSection::SchedClassifier))
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != MEASURED);
        assert_eq!(classifiers.collect::<BTreeSet<_>>(), programs().collect());
        assert_eq!(object.maps[names::SLOW].max_entries() as usize, names::SLOW_PROGRAMS.len());
    }
}
