//! Memory of this process and of the maps, as the kernel accounts for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use shunt::datapath::pin::PinDir;
use shunt::sys::map::{Map, Shape};

/// `RssAnon` of this process in bytes: heap and stacks, without mapped maps and program text.
pub(super) fn anonymous() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read own status")?;
    let kilobytes: u64 = field(&status, "RssAnon:").context("no RssAnon")?;
    Ok(kilobytes * 1024)
}

/// Bytes of each pinned map, those inside a map of maps included: `memlock` of its descriptor, which
/// since Linux 6.4 is what the map really uses, with every hash element that there is.
pub(in crate::bench) fn maps(pin_dir: &PinDir) -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for (name, path) in pin_dir.map_paths() {
        let outer = Map::open_pinned(&path).with_context(|| format!("open {}", path.display()))?;
        let mut bytes = locked(&outer)?;
        if outer.shape().map_type == Shape::array_of_maps(1).map_type {
            for index in 0..outer.shape().max_entries {
                let Some(inner) = outer.inner(index)? else { break };
                bytes += locked(&inner)?;
            }
        }
        sizes.insert(name.to_owned(), bytes);
    }
    Ok(sizes)
}

fn locked(map: &Map) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    field(&text, "memlock:").with_context(|| format!("{path} has no memlock"))
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_the_number_after_its_name() {
        let text = "Name:\tx\nRssAnon:\t    1234 kB\nmemlock:\t528384\n";
        assert_eq!((field(text, "RssAnon:"), field(text, "memlock:")), (Some(1_234), Some(528_384)));
        assert_eq!(field(text, "RssFile:"), None);
    }

    #[test]
    fn a_grown_heap_is_seen() {
        let before = anonymous().unwrap();
        let heap = vec![1_u8; 32 << 20];
        assert!(anonymous().unwrap() >= before + (30 << 20), "{} bytes more", heap.len());
    }
}
