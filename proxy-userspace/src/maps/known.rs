//! What the maps know of clients, for somebody who only looks: whose namespaces there are, and what was given to whom.

use std::cell::RefCell;
use std::io;

use proxy_common::addr::Addr;
use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::backend::Backend;
use proxy_common::lb::{Held, Lookup, row_of};
use proxy_common::names;
use proxy_common::registry::{Namespace, stand_in};
use proxy_common::service::Head;
use zerocopy::{FromBytes, IntoBytes};

use super::StoreError;
use super::clients::{ClientMaps, entries_of};
use crate::sys::map::Map;

/// What is known of clients.
#[derive(Debug)]
pub struct Known {
    maps: ClientMaps,
    /// None: no agent has made one yet.
    affinity: Option<Map>,
    failure: RefCell<Option<StoreError>>,
}

impl Known {
    /// Opens what `maps` hold; nothing is made.
    pub fn open(maps: ClientMaps) -> Result<Self, StoreError> {
        let affinity = maps.affinity.inner(0).map_err(kernel("open", names::AFFINITY))?;
        Ok(Self { maps, affinity, failure: RefCell::new(None) })
    }

    /// The registry: every namespace by its cookie.
    pub fn namespaces(&self) -> Result<Vec<(u64, Namespace)>, StoreError> {
        let (keys, values) = self.maps.netns.entries().map_err(kernel("dump", names::NETNS))?;
        let cookies = keys.chunks_exact(size_of::<u64>()).map(u64::read_from_bytes);
        let values = values.chunks_exact(size_of::<Namespace>()).map(Namespace::read_from_bytes);
        // Every chunk is as long as its type.
        Ok(cookies.zip(values).filter_map(|(cookie, value)| Some((cookie.ok()?, value.ok()?))).collect())
    }

    /// Everything that is remembered, in the order of the keys. Programs go on writing meanwhile, so an element may be
    /// missed.
    pub fn memories(&self) -> Result<Vec<(AffinityKey, Memory)>, StoreError> {
        let mut entries = self.affinity.as_ref().map_or(Ok(Vec::new()), entries_of)?;
        entries.sort_unstable_by_key(|(key, memory)| (*key, memory.used));
        entries.dedup_by_key(|(key, _)| *key);
        Ok(entries)
    }

    /// What is remembered under a key. To look does not count as use: the table forgets no later for it. A failure is
    /// kept for [`Self::check`].
    pub fn memory(&self, key: AffinityKey) -> Option<Memory> {
        let found = self.affinity.as_ref()?.lookup(key.as_bytes());
        match found.map_err(kernel("look up", names::AFFINITY)) {
            Ok(value) => value.and_then(|value| Memory::read_from_bytes(&value).ok()),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    /// Whether the egress guard is in force.
    pub fn is_guarded(&self) -> Result<bool, StoreError> {
        let word = self.maps.guard.lookup(&0_u32.to_ne_bytes()).map_err(kernel("look up", names::GUARD))?;
        Ok(word.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)))
    }

    /// Whether every look at single memories went well.
    pub fn check(&self) -> Result<(), StoreError> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// The cookie of the namespace that an address stands for, see [`stand_in`].
pub fn stands_for(addr: Addr) -> Option<u64> {
    let [.., high, low] = addr.words();
    let cookie = u64::from(high) << 32 | u64::from(low);
    (stand_in(cookie) == addr).then_some(cookie)
}

/// What a memory is worth to the client's next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It decides, wherever a view has the backend.
    Fresh,
    /// The client was away for too long.
    TimedOut,
    /// The endpoint is listed and serving no longer.
    Gone,
    /// The row is another endpoint's by now.
    Replaced,
    /// The service port has no session affinity, or is no more.
    Off,
}

impl Standing {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::TimedOut => "timed-out",
            Self::Gone => "gone",
            Self::Replaced => "replaced",
            Self::Off => "off",
        }
    }
}

/// Judges a memory of a service port by what the tables say at `now`.
pub fn standing(lookup: &impl Lookup, service: u32, memory: &Memory, now: u64) -> Standing {
    let seconds = lookup.head(service).map_or(0, Head::affinity_seconds);
    if seconds == 0 {
        return Standing::Off;
    }
    match backend_of(lookup, service, memory) {
        None => Standing::Replaced,
        Some(row) if !row.state().is_serving() => Standing::Gone,
        Some(_) if !memory.is_fresh(now, seconds) => Standing::TimedOut,
        Some(_) => Standing::Fresh,
    }
}

/// The row of a memory, if it still is the same endpoint's.
pub fn backend_of(lookup: &impl Lookup, service: u32, memory: &Memory) -> Option<Backend> {
    row_of(lookup, &Held { service, backend: memory.backend(), generation: memory.generation() })
}

fn kernel(call: &'static str, map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Kernel { call, map, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::live::Live;
    use crate::maps::memory;
    use crate::maps::{WordTable, Words};
    use crate::plan::ops::{cell_word, row_word};
    use proxy_common::addr::Port;
    use proxy_common::backend::BackendState;
    use proxy_common::service::Half;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_stand_in_tells_its_namespace_and_no_address_is_taken_for_one() {
        for cookie in [1, 4097, 1 << 40, u64::MAX] {
            assert_eq!(stands_for(stand_in(cookie)), Some(cookie));
        }
        for text in ["10.244.1.11", "fd00::7", "::1", "100:0:1::7"] {
            assert_eq!(stands_for(text.parse::<std::net::IpAddr>().unwrap().into()), None, "{text}");
        }
    }

    /// Service 3 with an affinity timeout of ten seconds, and its row 5.
    fn tables(state: BackendState) -> memory::Memory {
        let mut tables = memory::Memory::new(4);
        tables.ignore_breaches();
        tables.grow(WordTable::Services).unwrap();
        tables.grow(WordTable::Backends).unwrap();
        let addr = std::net::IpAddr::from([10, 1, 0, 1]).into();
        let row = Backend { addr, state: state.0, generation: 2, service: 3, port: Port::new(80), pad: 0 };
        tables.store(WordTable::Services, cell_word(3, 0), Head::new(Half::A, 10, 1).0).unwrap();
        for (index, word) in row.to_words().into_iter().enumerate() {
            tables.store(WordTable::Backends, row_word(5, index), word).unwrap();
        }
        tables
    }

    #[test]
    fn a_memory_is_worth_what_the_tables_say() {
        let serving = tables(BackendState::SERVING);
        let live = Live::new(&serving);
        let judge = |row, generation, age: u64| {
            let memory = Memory::new(row, generation, (100 - age) * SECOND);
            standing(&live, 3, &memory, 100 * SECOND)
        };
        assert_eq!(judge(5, 2, 10), Standing::Fresh);
        assert_eq!(judge(5, 2, 11), Standing::TimedOut);
        assert_eq!(judge(5, 1, 1), Standing::Replaced);
        assert_eq!(judge(6, 0, 1), Standing::Replaced, "no such row");
        let memory = Memory::new(5, 2, 100 * SECOND);
        assert_eq!(standing(&live, 4, &memory, 100 * SECOND), Standing::Off);
        let freed = tables(BackendState::FREE);
        assert_eq!(standing(&Live::new(&freed), 3, &memory, 100 * SECOND), Standing::Gone);
    }
}
