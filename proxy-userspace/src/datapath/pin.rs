//! The pin directory: `<root>/v<schema>` holds the tables of one layout, `<root>/sockets<version>` what is remembered of
//! open sockets, `<root>/flows<version>` what is remembered of flows, `<root>/links` the links, and `<root>/filters` a
//! directory for each device that has filters instead of links.
//!
//! The sets of maps have versions of their own. Tables are filled anew by an agent of another layout; the record of a
//! socket or of a flow cannot be, so it must not go with them: an application would see its peer change under an upgrade.
//!
//! A pinned map is reused only if the kernel says that it has the shape the object wants: the loader itself would
//! take any map of that name, and read past its values.

use std::io;
use std::path::{Path, PathBuf};

use proxy_common::filter;
use proxy_common::names::{self, Chunked};
use proxy_common::registry::Namespace;
use proxy_common::socket::{PEER_PLACES, TcpPeer, TcpRecord};
use proxy_common::source::SourceKey;
use proxy_common::udp::UdpRecord;
use rustix::fs::statfs;

use super::DatapathError;
use super::hooks;
use super::packet::filters;
use crate::maps::clients::affinity_shape;
use crate::sys::link::Link;
use crate::sys::map::{Map, Shape};

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Directory of the links.
const LINKS: &str = "links";
/// Directories of tables: this and their version.
const TABLES: &str = "v";
/// Directories of what is remembered of sockets: this and their version.
const SOCKETS: &str = "sockets";
/// Directories of what is remembered of flows: this and their version.
const FLOWS: &str = "flows";
/// Directory of what has to be known of filters.
const FILTERS: &str = "filters";
/// Between the name of a set of maps and a number: maps that were in the way. A bpffs allows no dots in names.
const ASIDE: &str = "_aside";

/// Where objects are pinned.
#[derive(Clone, Debug)]
pub struct PinDir {
    root: PathBuf,
    schema: u32,
}

/// Maps that have one version and one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapSet {
    /// What the agent writes.
    Tables,
    /// What the programs remember of open sockets.
    Sockets,
    /// What the packet path remembers of flows. There is none unless it is on.
    Flows,
}

impl MapSet {
    /// All.
    pub const ALL: [Self; 3] = [Self::Tables, Self::Sockets, Self::Flows];
}

/// A map that is pinned, with the shape it must have; `max_entries` zero stands for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pinned {
    pub(super) set: MapSet,
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// Shape of the maps inside, for an array of maps.
    pub(super) inner: Option<Shape>,
}

impl PinDir {
    /// The directory `root` for layouts of `schema`.
    pub fn new(root: &Path, schema: u32) -> Self {
        Self { root: root.to_owned(), schema }
    }

    /// Whether `root`, or the nearest directory above it that exists, is on a bpffs.
    pub fn is_on_bpffs(root: &Path) -> bool {
        root.ancestors()
            .find_map(|path| statfs(path).ok())
            .is_some_and(|stat| u64::try_from(stat.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC))
    }

    /// Makes the directories, but for that of flows.
    pub fn create(&self) -> Result<(), DatapathError> {
        self.create_set(MapSet::Tables)?;
        self.create_set(MapSet::Sockets)?;
        let links = self.links();
        std::fs::create_dir_all(&links).map_err(at("create", &links))
    }

    /// Makes the directory of a set of maps.
    pub fn create_set(&self, set: MapSet) -> Result<(), DatapathError> {
        let path = self.directory(set);
        std::fs::create_dir_all(&path).map_err(at("create", &path))
    }

    /// Directory of a set of maps.
    pub fn directory(&self, set: MapSet) -> PathBuf {
        self.root.join(self.name(set))
    }

    /// Directory of the tables.
    pub fn maps(&self) -> PathBuf {
        self.directory(MapSet::Tables)
    }

    fn name(&self, set: MapSet) -> String {
        match set {
            MapSet::Tables => format!("{TABLES}{}", self.schema),
            MapSet::Sockets => format!("{SOCKETS}{}", names::SOCKETS_VERSION),
            MapSet::Flows => format!("{FLOWS}{}", names::FLOWS_VERSION),
        }
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// Directory of what has to be known of filters.
    pub fn filters(&self) -> PathBuf {
        self.root.join(FILTERS)
    }

    /// Path of every map of the programs at sockets that is pinned, by its name in the object.
    pub fn map_paths(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        pinned_maps().into_iter().map(|pinned| (pinned.name, self.directory(pinned.set).join(pinned.name)))
    }

    /// Compares every pinned map of a set with what the object of the programs at sockets wants. The first difference is returned: the maps then
    /// belong to another layout that carries our number, and must not be touched.
    pub fn foreign_map(&self, set: MapSet) -> Result<Option<String>, DatapathError> {
        self.foreign_among(pinned_maps().into_iter().filter(|pinned| pinned.set == set))
    }

    /// The same for maps that somebody else lists.
    pub(super) fn foreign_among(
        &self,
        wanted: impl IntoIterator<Item = Pinned>,
    ) -> Result<Option<String>, DatapathError> {
        for pinned in wanted {
            let path = self.directory(pinned.set).join(pinned.name);
            let map = match Map::open_pinned(&path) {
                Ok(map) => map,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("open", &path)(error)),
            };
            if !fits(map.shape(), pinned.shape) {
                return Ok(Some(difference(pinned.name, map.shape(), pinned.shape)));
            }
            if let Some(expected) = pinned.inner
                && let Some(inner) = map.inner(0).map_err(at("open the first map in", &path))?
                && !fits(inner.shape(), expected)
            {
                return Ok(Some(difference(pinned.name, inner.shape(), expected)));
            }
        }
        Ok(None)
    }

    /// Moves a set of maps aside, so that a fresh one can take its place while programs still use the old one. Returns
    /// where it is now.
    pub fn set_aside(&self, set: MapSet) -> Result<PathBuf, DatapathError> {
        let from = self.directory(set);
        let mut places = (0_u32..).map(|count| self.root.join(format!("{}{ASIDE}{count}", self.name(set))));
        // There are more numbers than a directory has entries.
        let to = places.find(|place| !place.exists()).unwrap_or_default();
        std::fs::rename(&from, &to).map_err(at("move aside", &from))?;
        self.create_set(set)?;
        Ok(to)
    }

    /// Names of the directories with maps of other versions, or that were set aside.
    pub fn other_sets(&self) -> Result<Vec<String>, DatapathError> {
        let ours = MapSet::ALL.map(|set| self.name(set));
        let mut found = read(&self.root)?;
        found.retain(|name| is_map_set(name) && !ours.contains(name));
        Ok(found)
    }

    /// Removes them, and returns their names; programs that still use the maps keep them alive.
    pub fn remove_other_sets(&self) -> Result<Vec<String>, DatapathError> {
        let others = self.other_sets()?;
        for path in others.iter().map(|name| self.root.join(name)) {
            std::fs::remove_dir_all(&path).map_err(at("remove", &path))?;
        }
        Ok(others)
    }
}

/// Takes everything pinned under `root` out of the kernel, links first, and returns what went. Nothing is touched
/// where something lies that no version of Shunt makes: [`DatapathError::Stranger`].
pub fn remove_all(root: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let mut removed = Vec::new();
    let links = root.join(LINKS);
    if let Some(stranger) = stranger(root)? {
        return Err(DatapathError::Stranger(stranger));
    }
    for name in read(&links)? {
        let path = links.join(&name);
        let link = Link::open_pinned(&path).map_err(at("open the link", &path))?;
        link.detach().map_err(at("detach the link", &path))?;
        removed.push(path);
    }
    removed.extend(filters::remove_all(&root.join(FILTERS))?);
    if read(root)?.is_empty() {
        return Ok(removed);
    }
    std::fs::remove_dir_all(root).map_err(at("remove", root))?;
    removed.push(root.to_owned());
    Ok(removed)
}

/// The first thing under `root` that no version of Shunt makes.
fn stranger(root: &Path) -> Result<Option<PathBuf>, DatapathError> {
    for name in read(root)? {
        let path = root.join(&name);
        if name == LINKS {
            let is_ours = |link: &&String| hooks::is_link_name(link);
            if let Some(stranger) = read(&path)?.iter().find(|link| !is_ours(link)) {
                return Ok(Some(path.join(stranger)));
            }
        } else if name == FILTERS {
            if let Some(stranger) = read(&path)?.iter().find(|device| !is_number(device)) {
                return Ok(Some(path.join(stranger)));
            }
        } else if !is_map_set(&name) {
            return Ok(Some(path));
        } else if let Some(stranger) = read(&path)?.iter().find(|map| path.join(map).is_dir()) {
            return Ok(Some(path.join(stranger)));
        }
    }
    Ok(None)
}

/// Whether a directory of this name holds the maps of some version: `v2`, `sockets1`, `v2_aside0`.
pub fn is_map_set(name: &str) -> bool {
    let (set, is_number_aside) = match name.split_once(ASIDE) {
        Some((set, count)) => (set, is_number(count)),
        None => (name, true),
    };
    is_number_aside
        && [TABLES, SOCKETS, FLOWS].iter().any(|kind| set.strip_prefix(kind).is_some_and(is_number))
}

pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Names of what is in a directory; none if there is no such directory.
pub fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub(super) fn read(directory: &Path) -> Result<Vec<String>, DatapathError> {
    names_in(directory).map_err(at("read", directory))
}

fn pinned_maps() -> Vec<Pinned> {
    let chunked = |layout: Chunked| Pinned {
        set: MapSet::Tables,
        name: layout.name,
        shape: Shape::array_of_maps(layout.max_chunks),
        inner: Some(crate::maps::store::chunk_shape(&layout)),
    };
    let plain = |name, shape| Pinned { set: MapSet::Tables, name, shape, inner: None };
    let of_sockets = |name, shape| Pinned { set: MapSet::Sockets, ..plain(name, shape) };
    let addr = 16;
    vec![
        chunked(names::SERVICES),
        chunked(names::SLOTS),
        chunked(names::BACKENDS),
        chunked(names::COUNTERS),
        chunked(names::OWNED),
        Pinned {
            set: MapSet::Tables,
            name: names::FRONTENDS,
            shape: Shape::array_of_maps(1),
            inner: Some(crate::maps::store::frontends_shape(0)),
        },
        plain(names::NODE_ADDRS, Shape::hash(addr, 4, names::NODE_ADDRS_MAX)),
        plain(names::CIDRS, Shape::lpm_trie(addr + 4, 4, names::CIDRS_MAX)),
        plain(names::GUARD, Shape::array(4, 1)),
        plain(names::NETNS, Shape::hash(8, size_of::<Namespace>() as u32, names::NETNS_MAX)),
        Pinned {
            set: MapSet::Tables,
            name: names::AFFINITY,
            shape: Shape::array_of_maps(1),
            inner: Some(affinity_shape(0)),
        },
        plain(names::SOURCES, Shape::lpm_trie(size_of::<SourceKey>() as u32, 4, names::SOURCES_MAX)),
        plain(names::FILTER, Shape::mapped_array(8, filter::WORDS)),
        of_sockets(names::TCP_PEERS, Shape::array(size_of::<TcpPeer>() as u32, PEER_PLACES)),
        of_sockets(names::TCP_SOCKETS, Shape::socket_storage(size_of::<TcpRecord>() as u32)),
        of_sockets(names::UDP_SOCKETS, Shape::socket_storage(size_of::<UdpRecord>() as u32)),
    ]
}

fn fits(found: Shape, expected: Shape) -> bool {
    let max_entries = if expected.max_entries == 0 { found.max_entries } else { expected.max_entries };
    found == Shape { max_entries, ..expected }
}

fn difference(name: &str, found: Shape, expected: Shape) -> String {
    format!("pinned map {name} is {found}, this version wants {expected}")
}

pub(super) fn at<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DatapathError + use<'a> {
    move |source| DatapathError::Path { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_map_sets_are_known_by_name() {
        let pin_dir = PinDir::new(Path::new("/pins"), 7);
        for set in MapSet::ALL {
            assert!(is_map_set(&pin_dir.name(set)));
        }
        for name in ["v2", "v17", "sockets1", "flows1", "v2_aside0", "sockets1_aside12", "flows2_aside0"] {
            assert!(is_map_set(name), "{name}");
        }
        for name in [
            "links",
            "v",
            "v1anything",
            "vault",
            "v2_aside",
            "v2_asidex",
            "v2_aside0_aside1",
            "sockets",
            "flows",
            "filters",
            "x1",
        ] {
            assert!(!is_map_set(name), "{name}");
        }
    }

    #[test]
    fn what_no_version_makes_is_a_stranger() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let found = || stranger(root).unwrap();
        assert_eq!(stranger(&root.join("absent")).unwrap(), None);
        for ours in ["links", "v1", "v2_aside0", "sockets1", "flows1", "filters", "filters/7"] {
            std::fs::create_dir(root.join(ours)).unwrap();
        }
        for link in ["connect4", "getpeername6_new", "ingress_12", "egress_3_new"] {
            std::fs::write(root.join("links").join(link), "").unwrap();
        }
        std::fs::write(root.join("v1/SERVICES"), "").unwrap();
        assert_eq!(found(), None);
        for strange in
            ["links/connect", "links/connect4.old", "links/ingress_", "letters", "v1letters", "filters/eth0"]
        {
            let path = root.join(strange);
            std::fs::write(&path, "").unwrap();
            assert_eq!(found(), Some(path.clone()));
            std::fs::remove_file(path).unwrap();
        }
        std::fs::create_dir(root.join("v1/letters")).unwrap();
        assert_eq!(found(), Some(root.join("v1/letters")));
    }
}
