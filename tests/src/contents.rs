//! Everything that pinned maps hold, byte by byte, to be compared over a restart.
//!
//! Counters, socket records and what is known of clients are left out: traffic changes them, agents don't.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use proxy_common::addr::Addr;
use proxy_common::frontend::FrontendKey;
use proxy_common::names;
use shunt::datapath::load::open_pinned_maps;
use shunt::datapath::pin::PinDir;
use shunt::maps::adopt::adopt;
use shunt::maps::render;
use shunt::maps::store::KernelStore;
use shunt::sys::map::{Map, Shape};

/// Elements as key and value, in the order of keys.
type Elements = Vec<(Vec<u8>, Vec<u8>)>;

/// Maps whose elements lie on sockets: they cannot be listed.
const OF_SOCKETS: [&str; 2] = [names::TCP_SOCKETS, names::UDP_SOCKETS];

/// The contents of all maps of a pin directory; inner maps by name and index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contents {
    maps: BTreeMap<String, Elements>,
}

impl Contents {
    /// Reads all maps pinned below `root` under the layout version `schema`; nothing may write them meanwhile.
    pub fn read(root: &Path, schema: u32) -> Result<Self> {
        let of_traffic = [names::COUNTERS.name, names::TCP_PEERS, names::NETNS, names::AFFINITY].into_iter();
        Self::read_without(root, schema, &of_traffic.chain(OF_SOCKETS).collect::<Vec<_>>())
    }

    /// The same with what traffic changes, which there must be none of; only what lies on sockets is left out.
    pub fn read_all(root: &Path, schema: u32) -> Result<Self> {
        Self::read_without(root, schema, &OF_SOCKETS)
    }

    fn read_without(root: &Path, schema: u32, left_out: &[&str]) -> Result<Self> {
        let pin_dir = PinDir::new(root, schema);
        let mut maps = BTreeMap::new();
        for (name, path) in pin_dir.map_paths().filter(|(name, _)| !left_out.contains(name)) {
            let map = Map::open_pinned(&path).with_context(|| format!("open map {name}"))?;
            if map.shape().map_type == Shape::array_of_maps(1).map_type {
                for index in 0..map.shape().max_entries {
                    let Some(inner) = map.inner(index)? else { break };
                    maps.insert(format!("{name}[{index}]"), elements(&inner)?);
                }
            } else {
                maps.insert(name.to_owned(), elements(&map)?);
            }
        }
        Ok(Self { maps })
    }

    /// One number for all of it.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Maps whose contents are not those of `other`.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let names = self.maps.keys().chain(other.maps.keys());
        let mut different: Vec<&str> =
            names.filter(|name| self.maps.get(*name) != other.maps.get(*name)).map(|name| &**name).collect();
        different.sort_unstable();
        different.dedup();
        different
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.maps.values().flatten().map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// How often the cell behind the TCP frontend `vip` was switched, read from the maps pinned below `root`.
pub fn head_sequence(root: &Path, schema: u32, vip: SocketAddr) -> Result<u32> {
    let store = KernelStore::open(open_pinned_maps(&PinDir::new(root, schema))?)?;
    let actual = adopt(&store)?.actual;
    let is_vip = |key: &FrontendKey| key.addr == Addr::from(vip.ip()) && key.port.get() == vip.port();
    let frontends = render::frontends(&actual);
    let tag = frontends.iter().find(|row| is_vip(&row.key)).map(|row| row.tag);
    let row = render::services(&actual).into_iter().find(|row| Some(row.tag) == tag);
    row.map(|row| row.sequence).with_context(|| format!("no cell behind {vip}"))
}

fn elements(map: &Map) -> Result<Elements> {
    let (keys, values) = map.entries()?;
    let Shape { key_size, value_size, .. } = map.shape();
    let pairs = keys.chunks_exact(key_size as usize).zip(values.chunks_exact(value_size as usize));
    let mut elements: Elements = pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    elements.sort_unstable();
    Ok(elements)
}
