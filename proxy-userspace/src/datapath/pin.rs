//! The pin directory: `<root>/v<schema>` holds the maps of one layout, `<root>/links` the links.
//!
//! A pinned map is reused only if the kernel says that it has the shape the object wants: the loader itself would
//! take any map of that name, and read past its values.

use std::io;
use std::path::{Path, PathBuf};

use proxy_common::filter;
use proxy_common::names::{self, Chunked};
use proxy_common::socket::{PEER_PLACES, TcpPeer, TcpRecord};
use rustix::fs::statfs;

use super::DatapathError;
use super::hooks::HOOKS;
use crate::sys::map::{Map, Shape};

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where objects are pinned.
#[derive(Clone, Debug)]
pub struct PinDir {
    root: PathBuf,
    schema: u32,
}

/// A map that is pinned, with the shape it must have.
struct Pinned {
    name: &'static str,
    shape: Shape,
    /// Shape of the maps inside, for an array of maps; `max_entries` zero stands for any.
    inner: Option<Shape>,
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

    /// Makes the directories.
    pub fn create(&self) -> Result<(), DatapathError> {
        for path in [self.maps(), self.links()] {
            std::fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        Ok(())
    }

    /// Directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("v{}", self.schema))
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Compares every pinned map with what the object wants. The first difference is returned: the maps then belong
    /// to another layout that carries our number, and must not be touched.
    pub fn foreign_map(&self) -> Result<Option<String>, DatapathError> {
        for pinned in pinned_maps() {
            let path = self.maps().join(pinned.name);
            let map = match Map::open_pinned(&path) {
                Ok(map) => map,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("open", &path)(error)),
            };
            if map.shape() != pinned.shape {
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

    /// Moves the maps aside, so that a fresh set can take their place while programs still use the old ones.
    pub fn set_aside(&self) -> Result<PathBuf, DatapathError> {
        let from = self.maps();
        for attempt in 0_u32.. {
            // A bpffs refuses names with a dot.
            let to = self.root.join(format!("v{}-aside{attempt}", self.schema));
            if !to.exists() {
                std::fs::rename(&from, &to).map_err(at("move aside", &from))?;
                break;
            }
        }
        self.create()?;
        Ok(from)
    }

    /// Removes the map directories of every other layout; programs that still use their maps keep them alive.
    pub fn remove_other_layouts(&self) -> Result<Vec<String>, DatapathError> {
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(at("read", &self.root))? {
            let entry = entry.map_err(at("read", &self.root))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_layout =
                name.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if is_layout && entry.path() != self.maps() {
                std::fs::remove_dir_all(entry.path()).map_err(at("remove", &entry.path()))?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Removes everything, links first. Returns what was removed.
    pub fn remove_all(root: &Path) -> Result<Vec<PathBuf>, DatapathError> {
        let mut removed = Vec::new();
        if !root.exists() {
            return Ok(removed);
        }
        let links = root.join("links");
        for hook in HOOKS {
            let path = links.join(hook.name);
            if let Ok(link) = crate::sys::link::Link::open_pinned(&path) {
                link.detach().map_err(|source| DatapathError::Link {
                    step: "detach",
                    hook: hook.name,
                    source,
                })?;
                removed.push(path);
            }
        }
        std::fs::remove_dir_all(root).map_err(at("remove", root))?;
        removed.push(root.to_owned());
        Ok(removed)
    }
}

fn pinned_maps() -> Vec<Pinned> {
    let chunked = |layout: Chunked| Pinned {
        name: layout.name,
        shape: Shape::array_of_maps(layout.max_chunks),
        inner: Some(crate::maps::store::chunk_shape(&layout)),
    };
    let plain = |name, shape| Pinned { name, shape, inner: None };
    let addr = 16;
    vec![
        chunked(names::SERVICES),
        chunked(names::SLOTS),
        chunked(names::BACKENDS),
        chunked(names::COUNTERS),
        chunked(names::OWNED),
        Pinned {
            name: names::FRONTENDS,
            shape: Shape::array_of_maps(1),
            inner: Some(crate::maps::store::frontends_shape(0)),
        },
        plain(names::NODE_ADDRS, Shape::hash(addr, 4, names::NODE_ADDRS_MAX)),
        plain(names::CIDRS, Shape::lpm_trie(addr + 4, 4, names::CIDRS_MAX)),
        plain(names::FILTER, Shape::mapped_array(8, filter::WORDS)),
        plain(names::TCP_PEERS, Shape::array(size_of::<TcpPeer>() as u32, PEER_PLACES)),
        plain(names::TCP_SOCKETS, Shape::socket_storage(size_of::<TcpRecord>() as u32)),
    ]
}

/// Names of the maps that are pinned.
pub fn pinned_map_names() -> impl Iterator<Item = &'static str> {
    pinned_maps().into_iter().map(|pinned| pinned.name)
}

fn fits(found: Shape, expected: Shape) -> bool {
    let max_entries = if expected.max_entries == 0 { found.max_entries } else { expected.max_entries };
    found == Shape { max_entries, ..expected }
}

fn difference(name: &str, found: Shape, expected: Shape) -> String {
    format!("pinned map {name} is {found}, this version wants {expected}")
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DatapathError + use<'a> {
    move |source| DatapathError::Path { step, path: path.to_owned(), source }
}
