//! Who a client is: its network namespace, the address of that, and what it was given before.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{ArrayOfMaps, HashMap, LruHashMap, RingBuf};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use proxy_common::addr::Addr;
use proxy_common::affinity::{AffinityKey, Memory};
use proxy_common::names;
use proxy_common::registry::{Event, Namespace, stand_in};

use super::NO_PREALLOC;

/// `BPF_NOEXIST`: of two hooks that meet a namespace at the same time, one inserts.
const NO_EXIST: u64 = 1;

#[btf_map]
static NETNS: HashMap<u64, Namespace, { names::NETNS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static EVENTS: RingBuf<Event, { names::EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
static AFFINITY: ArrayOfMaps<LruHashMap<AffinityKey, Memory, { names::AFFINITY_INITIAL as usize }>, 1> =
    ArrayOfMaps::new();

/// Process that moves connected UDP sockets, as the initial PID namespace numbers it; set before the load.
#[unsafe(no_mangle)]
static MOVER: Global<u32> = Global::new(0);

/// The calling process, as the initial PID namespace numbers it.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether the caller is the agent, on its way to move somebody's socket.
#[inline(always)]
pub fn is_mover() -> bool {
    let mover = MOVER.load();
    mover != 0 && mover == tgid()
}

/// Tells the agent something, if there is room.
#[inline(always)]
pub fn report(netns: u64, kind: u32) -> bool {
    EVENTS.output(Event { netns, tgid: tgid(), kind }, 0).is_ok()
}

/// Reports a namespace that is not in the registry, once.
#[inline(always)]
pub fn meet(netns: u64) {
    if NETNS.get_ptr(netns).is_none()
        && NETNS.insert(netns, Namespace::pending(), NO_EXIST).is_ok()
        && !report(netns, Event::UNKNOWN_NETNS)
    {
        // The ring is full: without the mark the next hook reports again.
        let _ = NETNS.remove(netns);
    }
}

/// The address that a client in a namespace is known by, if it is known.
#[inline(always)]
fn address(netns: u64, is_v4: bool) -> Option<Addr> {
    // SAFETY: the value is copied at once; the agent replaces entries whole.
    let namespace = unsafe { NETNS.get(netns).copied() }?;
    namespace.address(is_v4)
}

/// What is remembered of a client, and not older than `seconds`. One that has become known since is remembered under what
/// stood for it.
#[inline(always)]
pub fn remembered(netns: u64, (service, is_v4): (u32, bool), seconds: u32) -> Option<Memory> {
    let known = address(netns, is_v4).unwrap_or(stand_in(netns));
    let mut found = memory(AffinityKey { service, client: known });
    if found.is_none() {
        found = memory(AffinityKey { service, client: stand_in(netns) });
    }
    found.filter(|memory| memory.is_fresh(now(), seconds))
}

/// Nanoseconds of the kernel's monotonic clock, as of its last tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// What is remembered under a key, however old it is.
#[inline(always)]
pub fn memory(key: AffinityKey) -> Option<Memory> {
    let words = AFFINITY.get(0)?.get_ptr(key)?.cast::<u64>();
    // SAFETY: the map returned a pointer to a live element of two aligned words.
    Some(Memory::from_words(unsafe { [words.read_volatile(), words.add(1).read_volatile()] }))
}

/// Remembers the row, with its generation, that a client was given.
#[inline(always)]
pub fn remember(netns: u64, (service, is_v4): (u32, bool), (backend, generation): (u32, u32)) {
    let memory = Memory::new(backend, generation, now());
    let client = address(netns, is_v4).unwrap_or(stand_in(netns));
    keep(AffinityKey { service, client }, memory);
}

/// Remembers something under a key.
#[inline(always)]
pub fn keep(key: AffinityKey, memory: Memory) {
    let Some(table) = AFFINITY.get(0) else { return };
    if let Some(element) = table.get_ptr_mut(key) {
        let (words, element) = (memory.to_words(), element.cast::<u64>());
        // SAFETY: as in `memory`; a reader may see one word of either, and checks the row before it uses it.
        unsafe {
            element.write_volatile(words[0]);
            element.add(1).write_volatile(words[1]);
        }
    } else {
        // It fails only where the table is being used up at this very moment: the next connection tries again.
        let _ = table.insert(key, memory, 0);
    }
}
