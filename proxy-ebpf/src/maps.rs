//! The maps, and [`Kernel`]: the [`Lookup`] that reads them. Every pointer that a map hands out is read here.

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, SkStorage};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_socket_cookie, bpf_spin_lock, bpf_spin_unlock,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{SockAddrContext, SockContext};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, ROW_WORDS};
use proxy_common::counter::{self, ServiceCounter, SocketCounter};
use proxy_common::filter;
use proxy_common::frontend::{FrontendKey, FrontendValue};
use proxy_common::lb::{DropReason, Lookup};
use proxy_common::names;
use proxy_common::node::NodeAddrFlags;
use proxy_common::owned::BLOCK_WORDS;
use proxy_common::service::{CELL_WORDS, Half, Head, View, ViewWord};
use proxy_common::socket::{PEER_PLACES, TcpPeer, TcpRecord, peer_place};
use proxy_common::source::SourceKey;
use proxy_common::udp::{Pairs, UdpRecord};

/// `BPF_F_MMAPABLE`: the agent writes through a mapping. The template needs it too, or the kernel refuses the chunk.
const MMAPABLE: usize = 1 << 10;
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
static TCP_PEERS: Array<TcpPeer, { PEER_PLACES as usize }> = Array::new();
#[btf_map]
static TCP_SOCKETS: SkStorage<TcpRecord> = SkStorage::new();
#[btf_map]
static UDP_SOCKETS: SkStorage<UdpRecord> = SkStorage::new();

/// Cookie of the agent's network namespace, set before the load: whoever has it is a host process.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);
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
    fn may_own(&self, addr: Addr) -> bool {
        filter::may_own(self, addr)
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
        cell_word(service, 0).map(Head)
    }

    #[inline(always)]
    fn view(&self, service: u32, half: Half, view: View) -> Option<ViewWord> {
        cell_word(service, half.word(view)).map(ViewWord)
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

#[inline(always)]
fn cell_word(service: u32, word: usize) -> Option<u64> {
    let cell =
        SERVICES.get_value_ptr_mut(names::SERVICES.chunk(service), &names::SERVICES.offset(service))?;
    // SAFETY: a cell is CELL_WORDS aligned words and every caller's index is below that.
    Some(unsafe { cell.cast::<u64>().add(word).read_volatile() })
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

/// Id of the root of the cgroup tree, where kernel threads are.
const ROOT_CGROUP: u64 = 1;

/// Remembers what a TCP socket dialled. A failure costs `getpeername` its answer, never the connection.
#[inline(always)]
pub fn remember_tcp(ctx: &SockAddrContext, record: &TcpRecord) {
    if !remember_in_place(ctx, record) {
        remember_on_socket(ctx, record);
    }
}

/// Puts the record into the socket's place, unless another socket has it.
#[inline(always)]
fn remember_in_place(ctx: &SockAddrContext, record: &TcpRecord) -> bool {
    // SAFETY: the helper takes nothing and returns a number.
    if unsafe { bpf_get_current_cgroup_id() } == ROOT_CGROUP {
        // Perhaps a socket of the kernel's own, as of NFS: no hook runs when it is closed, and its place would be lost.
        return false;
    }
    // SAFETY: the context is valid; the helper accepts it for every sock_addr program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(place) = TCP_PEERS.get_ptr_mut(peer_place(cookie)) else { return false };
    let mut holder = 0_u64;
    // SAFETY: the map returned a live, aligned element whose first word is the cookie. Whoever finds zero there has it,
    // also where two CPUs look at once; nobody else writes the record until the owner has given the place back.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {cookie})",
            place = in(reg) place,
            cookie = in(reg) cookie,
            inout("r0") holder,
        );
        if holder != 0 && holder != cookie {
            return false;
        }
        (&raw mut (*place).record).write(*record);
    }
    true
}

#[inline(always)]
fn remember_on_socket(ctx: &SockAddrContext, record: &TcpRecord) {
    let mut fresh = *record;
    // SAFETY: the storage belongs to the socket of this context, which is locked for the time of the hook.
    unsafe {
        let stored = TCP_SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut fresh));
        if let Some(stored) = stored.as_mut() {
            *stored = fresh;
        }
    }
}

/// What this TCP socket dialled, if that was translated. Its place comes first: a record there is never older.
#[inline(always)]
pub fn recall_tcp(ctx: &SockAddrContext) -> Option<TcpRecord> {
    // SAFETY: the context is valid; a place is read by its owner only, and both records are copied at once.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        match TCP_PEERS.get_ptr_mut(peer_place(cookie)) {
            Some(place) if cookie_of(place) == cookie => Some((*place).record),
            _ => TCP_SOCKETS.get_ptr_mut(ctx).as_ref().copied(),
        }
    }
}

/// Gives back the place of a socket that is being closed.
#[inline(always)]
pub fn forget_tcp(ctx: &SockContext) {
    // SAFETY: the context is valid; only the owner of a place clears it.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        if let Some(place) = TCP_PEERS.get_ptr_mut(peer_place(cookie))
            && cookie_of(place) == cookie
        {
            (&raw mut (*place).cookie).write_volatile(0);
        }
    }
}

/// # Safety
/// `place` is a live element of `TCP_PEERS`.
#[inline(always)]
unsafe fn cookie_of(place: *mut TcpPeer) -> u64 {
    // SAFETY: as the caller says; volatile, since other sockets' hooks may write meanwhile.
    unsafe { (&raw const (*place).cookie).read_volatile() }
}

/// The pairs of a UDP socket, locked. Nothing may be called meanwhile: the verifier would refuse it.
pub struct LockedPairs(*mut UdpRecord);

impl LockedPairs {
    /// Those of this socket, if it has any.
    #[inline(always)]
    pub fn of(ctx: &SockAddrContext) -> Option<Self> {
        // SAFETY: the storage belongs to the socket of this context.
        unsafe { Self::lock(UDP_SOCKETS.get_ptr_mut(ctx)) }
    }

    /// Those of this socket, made of zeroes if it has none. `None`: there is no memory.
    #[inline(always)]
    pub fn of_any(ctx: &SockAddrContext) -> Option<Self> {
        // SAFETY: the storage belongs to the socket of this context; without a value the kernel makes one of zeroes.
        unsafe { Self::lock(UDP_SOCKETS.get_or_insert_ptr_mut(ctx, None)) }
    }

    /// # Safety
    /// `record` is null or a live element of `UDP_SOCKETS`.
    #[inline(always)]
    unsafe fn lock(record: *mut UdpRecord) -> Option<Self> {
        if record.is_null() {
            return None;
        }
        // SAFETY: the record is live.
        unsafe { bpf_spin_lock((&raw mut (*record).lock).cast()) };
        Some(Self(record))
    }

    /// Reads or writes them.
    #[inline(always)]
    pub fn get(&mut self) -> &mut Pairs {
        // SAFETY: the record is live as long as the program runs, and whoever looks at its pairs holds its lock.
        unsafe { &mut (*self.0).pairs }
    }

    /// Lets others look.
    #[inline(always)]
    pub fn unlock(self) {
        // SAFETY: the record is live, and its lock is held.
        unsafe { bpf_spin_unlock((&raw mut (*self.0).lock).cast()) };
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
