//! The maps, and [`Kernel`]: the [`Lookup`] that reads them. Every pointer that a map hands out is read here and below.

pub mod clients;
pub mod sockets;

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SockAddrContext;
use proxy_common::addr::{Addr, Port, Proto};
use proxy_common::backend::{Backend, ROW_WORDS};
use proxy_common::counter::{self, ServiceCounter, SocketCounter};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::Lookup;
use proxy_common::names;
use proxy_common::node::NodeAddrFlags;
use proxy_common::owned::BLOCK_WORDS;
use proxy_common::reason::DropReason;
use proxy_common::service::{CELL_WORDS, Half, Head, View, ViewWord};
use proxy_common::source::SourceKey;

/// `BPF_F_MMAPABLE`: the agent writes through a mapping. The template of chunks needs it too, or the kernel refuses the chunk.
pub const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`: elements are allocated as they come.
const NO_PREALLOC: usize = 1;

/// What the ranges of `SOURCES` are matched against: [`SourceKey`] without its length, which aya's key adds.
#[repr(C)]
pub struct Client {
    service: u32,
    addr: Addr,
}

const _: () = assert!(size_of::<Key<Client>>() == size_of::<SourceKey>());

type Chunks<T, const ELEMENTS: usize, const MAX: usize> = ArrayOfMaps<Array<T, ELEMENTS, MMAPABLE>, MAX>;

const SERVICES_CHUNK: usize = names::SERVICES.chunk_elements() as usize;
const SLOTS_CHUNK: usize = names::SLOTS.chunk_elements() as usize;
const BACKENDS_CHUNK: usize = names::BACKENDS.chunk_elements() as usize;
const COUNTERS_CHUNK: usize = names::COUNTERS.chunk_elements() as usize;
const OWNED_CHUNK: usize = names::OWNED.chunk_elements() as usize;

#[btf_map]
static SERVICES: Chunks<[u64; CELL_WORDS], SERVICES_CHUNK, { names::SERVICES.max_chunks as usize }> =
    Chunks::new();
#[btf_map]
static SLOTS: Chunks<[u32; 2], SLOTS_CHUNK, { names::SLOTS.max_chunks as usize }> = Chunks::new();
#[btf_map]
static BACKENDS: Chunks<[u64; ROW_WORDS], BACKENDS_CHUNK, { names::BACKENDS.max_chunks as usize }> =
    Chunks::new();
#[btf_map]
static COUNTERS: Chunks<u64, COUNTERS_CHUNK, { names::COUNTERS.max_chunks as usize }> = Chunks::new();
#[btf_map]
static OWNED: Chunks<[u64; BLOCK_WORDS], OWNED_CHUNK, { names::OWNED.max_chunks as usize }> = Chunks::new();
#[btf_map]
static FRONTENDS: ArrayOfMaps<
    HashMap<FrontendKey, FrontendValue, { names::FRONTENDS_INITIAL as usize }, NO_PREALLOC>,
    1,
> = ArrayOfMaps::new();
#[btf_map]
static NODE_ADDRS: HashMap<Addr, NodeAddrFlags, { names::NODE_ADDRS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static CIDRS: LpmTrie<Addr, u32, { names::CIDRS_MAX as usize }> = LpmTrie::new();
#[btf_map]
static SOURCES: LpmTrie<Client, u32, { names::SOURCES_MAX as usize }> = LpmTrie::new();
#[btf_map]
static FILTER: Array<u64, { filter::WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static GUARD: Array<u32, 1> = Array::new();

/// Cookie of the agent's network namespace, set before the load: whoever has it is a host process.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);
/// Not zero: sockets of pods are left alone, since another hook serves them (`--socket-lb host`).
#[unsafe(no_mangle)]
pub static HOST_ONLY: Global<u32> = Global::new(0);
/// What no other node draws from, set before the load, see `proxy_common::draw`.
#[unsafe(no_mangle)]
pub static SEED: Global<u64> = Global::new(0);
/// Shards of each counter, a power of two, set before the load.
#[unsafe(no_mangle)]
pub static COUNTER_SHARDS: Global<u32> = Global::new(1);

/// The kernel's tables.
pub struct Kernel;

impl filter::Bits for Kernel {
    #[inline(always)]
    fn is_set(&self, bit: u32) -> bool {
        let (word, mask) = filter::position(bit);
        FILTER.get_ptr(word).is_some_and(|bits| {
            // SAFETY: the map returned a pointer to a live, aligned u64 element.
            unsafe { bits.read_volatile() & mask != 0 }
        })
    }
}

impl Lookup for Kernel {
    #[inline(always)]
    fn may_own(&self, _: Addr) -> bool {
        // Every hook asks before it decides, see `sock::concerned`; without that a decision takes longer, and is the same.
        true
    }

    #[inline(always)]
    fn may_serve(&self, port: Port, proto: Proto) -> bool {
        filter::may_serve(self, port, proto)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        // SAFETY: the value is copied at once; the writer waits for a grace period before an element is reused.
        unsafe { FRONTENDS.get(0)?.get(key).copied() }
    }

    #[inline(always)]
    fn node_addr(&self, addr: Addr) -> Option<NodeAddrFlags> {
        // SAFETY: as in `frontend`.
        unsafe { NODE_ADDRS.get(addr).copied() }
    }

    #[inline(always)]
    fn in_service_cidr(&self, addr: Addr) -> bool {
        CIDRS.get(&Key::new(128, addr)).is_some()
    }

    #[inline(always)]
    fn is_allowed_source(&self, service: u32, addr: Addr) -> bool {
        SOURCES.get(&Key::new(SourceKey::CLIENT_BITS, Client { service, addr })).is_some()
    }

    #[inline(always)]
    fn owned_word(&self, block: u32, word: usize) -> Option<u64> {
        let bits = OWNED.get_value_ptr_mut(names::OWNED.chunk(block), &names::OWNED.offset(block))?;
        // SAFETY: a block is BLOCK_WORDS aligned words and the index is masked below that.
        Some(unsafe { bits.cast::<u64>().add(word % BLOCK_WORDS).read_volatile() })
    }

    #[inline(always)]
    fn head(&self, service: u32) -> Option<Head> {
        cell(service).map(|cell| Head(word_of(cell, 0)))
    }

    #[inline(always)]
    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        cell(service).map(|cell| ViewWord(word_of(cell, half.word(view))))
    }

    #[inline(always)]
    fn in_force(&self, service: u32, view: View) -> Option<(Head, ViewWord)> {
        let cell = cell(service)?;
        let head = Head(word_of(cell, 0));
        Some((head, ViewWord(word_of(cell, head.half().word(view)))))
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<u32> {
        let element = slot / 2;
        let ids = SLOTS.get_value_ptr_mut(names::SLOTS.chunk(element), &names::SLOTS.offset(element))?;
        // SAFETY: the element holds two aligned u32 and the index is 0 or 1.
        Some(unsafe { ids.cast::<u32>().add((slot % 2) as usize).read_volatile() })
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        let row = BACKENDS.get_value_ptr_mut(names::BACKENDS.chunk(id), &names::BACKENDS.offset(id))?;
        let words = row.cast::<u64>();
        // SAFETY: the element is four aligned words; volatile, since the agent may write the state meanwhile.
        Some(unsafe {
            Backend::from_words([
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ])
        })
    }
}

/// Whether the egress guard is in force.
#[inline(always)]
pub fn is_guarded() -> bool {
    GUARD.get_ptr(0).is_some_and(|word| {
        // SAFETY: the map returned a pointer to a live, aligned u32 element.
        unsafe { word.read_volatile() != 0 }
    })
}

#[inline(always)]
fn cell(service: u32) -> Option<*mut [u64; CELL_WORDS]> {
    SERVICES.get_value_ptr_mut(names::SERVICES.chunk(service), &names::SERVICES.offset(service))
}

/// A word of a cell that [`cell`] found.
#[inline(always)]
fn word_of(cell: *mut [u64; CELL_WORDS], word: usize) -> u64 {
    // SAFETY: a cell is CELL_WORDS aligned words and every caller's index is below that.
    unsafe { cell.cast::<u64>().add(word).read_volatile() }
}

/// Counts something that happened to a service.
#[inline(always)]
pub fn count_service(service: u32, counter: ServiceCounter) {
    let (shards, shard) = shard();
    add_one(counter::service_element(service, counter, shards, shard));
}

/// Counts a refusal by its reason.
#[inline(always)]
pub fn count_reason(reason: DropReason) {
    let (shards, shard) = shard();
    add_one(counter::reason_element(reason as u8, shards, shard));
}

/// Counts something that happened to a socket.
#[inline(always)]
pub fn count_socket(counter: SocketCounter) {
    let (shards, shard) = shard();
    add_one(counter::socket_element(counter, shards, shard));
}

#[inline(always)]
fn shard() -> (u32, u32) {
    let shards = COUNTER_SHARDS.load();
    // SAFETY: the helper takes nothing and returns a number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    (shards, cpu & shards.wrapping_sub(1))
}

#[inline(always)]
fn add_one(element: u32) {
    let (chunk, offset) = (names::COUNTERS.chunk(element), names::COUNTERS.offset(element));
    if let Some(counter) = COUNTERS.get_value_ptr_mut(chunk, &offset) {
        // SAFETY: the map returned a live, aligned u64. A plain add would lose counts where programs preempt each
        // other on one CPU, and the target has no atomic read-modify-write in Rust.
        unsafe {
            core::arch::asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1_u64);
        }
    }
}

/// Whether the socket is bound to a device (SO_BINDTODEVICE): such sockets are left alone.
#[inline(always)]
pub fn is_device_bound(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid for the time of the program; `sk` is null-checked before it is read.
    unsafe {
        let sk: *mut bpf_sock =
            (*ctx.as_ptr().cast::<aya_ebpf::bindings::bpf_sock_addr>()).__bindgen_anon_1.sk;
        !sk.is_null() && (*sk).bound_dev_if != 0
    }
}
