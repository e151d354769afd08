//! What is remembered of open sockets.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::btf_maps::{Array, SkStorage};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_socket_cookie, bpf_sk_storage_get, bpf_spin_lock, bpf_spin_unlock,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext};
use proxy_common::socket::{PEER_PLACES, TcpPeer, TcpRecord, peer_place};
use proxy_common::udp::{Pairs, UdpRecord};

#[btf_map]
static TCP_PEERS: Array<TcpPeer, { PEER_PLACES as usize }> = Array::new();
#[btf_map]
static TCP_SOCKETS: SkStorage<TcpRecord> = SkStorage::new();
#[btf_map]
static UDP_SOCKETS: SkStorage<UdpRecord> = SkStorage::new();

/// Id of the root of the cgroup tree, where kernel threads are.
const ROOT_CGROUP: u64 = 1;

/// The cookie of a socket: never zero, and never another's.
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid; the helper accepts it for every sock_addr program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Remembers what the TCP socket with this cookie dialled; says whether that was possible.
#[inline(always)]
pub fn remember_tcp(ctx: &SockAddrContext, cookie: u64, record: &TcpRecord) -> bool {
    remember_in_place(cookie, record) || remember_on_socket(ctx, record)
}

/// Puts the record into the socket's place, unless another socket has it.
#[inline(always)]
fn remember_in_place(cookie: u64, record: &TcpRecord) -> bool {
    // SAFETY: the helper takes nothing and returns a number.
    if unsafe { bpf_get_current_cgroup_id() } == ROOT_CGROUP {
        // Perhaps a socket of the kernel's own, as of NFS: no hook runs when it is closed, and its place would be lost.
        return false;
    }
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
fn remember_on_socket(ctx: &SockAddrContext, record: &TcpRecord) -> bool {
    let mut fresh = *record;
    // SAFETY: the storage belongs to the socket of this context, which is locked for the time of the hook.
    unsafe {
        let stored = TCP_SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut fresh));
        if let Some(stored) = stored.as_mut() {
            *stored = fresh;
            return true;
        }
    }
    false
}

/// What this TCP socket dialled, if that was translated. Its place comes first: a record there is never older.
#[inline(always)]
pub fn recall_tcp(ctx: &SockAddrContext) -> Option<TcpRecord> {
    let cookie = cookie(ctx);
    // SAFETY: a place is read by its owner only, and both records are copied at once.
    unsafe {
        match TCP_PEERS.get_ptr_mut(peer_place(cookie)) {
            Some(place) if cookie_of(place) == cookie => Some((*place).record),
            _ => TCP_SOCKETS.get_ptr_mut(ctx).as_ref().copied(),
        }
    }
}

/// The same for the socket that a packet comes from.
#[inline(always)]
pub fn recall_tcp_of(ctx: &SkBuffContext, socket: *mut bpf_sock) -> Option<TcpRecord> {
    // SAFETY: the context is valid, the socket is its own, and both records are copied at once.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        match TCP_PEERS.get_ptr_mut(peer_place(cookie)) {
            Some(place) if cookie_of(place) == cookie => Some((*place).record),
            _ => {
                let map = (&raw const TCP_SOCKETS).cast_mut().cast();
                let stored = bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0);
                stored.cast::<TcpRecord>().as_ref().copied()
            }
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

/// `TCP_ESTABLISHED`, which a connected UDP socket is too.
const ESTABLISHED: u32 = 1;

/// Whether the socket is connected.
#[inline(always)]
pub fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid for the time of the program; `sk` is null-checked before it is read.
    unsafe {
        let sk: *mut bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        !sk.is_null() && (&raw const (*sk).state).read_volatile() == ESTABLISHED
    }
}

/// Keeps whose socket this is: the process that connects it.
#[inline(always)]
pub fn own_udp(ctx: &SockAddrContext, tgid: u32, netns: u64) {
    // SAFETY: the storage belongs to the socket of this context; the words are read one by one by the iterator.
    unsafe {
        let record = UDP_SOCKETS.get_ptr_mut(ctx);
        if !record.is_null() {
            (&raw mut (*record).tgid).write_volatile(tgid);
            (&raw mut (*record).netns).write_volatile(netns);
        }
    }
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

    /// Those of the socket that a packet comes from.
    #[inline(always)]
    pub fn of_socket(socket: *mut bpf_sock) -> Option<Self> {
        let map = (&raw const UDP_SOCKETS).cast_mut().cast();
        // SAFETY: the socket is that of the program's packet, and lives as long as the program runs.
        unsafe { Self::lock(bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0).cast()) }
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
